"""The five tasks that make what Stage 3 starts from; each returns its metrics, or None if the config has it."""

from typing import Any

from core.config.experiment import ExperimentConfig
from core.training.prerequisites import make_prerequisite
from tasks.stage_task import stage_task

Made = dict[str, Any] | None


@stage_task("generate-layouts")
def generate_layouts(config: ExperimentConfig) -> Made:
    """Generated layouts for a config without a manifest."""
    return _summary(make_prerequisite("layouts", config))


@stage_task("train-autoencoder")
def train_autoencoder(config: ExperimentConfig) -> Made:
    """The frozen autoencoder."""
    return _summary(make_prerequisite("autoencoder", config))


@stage_task("encode-layouts")
def encode_layouts(config: ExperimentConfig) -> Made:
    """A latent of every layout."""
    return _summary(make_prerequisite("latents", config))


@stage_task("train-stage-1")
def train_stage1(config: ExperimentConfig) -> Made:
    """Diffusion on noise prediction."""
    return _summary(make_prerequisite("stage1", config))


@stage_task("train-stage-2")
def train_stage2(config: ExperimentConfig) -> Made:
    """Diffusion with semantic losses on decoded layouts."""
    return _summary(make_prerequisite("stage2", config))


def _summary(record: dict[str, Any] | None) -> Made:
    return record and {"metrics": record["metrics"], "seconds": record["seconds"]}
