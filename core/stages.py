"""Stages 1, 2 and 3 of a config: what each starts from, where it writes, what it says at the end."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel

from core.adversarial import build_adversarial_form
from core.artifacts import stage3_folder
from core.checkpoints import find_checkpoint, load_autoencoder, load_discriminator, load_unet, new_train_state
from core.config import ExperimentConfig, TrainingSection
from core.device import pick_device
from core.diffusion import build_scheduler, build_unet
from core.discriminator import LatentDiscriminator
from core.errors import InputError
from core.files import require_writable
from core.layouts import LayoutPictures, read_latents
from core.losses import Frozen
from core.manifest import read_manifest, split_by_layout
from core.perceptual import build_perceptual
from core.seeding import derive_seed
from core.train_diffusion import DiffusionTraining, EarlyStop, LatentSet, metric_columns
from core.trajectories import kept_trajectories


def train_prerequisite_stage(
    stage: int, training: TrainingSection, config: ExperimentConfig, folder: Path
) -> dict[str, Any]:
    """Metrics after training Stage 1 (noise loss) or Stage 2 (with semantic losses, from Stage 1) in `folder`."""
    start = None if stage == 1 else config.required("diffusion.stage1_checkpoint")
    run = _training(config, training, f"stage{stage}", folder, start)
    if run.path("latest").exists():
        run.state.load(run.path("latest"))
    run.run(training.epochs)
    return {
        "epoch": run.state.epoch,
        **_trunk(run.frozen),
        **metric_columns("val", run.validate(), run.training.loss.weights),
    }


def train_stage3(config: ExperimentConfig, resume: bool | None) -> dict[str, Any]:
    """Metrics after continuing Stage 3 until epoch `training.epochs` in `experiment.save_path`.

    Writes `checkpoints/{name}_checkpoint_{best,latest}.pt`, `samples/{name}_epoch_*.png` and
    `{name}_metrics.csv`. `resume`: None goes on from the latest checkpoint if there is one, True insists on
    it, False starts anew. Raises InputError at once for a missing discriminator or Stage 2 checkpoint.
    """
    folder, name = stage3_folder(config), config.experiment.name
    latest = folder / "checkpoints" / f"{name}_checkpoint_latest.pt"
    manifest, discriminator = config.required("dataset.manifest"), config.required("discriminator.checkpoint")
    if not Path(manifest).exists():
        raise InputError(f"manifest {manifest} does not exist: set dataset.manifest")
    if resume and not latest.exists():
        raise InputError(f"--resume: there is no {latest} to go on from; leave the option out to start")
    going_on = latest.exists() and resume is not False
    previous = config.diffusion.stage3_checkpoint
    start = previous or (None if going_on else config.required("diffusion.stage2_checkpoint"))
    require_writable(folder)
    judge = load_discriminator(discriminator, config.latent_shape)
    run = _training(config, config.training, name, folder, start)
    judge = judge.to(run.device)
    if not going_on:
        for part in ("checkpoints", "samples"):
            shutil.rmtree(folder / part, ignore_errors=True)
    if going_on:
        run.state.load(latest)
    elif previous is not None:
        run.state.load(find_checkpoint(previous))
        # Scores against the last round's discriminator do not compare with this one's.
        run.state.start, run.state.best_val_loss, run.state.adversarial_weight = {}, None, None
    return _run_stage3(_with_discriminator(run, judge))


def _training(
    config: ExperimentConfig, training: TrainingSection, name: str, folder: Path, start: str | None
) -> DiffusionTraining:
    """The stage's training, its UNet from the checkpoint `start` or untrained."""
    device = pick_device(training.device)
    state = new_train_state(_initial_unet(config, start), training, device)
    autoencoder = load_autoencoder(config.required("autoencoder.checkpoint"), config).to(device)
    semantic = training.loss.semantic_loss
    data, validation = load_splits(config, with_pictures=semantic is not None)
    scheduler = build_scheduler(config.scheduler)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(device)
    frozen = Frozen(
        scheduler=scheduler,
        decoder=autoencoder.decoder,
        perceptual=build_perceptual(semantic.perceptual_loss).to(device) if semantic else None,
    )
    return DiffusionTraining(config, training, name, folder, state, frozen, data, validation, autoencoder.decoder)


def load_splits(config: ExperimentConfig, with_pictures: bool) -> tuple[LatentSet, LatentSet]:
    """Training and validation latents of the config's manifest, and their pictures where a term needs them."""
    outputs, dataset = config.dataset.outputs, config.dataset
    manifest = config.required("dataset.manifest")
    columns = [outputs.latent, *([outputs.rgb, outputs.segmentation] if with_pictures else [])]
    rows = read_manifest(manifest, columns, dataset)
    splits = split_by_layout(rows, config.training.train_split, config.training.split_seed)
    training, validation = (
        LatentSet(
            read_latents(split, outputs.latent, config.latent_shape),
            LayoutPictures(split, outputs.rgb, dataset.image_size) if with_pictures else None,
        )
        for split in splits
    )
    return training, validation


def _initial_unet(config: ExperimentConfig, start: str | None) -> UNet2DModel:
    if start is not None:
        return load_unet(start, config)
    seed = config.prerequisites.seed if config.prerequisites else config.training.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "unet weights"))
        return build_unet(config.unet, config.latent_size)


def _with_discriminator(run: DiffusionTraining, discriminator: LatentDiscriminator) -> DiffusionTraining:
    """`run` judged by the frozen discriminator, and trained against it unless its weight is zero."""
    config, state = run.config, run.state
    run.discriminator = discriminator
    run.viability_seeds = [
        derive_seed(config.training.seed, "viability", index) for index in range(config.rounds.viability_samples)
    ]
    if config.discriminator.weight == 0:
        return run
    path = run.folder / "checkpoints" / "trajectories.pt"
    run.trajectories = kept_trajectories(path, state.ema, config, state.epoch)
    form = build_adversarial_form(config.discriminator, discriminator, run.frozen.scheduler.alphas_cumprod)
    run.frozen = dataclasses.replace(run.frozen, adversarial=form)
    return run


def _run_stage3(run: DiffusionTraining) -> dict[str, Any]:
    config, state = run.config, run.state
    if not state.start:
        state.start = {"epoch": state.epoch, "viability_score": run.viability()}
    rule = config.rounds.advance_when
    stop = EarlyStop(rule.viability_score, rule.evaluations, since=state.start["epoch"]) if rule else None
    run.run(config.training.epochs, stop)
    return {
        "epoch": state.epoch,
        "viability_before": state.start["viability_score"],
        "viability_after": run.viability(),
        "discriminator_weight": state.adversarial_weight,
        **_trunk(run.frozen),
        **metric_columns("val", run.validate(), run.training.loss.weights),
    }


def _trunk(frozen: Frozen) -> dict[str, str]:
    return {"perceptual_trunk": frozen.perceptual.trunk} if frozen.perceptual else {}
