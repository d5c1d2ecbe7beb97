"""Encoding: the latents of every layout of a manifest, and of its variants if wanted."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from core.checkpoints.loading import load_autoencoder
from core.config.experiment import ExperimentConfig
from core.data.latents import ROW_COLUMN, write_packed
from core.data.layout_groups import VARIANTS
from core.data.layout_scale import SCALE_COLUMN, picture_scale
from core.data.layouts import LayoutPictures, scaled
from core.data.manifest import is_augmented, read_manifest
from core.data.palette_file import read_palette
from core.data.variants import COUNT, variant
from core.networks.autoencoder import Autoencoder
from core.records.workspace import Workspace
from core.runtime import distributed
from core.runtime.errors import InputError
from core.runtime.escaping import write_csv
from core.runtime.files import atomic_write
from core.runtime.prefetching import prefetch_map
from core.runtime.progress import each

LATENTS_NAME = "latents.npy"

# Values of a manifest's column, or one value for all rows.
_Column = str | np.ndarray | list[str] | list[str | None]

_PARTS = "parts"
# Layouts per batch of the encoder.
_BATCH = 16
# Latents per part file, after which a state may be kept: a whole number of batches in every variant.
_PART = _BATCH * COUNT * 2


def encode_layouts(config: ExperimentConfig, workspace: Workspace) -> dict[str, Any]:
    """Numbers of latents and layouts, after writing `latents.npy` ([N, C, h, w] float32) and `manifest.csv`.

    The manifest has the columns of its source, `latent_path`, `latent_row`, and `pixels_per_metre`, which cannot be
    measured at the working size. With `dataset.augment` it has eight rows per original, unless the source already holds
    variants. Pictures are written to `images/` at the working size, so that the folder is complete and can be moved.
    Parts that exist in `parts/` are not encoded again. `training.num_workers` threads read and write pictures ahead of
    the model.
    """
    rgb = config.dataset.outputs.rgb
    rows = read_manifest(config.required("dataset.manifest"), [rgb], config.dataset)
    _refuse_equal_names(rows, rgb)
    palette = read_palette(config)
    pictures = LayoutPictures(rows, rgb, config.dataset.image_size, palette)
    if workspace.writes and SCALE_COLUMN not in rows.columns:
        scale = partial(picture_scale, size=config.dataset.image_size, palette=palette)
        rows[SCALE_COLUMN] = list(prefetch_map(scale, rows[rgb], config.training.num_workers))
    augment = config.dataset.augment and not is_augmented(rows).any()
    entries = _entries(rows, augment, config)
    device = distributed.own_device(config.training.device)
    autoencoder = load_autoencoder(config.required("autoencoder.checkpoint"), config).to(device)
    parts = _encode(rows, pictures, COUNT if augment else 1, autoencoder, config, workspace)
    if not workspace.writes:
        return {}
    workspace.settle()
    with atomic_write(workspace.folder / LATENTS_NAME) as file:
        write_packed((np.load(part) for part in parts), len(entries), config.latent_shape, file)
    shutil.rmtree(workspace.folder / _PARTS)
    with atomic_write(workspace.folder / "manifest.csv") as file:
        # Columns that later stages read, and those that filters compare.
        filtered = [part for name in config.dataset.filters for part in (name, name.rpartition("__")[0])]
        kept = (*config.dataset.outputs.model_dump().values(), "original_path", *filtered)
        write_csv(entries.drop(columns=["manifest_row", "stem", "group"]), file, kept)
    return {"latents": len(entries), "layouts": int(rows["group"].nunique())}


def _refuse_equal_names(rows: pd.DataFrame, column: str) -> None:
    """InputError if two rows name the same picture, or pictures in different folders with the same name."""
    first: dict[str, int] = {}
    for row, (stem, path) in enumerate(zip(rows["stem"], rows[column], strict=True)):
        before = first.setdefault(stem, row)
        if before == row:
            continue
        numbers = f"manifest rows {rows['manifest_row'][before] + 1} and {rows['manifest_row'][row] + 1}"
        if path == rows[column][before]:
            raise InputError(f"{numbers} name the same picture {path}: remove one")
        raise InputError(f"{numbers} are both called {stem}: they would share files; rename one")


def _entries(rows: pd.DataFrame, augment: bool, config: ExperimentConfig) -> pd.DataFrame:
    """The new manifest's rows in the order of the latents: by batch of layouts, then by variant, then by layout."""
    order = [
        (row, index)
        for batch in _batches(range(len(rows)))
        for index in range(COUNT if augment else 1)
        for row in batch
    ]
    positions, variants = np.array(order).T
    entries: pd.DataFrame = rows.iloc[positions].reset_index(drop=True)
    outputs, columns = config.dataset.outputs, dict[str, _Column]()
    if augment:
        columns = {
            "is_augmented": variants > 0,
            "augmentation_id": variants,
            "augmentation_type": [VARIANTS[index - 1] if index else None for index in variants],
            "original_path": [
                _original_name(stem, path) for stem, path in zip(entries["stem"], entries[outputs.rgb], strict=True)
            ],
        }
    elif "original_path" in entries.columns:
        # If a layout got a longer name than its file's, so did its original.
        longer = [stem != Path(path).stem for stem, path in zip(entries["stem"], entries[outputs.rgb], strict=True)]
        renamed = pd.Series(longer, entries.index, dtype=bool) & entries["original_path"].notna()
        entries["original_path"] = entries["original_path"].where(~renamed, entries["group"] + ".png")
    names = [_picture_name(stem, index) for stem, index in zip(entries["stem"], variants, strict=True)]
    places: dict[str, _Column] = {outputs.latent: LATENTS_NAME, ROW_COLUMN: np.arange(len(entries)), outputs.rgb: names}
    for name, values in (places | columns).items():
        entries[name] = values
    return entries


