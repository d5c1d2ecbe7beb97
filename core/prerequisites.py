"""What Stage 3 starts from, made where the config does not name it.

Every function returns the stage's record, made now or found finished, or None where the config already provides
the result.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from core.artifacts import prerequisite_file, prerequisite_folder, with_prerequisites
from core.config import ExperimentConfig
from core.encode_layouts import encode_layouts
from core.layout_generator import write_layouts
from core.records import run_stage
from core.stages import required, train_prerequisite_stage
from core.train_autoencoder import train_autoencoder

Record = dict[str, Any]


def make_layouts(config: ExperimentConfig) -> Record | None:
    """Generated layouts and their manifest, for a config with `dataset.synthetic` and no manifest."""
    synthetic, folder = config.dataset.synthetic, prerequisite_folder(config, "layouts")
    if config.dataset.manifest is not None or synthetic is None:
        return None

    def work() -> dict[str, int]:
        write_layouts(folder, synthetic.count, synthetic.seed, synthetic.rooms)
        return {"layouts": synthetic.count}

    return run_stage("layouts", folder, {}, synthetic.model_dump(), work)


def make_autoencoder(config: ExperimentConfig) -> Record | None:
    """The autoencoder, unless `autoencoder.checkpoint` names one."""
    if config.autoencoder.checkpoint is not None:
        return None
    config = _with_source_manifest(config)
    required(config, "prerequisites.autoencoder", "autoencoder.checkpoint")
    folder = prerequisite_folder(config, "autoencoder")
    settings = _data_settings(config) | {
        "seed": config.prerequisites.seed,
        "autoencoder": config.autoencoder.model_dump(exclude={"checkpoint"}),
        "training": config.prerequisites.autoencoder.model_dump(),
    }
    inputs = {"manifest": config.dataset.manifest}
    return run_stage("autoencoder", folder, inputs, settings, lambda: train_autoencoder(config, folder))


def make_latents(config: ExperimentConfig) -> Record | None:
    """Latents of every layout, unless the config names an autoencoder and a manifest that already has latents."""
    if config.autoencoder.checkpoint is not None and _has_latents(config):
        return None
    config = _with_source_manifest(with_prerequisites(config), original=config)
    folder = prerequisite_folder(config, "latents")
    inputs = {
        "manifest": config.dataset.manifest,
        "autoencoder": required(config, "autoencoder.checkpoint"),
    }
    return run_stage("latents", folder, inputs, _data_settings(config), lambda: encode_layouts(config, folder))


def make_stage1(config: ExperimentConfig) -> Record | None:
    """Stage 1, noise loss alone, unless `diffusion.stage1_checkpoint` names one."""
    return _make_stage(1, config) if config.diffusion.stage1_checkpoint is None else None


def make_stage2(config: ExperimentConfig) -> Record | None:
    """Stage 2, with semantic losses, unless `diffusion.stage2_checkpoint` names one or the config is for Stage 1."""
    wanted = config.diffusion.stage2_checkpoint is None and config.experiment.phase != "diffusion_stage1"
    return _make_stage(2, config) if wanted else None


def _make_stage(stage: int, config: ExperimentConfig) -> Record:
    training = config.stage_training(stage)
    config = with_prerequisites(config)
    folder = prerequisite_folder(config, f"stage{stage}")
    inputs = {
        "manifest": required(config, "dataset.manifest"),
        "autoencoder": required(config, "autoencoder.checkpoint"),
    }
    if stage == 2:
        inputs["stage1"] = required(config, "diffusion.stage1_checkpoint")
    settings = {
        "unet": config.unet.model_dump(mode="json"),
        "scheduler": config.scheduler.model_dump(),
        "training": config.describing_model(training)["training"],
    }
    return run_stage(
        f"stage{stage}", folder, inputs, settings, lambda: train_prerequisite_stage(stage, config, folder)
    )


def _data_settings(config: ExperimentConfig) -> dict[str, Any]:
    """What of the dataset an autoencoder or latent depends on; the manifest counts by content, as an input."""
    return {
        "dataset": config.dataset.model_dump(mode="json", include={"outputs", "filters", "image_size", "augment"}),
        "split": config.training.model_dump(include={"train_split", "split_seed"}),
    }


def _with_source_manifest(config: ExperimentConfig, original: ExperimentConfig | None = None) -> ExperimentConfig:
    """`config` with the manifest of pictures: the user's own, or that of the generated layouts."""
    manifest = (original or config).dataset.manifest
    if manifest is None and config.dataset.synthetic is not None:
        manifest = str(prerequisite_file(config, "layouts"))
    required(config.with_values({"dataset.manifest": manifest}), "dataset.manifest")
    return config.with_values({"dataset.manifest": manifest})


def _has_latents(config: ExperimentConfig) -> bool:
    """Whether the manifest names a latent for some layout; an unreadable one is reported by its reader."""
    try:
        rows = pd.read_csv(Path(required(config, "dataset.manifest")))
    except (OSError, ValueError):
        return False
    column = config.dataset.outputs.latent
    return column in rows.columns and bool(rows[column].notna().any())
