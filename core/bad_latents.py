"""generate-bad-latents: real latents of original layouts and as many latents of the current model."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from diffusers import UNet2DModel
from torch import Tensor

from core.autoencoder import Autoencoder
from core.checkpoints import find_checkpoint, load_autoencoder, load_unet
from core.config import ExperimentConfig
from core.device import pick_device
from core.errors import InputError, require_positive
from core.files import save_tensors, whole_file
from core.layouts import LayoutPictures, load_tensors
from core.manifest import choose_rows, originals, read_manifest, split_by_layout
from core.progress import bar, each
from core.records import run_stage
from core.sampling import sample_latents
from core.seeding import derive_seed
from core.store import Location
from core.workspace import Workspace

log = logging.getLogger(__name__)

# Latents made between two chances to keep a state; a multiple of what a CPU computes together.
_PART = 256


@dataclass(frozen=True)
class BadLatentsRequest:
    """The documented inputs and options of the task."""

    manifest: Location
    autoencoder_checkpoint: Location
    diffusion_checkpoint: Location
    output_dir: Location
    num_samples: int = 5000
    batch_size: int = 32
    num_steps: int = 100
    seed: int = 42
    device: str = "auto"
    held_out: bool = True  # whether layouts of the validation split may be used where training ones run short
    real_variants: bool = False  # whether rotated and mirrored layouts are real ones too


def generate_bad_latents(config: ExperimentConfig, request: BadLatentsRequest) -> dict[str, Any]:
    """Stage record after writing the discriminator's dataset to `request.output_dir`.

    `real_latents/`, `real_latents_all.pt`, `bad_latents/`, `bad_latents_all.pt` ([N, C, h, w] float32) and
    `discriminator_manifest.csv`. Bad latent i comes from seed i alone, by DDIM with `num_steps` evaluations.
    """
    require_positive(num_samples=request.num_samples, batch_size=request.batch_size, num_steps=request.num_steps)
    if request.num_steps > config.scheduler.num_steps:
        raise InputError(
            f"--num_steps {request.num_steps}: it must be at most the diffusion config's scheduler.num_steps "
            f"{config.scheduler.num_steps}"
        )
    inputs = {
        "manifest": request.manifest,
        "autoencoder": find_checkpoint(request.autoencoder_checkpoint),
        "diffusion": find_checkpoint(request.diffusion_checkpoint),
    }
    settings = {
        name: getattr(request, name) for name in ("num_samples", "num_steps", "seed", "held_out", "real_variants")
    }
    model = config.describing_model()
    settings |= {name: model[name] for name in ("dataset", "unet", "scheduler")}
    settings["split"] = {name: model["training"][name] for name in ("train_split", "split_seed")}

    def work(workspace: Workspace, paths: Mapping[str, Path]) -> dict[str, Any]:
        return _generate(config, request, paths, workspace)

    return run_stage("bad latents", request.output_dir, inputs, settings, work, config.artifacts)


def _generate(
    config: ExperimentConfig, request: BadLatentsRequest, paths: Mapping[str, Path], workspace: Workspace
) -> dict[str, Any]:
    device, folder = pick_device(request.device), workspace.folder
    rows = _candidates(config, request, paths["manifest"])
    unet = load_unet(paths["diffusion"], config).to(device, memory_format=torch.channels_last)
    autoencoder = load_autoencoder(paths["autoencoder"], config).to(device)
    chosen = choose_rows(rows, request.num_samples, derive_seed(request.seed, "real latents"))
    pictures = LayoutPictures(chosen, config.dataset.outputs.rgb, config.dataset.image_size)
    real = encode_pictures(pictures, autoencoder, request.batch_size, "real latents")
    seeds = [derive_seed(request.seed, "bad latents", index) for index in range(request.num_samples)]
    bad = _sample(unet, config, request, seeds, workspace)
    names = _write_latents(real, "real", folder) + _write_latents(bad, "bad", folder)
    _write_manifest(names, len(real), request.seed, folder)
    return {"real_latents": len(real), "bad_latents": len(bad), "bad_latent_std": bad.std().item()}


def _sample(
    unet: UNet2DModel, config: ExperimentConfig, request: BadLatentsRequest, seeds: list[int], workspace: Workspace
) -> Tensor:
    """The bad latents, made in parts that a run after a crash does not make again."""
    size = -(-_PART // request.batch_size) * request.batch_size
    parts, made = workspace.folder / "parts", []
    for start in each(range(0, len(seeds), size), "bad latents", "parts"):
        part, path = seeds[start : start + size], parts / f"bad_latents_{start:06d}.pt"
        if not path.exists():
            latents = sample_latents(unet, config, part, request.num_steps, request.batch_size, "bad latents")
            save_tensors(latents, path, on_disk=False)
            workspace.keep_files(f"{start + len(part)} of {len(seeds)} bad latents")
        made.append(load_tensors(path, "bad latents"))
    workspace.settle()
    shutil.rmtree(parts)
    return torch.cat(made)


def _candidates(config: ExperimentConfig, request: BadLatentsRequest, manifest: Path) -> pd.DataFrame:
    """Rows to choose reals from: those of the training split, which later validation never sees.

    If they are too few and `held_out` allows it, all rows; if even those are too few, all are used.
    """
    rows = read_manifest(manifest, [config.dataset.outputs.rgb], config.dataset)
    training, _ = split_by_layout(rows, config.training.train_split, config.training.split_seed)
    if not request.real_variants:
        training, rows = originals(training), originals(rows)
    if len(training) < request.num_samples and request.held_out:
        training = rows
    if len(training) < request.num_samples:
        log.warning(
            "num_samples %d is above the %d %s layouts of %s: all of them are used",
            request.num_samples,
            len(training),
            "real" if request.real_variants else "original",
            request.manifest,
        )
    return training


@torch.no_grad()
def encode_pictures(pictures: LayoutPictures, autoencoder: Autoencoder, batch_size: int, description: str) -> Tensor:
    """Latents [N, C, h, w] on the CPU of every picture."""
    device = next(autoencoder.parameters()).device
    batches = torch.arange(len(pictures)).split(batch_size)
    parts = []
    for indices in each(batches, description, "batches"):
        parts.append(autoencoder.encode(pictures.batch(indices.tolist()).rgb.to(device)).cpu())
    return torch.cat(parts)


def _write_latents(latents: Tensor, kind: str, folder: Path) -> list[str]:
    """Write each latent and all of them; returns the relative names of the single files."""
    names = [f"{kind}_latents/{kind}_latent_{index:05d}.pt" for index in range(len(latents))]
    for name, latent in zip(bar(names, f"writing {kind} latents"), latents, strict=True):
        save_tensors(latent.clone(), folder / name, on_disk=False)
    save_tensors(latents, folder / f"{kind}_latents_all.pt")
    return names


def _write_manifest(names: list[str], num_real: int, seed: int, folder: Path) -> None:
    labels = [1] * num_real + [0] * (len(names) - num_real)
    rows = pd.DataFrame({"latent_path": names, "label": labels, "is_viable": [label == 1 for label in labels]})
    shuffled = rows.sample(frac=1, random_state=seed % 2**32)
    with whole_file(folder / "discriminator_manifest.csv") as file:
        shuffled.to_csv(file, index=False)
