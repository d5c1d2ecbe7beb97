"""A palette of five classes in colours of its own, and generated layouts redrawn in it."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from core.data.palette import DEFAULT_PALETTE, Palette

# Walls and background come first: no class has the index that it has in the default palette.
OWN = Palette.of(
    {
        "wall": (20, 20, 20),
        "background": (250, 250, 250),
        "storage": (30, 30, 200),
        "rest & more": (30, 180, 60),
        "bed": (200, 30, 30),
    }
)
# The own class of each default one that is not of the same name.
_MERGED = {"cabinet": "storage", "table": "storage"}
OWN_CLASSES = np.array(
    [
        OWN.names.index(name if name in OWN.names else _MERGED.get(name, "rest & more"))
        for name in DEFAULT_PALETTE.names
    ],
    np.uint8,
)


def write_palette(path: Path, palette: Palette = OWN) -> Path:
    """The file at `path` after writing the palette to it, as people do: every second colour in hexadecimal."""
    lines = [
        f'"{name}": ' + (f'"#{bytes(colour).hex()}"' if number % 2 else str(list(colour)))
        for number, (name, colour) in enumerate(zip(palette.names, palette.colours, strict=True))
    ]
    path.write_text("\n".join(["# colours of our layouts", *lines, ""]))
    return path


def redraw(manifest: Path, folder: Path) -> Path:
    """Manifest in `folder` of the layouts of `manifest`, whose pictures are redrawn in the palette `OWN`."""
    rows = pd.read_csv(manifest)
    for name in rows["layout_path"]:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        classes = DEFAULT_PALETTE.classes_from_rgb(np.asarray(Image.open(manifest.parent / name)))
        Image.fromarray(OWN.rgb_from_classes(OWN_CLASSES[classes])).save(target)
    return Path(shutil.copy(manifest, folder / "manifest.csv"))
