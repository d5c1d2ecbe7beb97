"""Whether the latents of a manifest are those that the autoencoder makes of its pictures."""

import logging
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from core.config.experiment import ExperimentConfig
from core.data.latents import Latents
from core.data.layouts import LayoutPictures
from core.data.manifest import choose_rows, originals, read_manifest, read_rows
from core.data.palette_file import read_palette
from core.models.pictures import encode_pictures
from core.networks.autoencoder import Autoencoder
from core.records.input_files import local_path
from core.runtime.errors import InputError
from core.runtime.seeding import derive_seed
from core.storage.store import cache_folder

log = logging.getLogger(__name__)

# Latents that are compared, and the largest difference, as a share of their spread, of latents of one autoencoder.
# Latents of two autoencoders differ by more than their spread; pictures saved anew or resized, by a tenth.
_COMPARED, _MOST_DIFFERENT = 64, 0.5
# Layouts that are looked at before any work.
SAMPLE = 8


class EncodedSample(NamedTuple):
    """A few layouts of a manifest: latents [N, C, h, w] as the autoencoder makes them now, and class maps [N, H, W].

    Class maps are long, 255 where unlabelled. `figures` are those of `compare_with_manifest`.
    """

    latents: Tensor
    classes: Tensor
    figures: dict[str, float]


def encode_sample(autoencoder: Autoencoder, config: ExperimentConfig) -> EncodedSample:
    """`SAMPLE` layouts of the config's manifest, or all if it has fewer, encoded and compared with its latents.

    Raises InputError for a manifest or picture that cannot be read, and as `compare_with_manifest` does.
    """
    manifest, rgb = local_path(config.required("dataset.manifest"), config.artifacts), config.dataset.outputs.rgb
    rows = read_manifest(manifest, [rgb], config.dataset)
    if not config.rounds.bad_latents.real_variants:
        rows = originals(rows)
    chosen = choose_rows(rows, SAMPLE, derive_seed(config.training.seed, "checked layouts"))
    pictures = LayoutPictures(chosen, rgb, config.dataset.image_size, read_palette(config))
    latents = encode_pictures(pictures, autoencoder, SAMPLE, "checked layouts")
    if not torch.isfinite(latents).all():
        raise InputError(
            f"autoencoder checkpoint {config.autoencoder.checkpoint} makes latents that are not finite of the layouts "
            f"of {manifest}: give another"
        )
    figures = compare_with_manifest(latents, chosen, manifest, config)
    return EncodedSample(latents, pictures.batch(list(range(len(pictures)))).classes, figures)


def require_latent_files(manifest: Path, config: ExperimentConfig) -> None:
    """InputError, which names the row, if a latent that the manifest names is not there."""
    column = config.dataset.outputs.latent
    if column not in read_rows(manifest, config.dataset).columns:
        return
    rows = read_manifest(manifest, [column], config.dataset)
    missing = {path for path in rows[column].unique() if not Path(path).is_file()}
    for row, path in zip(rows["manifest_row"], rows[column], strict=True):
        if path in missing:
            raise InputError(
                f"manifest row {row + 1}: latent {path} does not exist: correct the manifest or set dataset.path_remap"
            )


def compare_with_manifest(
    encoded: Tensor, rows: pd.DataFrame, manifest: Path, config: ExperimentConfig
) -> dict[str, float]:
    """Mean and spread of latents [N, C, h, w] encoded from the pictures of `rows`, and how far the manifest's differ.

    `latent_difference` is the root mean square of the difference over the spread; it is left out if the manifest names
    no latents of these rows. Raises InputError if they are of another autoencoder.
    """
    encoded, rows = encoded[:_COMPARED], rows.iloc[:_COMPARED]
    figures = {"latent_mean": encoded.mean().item(), "latent_std": encoded.std().item()}
    column = config.dataset.outputs.latent
    if column not in read_rows(manifest, config.dataset).columns:
        return figures
    named = read_manifest(manifest, [column], config.dataset)
    found = rows[["manifest_row"]].reset_index(drop=True).reset_index().merge(named, on="manifest_row")
    if found.empty:
        return figures
    theirs = Latents(found, column, config.latent_shape, cache_folder(config.artifacts))
    ours = encoded[found["index"].tolist()]
    given = theirs.batch(torch.arange(len(found)))
    difference = ((given - ours).square().mean().sqrt() / ours.std()).item()
    if difference > _MOST_DIFFERENT:
        raise InputError(
            f"latents of {manifest} are not of the autoencoder {config.autoencoder.checkpoint}: they differ by "
            f"{difference:.2f} of their spread from its own of the same pictures; set autoencoder.checkpoint to that "
            f"which made them, or remove the column {column}"
        )
    log.info(
        "latents of %s: mean %.3f, spread %.3f; %d of them differ by %.4f of it from what the autoencoder makes now",
        manifest,
        figures["latent_mean"],
        figures["latent_std"],
        len(found),
        difference,
    )
    return figures | {"latent_difference": difference}
