"""Latents of every layout of a manifest, with rotated and mirrored variants if they are wanted."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from core.autoencoder import Autoencoder
from core.checkpoints import load_autoencoder
from core.config import ExperimentConfig
from core.device import pick_device
from core.errors import InputError
from core.files import save_tensors, whole_file
from core.layouts import LayoutPictures, pictures_from_rgb
from core.manifest import VARIANTS, is_augmented, read_manifest
from core.progress import each
from core.variants import variant
from core.workspace import Workspace

_BATCH = 16


def encode_layouts(config: ExperimentConfig, workspace: Workspace) -> dict[str, Any]:
    """Number of latents after writing `latents/*.pt` ([C, h, w] float32) and `manifest.csv` to the workspace.

    The manifest has the source's columns and `latent_path`, and with `dataset.augment` eight rows an original.
    Pictures are written to `images/` at the working size, so that the folder stands for itself wherever it lies.
    Sources that hold variants are encoded as they are. Latents that are there already are not made again.
    """
    rgb = config.dataset.outputs.rgb
    rows = read_manifest(config.dataset.manifest, [rgb], config.dataset)
    _refuse_equal_names(rows)
    augment = config.dataset.augment and not is_augmented(rows).any()
    device = pick_device(config.training.device)
    autoencoder = load_autoencoder(config.autoencoder.checkpoint, config).to(device)
    pictures = LayoutPictures(rows, rgb, config.dataset.image_size)
    entries = []
    for start in each(range(0, len(rows), _BATCH), "encoding layouts", "batches"):
        batch = rows.iloc[start : start + _BATCH]
        for index in range(len(VARIANTS) + 1 if augment else 1):
            entries += _encode(batch, index, augment, pictures, autoencoder, config, workspace.folder)
        workspace.keep_files(f"{min(start + _BATCH, len(rows))} of {len(rows)} layouts")
    with whole_file(workspace.folder / "manifest.csv") as file:
        pd.DataFrame(entries).drop(columns=["manifest_row", "stem", "group"]).to_csv(file, index=False)
    return {"latents": len(entries), "layouts": int(rows["group"].nunique())}


def _refuse_equal_names(rows: pd.DataFrame) -> None:
    if rows["stem"].duplicated().any():
        name = rows["stem"][rows["stem"].duplicated()].iloc[0]
        raise InputError(f"two layouts of the manifest are called {name}: their latents would share a file; rename one")


def _encode(
    batch: pd.DataFrame,
    index: int,
    augment: bool,
    pictures: LayoutPictures,
    autoencoder: Autoencoder,
    config: ExperimentConfig,
    folder: Path,
) -> list[dict[str, Any]]:
    """Manifest rows of one variant of a batch of layouts, after writing its latents (and pictures)."""
    suffix = f"_{VARIANTS[index - 1]}" if index else ""
    names = [f"{stem}{suffix}" for stem in batch["stem"]]
    if not all((folder / "latents" / f"{name}.pt").exists() for name in names):
        rgb = np.stack([variant(pictures.rgb(row), index) for row in batch.index])
        device = next(autoencoder.parameters()).device
        latents = autoencoder.encode(pictures_from_rgb(rgb).rgb.to(device)).cpu()
        for name, latent, picture in zip(names, latents, rgb, strict=True):
            with whole_file(folder / "images" / f"{name}.png", on_disk=False) as file:
                Image.fromarray(picture).save(file, format="PNG")
            save_tensors(latent.clone(), folder / "latents" / f"{name}.pt", on_disk=False)
    outputs, entries = config.dataset.outputs, []
    for row, name in zip(batch.to_dict("records"), names, strict=True):
        entry = row | {outputs.latent: f"latents/{name}.pt", outputs.rgb: f"images/{name}.png"}
        if augment:
            kind = {"is_augmented": index > 0, "augmentation_id": index, "augmentation_type": suffix[1:] or None}
            entry |= {**kind, "original_path": Path(row[outputs.rgb]).name}
        entries.append(entry)
    return entries
