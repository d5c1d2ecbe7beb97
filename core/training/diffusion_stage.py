"""A diffusion stage of a config: its inputs, latents, models and state put together for the training loop."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch

from core.checkpoints.loading import load_autoencoder, load_unet
from core.config.experiment import ExperimentConfig
from core.config.training_sections import TrainingSection
from core.data.latents import Latents
from core.data.layouts import CACHE_BYTES, LayoutPictures
from core.data.manifest import read_manifest, split_by_layout
from core.data.palette_file import read_palette
from core.inputs.locations import Location
from core.models.diffusion import build_scheduler
from core.models.perceptual import build_perceptual
from core.networks.unet import UNet, build_unet
from core.records.artifacts import prerequisites_location
from core.records.workspace import Workspace
from core.runtime import distributed
from core.runtime.batch_shares import checkpointed
from core.runtime.device import room_for_data
from core.runtime.seeding import derive_seed
from core.storage.store import cache_folder, join
from core.trackers.tracking import TrackedStage
from core.training.batches import Batches, LatentSet
from core.training.metrics import metric_columns
from core.training.train_state import new_train_state
from core.training.training_step import DiffusionTraining, LossModels

# The config key of each input of a stage.
INPUT_KEYS = {
    "manifest": "dataset.manifest",
    "palette": "dataset.palette",
    "autoencoder": "autoencoder.checkpoint",
    "stage1": "diffusion.stage1_checkpoint",
    "stage2": "diffusion.stage2_checkpoint",
    "stage3": "diffusion.stage3_checkpoint",
    "discriminator": "discriminator.checkpoint",
    "labelled": "discriminator.labelled_latents",
    "trunk": "training.loss.semantic_loss.perceptual_loss.backbone",
}


def with_inputs(config: ExperimentConfig, inputs: Mapping[str, Location]) -> ExperimentConfig:
    """`config` with the inputs of a stage, by name, at these locations."""
    return config.with_values({INPUT_KEYS[name]: str(location) for name, location in inputs.items()})


def train_prerequisite_stage(
    stage: int, training: TrainingSection, config: ExperimentConfig, workspace: Workspace
) -> dict[str, Any]:
    """Metrics after training Stage 1 (noise loss) or Stage 2 (semantic losses too, starts from Stage 1)."""
    start = None if stage == 1 else config.required("diffusion.stage1_checkpoint")
    name = f"stage{stage}"
    tracked = TrackedStage(config, name, join(prerequisites_location(config), name))
    run = build_training(config, training, name, workspace, start, tracked)
    latest = run.path("latest")
    if distributed.from_first(latest.exists()):
        run.state.restore(run.state.read(latest, config))
    run.run(training.epochs)
    return {"epoch": run.state.epoch, **final_metrics(run)}


def build_training(
    config: ExperimentConfig,
    training: TrainingSection,
    name: str,
    workspace: Workspace,
    start: str | None,
    tracked: TrackedStage,
) -> DiffusionTraining:
    """The training of a stage without an adversarial term; its UNet is from the checkpoint `start`, or untrained."""
    device = distributed.own_device(training.device)
    state = new_train_state(_initial_unet(config, start), training, device)
    if config.unet.gradient_checkpointing:
        state.unet.enable_gradient_checkpointing(checkpointed)
    autoencoder = load_autoencoder(config.required("autoencoder.checkpoint"), config).to(device)
    semantic = training.loss.semantic_loss
    data, validation = load_splits(config, with_pictures=semantic is not None)
    for split in (data, validation):
        split.latents.hold(device, room_for_data(device))
    scheduler = build_scheduler(config.scheduler)
    alpha_bars = scheduler.alphas_cumprod
    scheduler.alphas_cumprod = alpha_bars.to(device)
    perceptual = build_perceptual(semantic.perceptual_loss).to(device) if semantic else None
    models = LossModels(scheduler, autoencoder.decoder, perceptual)
    batches = Batches(training, config.discriminator, data, validation, alpha_bars, device)
    return DiffusionTraining(config, training, name, workspace, state, models, batches, tracked=tracked)


def load_splits(config: ExperimentConfig, with_pictures: bool) -> tuple[LatentSet, LatentSet]:
    """Training and validation latents of the config's manifest, with their pictures if a term needs them."""
    outputs, dataset = config.dataset.outputs, config.dataset
    manifest = config.required("dataset.manifest")
    columns = [outputs.latent, *([outputs.rgb, outputs.segmentation] if with_pictures else [])]
    rows = read_manifest(manifest, columns, dataset)
    training, validation = split_by_layout(rows, config.training.train_split, config.training.split_seed)
    scratch, palette = cache_folder(config.artifacts), read_palette(config)

    def latent_set(split: pd.DataFrame) -> LatentSet:
        latents, pictures = Latents(split, outputs.latent, config.latent_shape, scratch), None
        if with_pictures:
            cache_bytes = CACHE_BYTES * len(split) // len(rows)
            pictures = LayoutPictures(split, outputs.rgb, dataset.image_size, palette, cache_bytes)
        return LatentSet(latents, pictures)

    return latent_set(training), latent_set(validation)


def final_metrics(run: DiffusionTraining) -> dict[str, Any]:
    """The validation losses of the EMA weights, the trunk of the perceptual loss if the stage has one, and the cost.

    The cost is what this process took: `steps_per_second`, without evaluations, and `peak_memory_gb`.
    """
    perceptual = run.loss_models.perceptual
    trunk = {"perceptual_trunk": perceptual.trunk} if perceptual else {}
    losses = metric_columns("val", run.validate(), run.training.loss.weights)
    return {**trunk, **losses, **run.pace.cost(run.device)}


def _initial_unet(config: ExperimentConfig, start: str | None) -> UNet:
    if start is not None:
        return load_unet(start, config)
    seed = config.prerequisites.seed if config.prerequisites else config.training.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "unet weights"))
        return build_unet(config.unet, config.latent_size)