def _encode(
    rows: pd.DataFrame,
    pictures: LayoutPictures,
    variants: int,
    autoencoder: Autoencoder,
    config: ExperimentConfig,
    workspace: Workspace,
) -> list[Path]:
    """Part files [n, C, h, w] of all latents, in order, after encoding the missing ones and writing their pictures.

    Of several processes each makes some of the parts.
    """
    size, device = _PART // variants, autoencoder.device
    layouts = {
        workspace.folder / _PARTS / f"latents_{start:06d}.npy": range(start, min(start + size, len(rows)))
        for start in range(0, len(rows), size)
    }
    missing = distributed.own(distributed.from_first([part for part in layouts if not part.exists()]))

    def draw(row: int) -> np.ndarray:
        """Every variant of a layout, uint8 [variants, H, W, 3], after writing their pictures."""
        picture = pictures.read(row)
        views = np.stack([variant(picture, index) for index in range(variants)])
        for index, view in enumerate(views):
            path = workspace.folder / _picture_name(rows["stem"][row], index)
            with atomic_write(path, on_disk=False) as file:
                Image.fromarray(view).save(file, format="PNG")
        return views

    rows_missing = (row for part in missing for row in layouts[part])
    # Closed at once on an error, so that no thread writes to a folder that is being removed.
    with closing(prefetch_map(draw, rows_missing, config.training.num_workers)) as drawn:
        for part in each(missing, "encoding layouts", "parts"):
            latents = []
            for batch in _batches(layouts[part]):
                for views in np.stack([next(drawn) for _ in batch], axis=1):
                    latents.append(autoencoder.encode(scaled(torch.from_numpy(views).to(device))).cpu())
            with atomic_write(part, on_disk=False) as file:
                np.save(file, torch.cat(latents).numpy())
            workspace.keep_files(f"{layouts[part].stop} of {len(rows)} layouts")
    distributed.wait_for_all()
    return list(layouts)


def _batches(rows: range) -> Iterator[range]:
    return (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))


def _original_name(stem: str, path: str) -> str:
    """The name of an original's picture: that of its file, unless the layout got a longer name."""
    return Path(path).name if Path(path).stem == stem else f"{stem}.png"


def _picture_name(stem: str, index: int) -> str:
    return f"images/{stem}_{VARIANTS[index - 1]}.png" if index else f"images/{stem}.png"
