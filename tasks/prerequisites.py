"""The five tasks that prepare Stage 3. Each returns metrics and seconds, or None if the config names the result."""

from typing import Any

from core.config.experiment import ExperimentConfig
from core.training.prerequisites import make_prerequisite
from tasks.stage_task import stage_task

Summary = dict[str, Any] | None


@stage_task("generate-layouts")
def generate_layouts(config: ExperimentConfig) -> Summary:
    """Generate layouts for a config without a manifest."""
    return _summary(make_prerequisite("layouts", config))


@stage_task("train-autoencoder")
def train_autoencoder(config: ExperimentConfig) -> Summary:
    """Train the autoencoder, which later stages keep frozen."""
    return _summary(make_prerequisite("autoencoder", config))


@stage_task("encode-layouts")
def encode_layouts(config: ExperimentConfig) -> Summary:
    """Encode every layout as a latent."""
    return _summary(make_prerequisite("latents", config))


@stage_task("train-stage-1")
def train_stage1(config: ExperimentConfig) -> Summary:
    """Train the diffusion model on noise prediction."""
    return _summary(make_prerequisite("stage1", config))


@stage_task("train-stage-2")
def train_stage2(config: ExperimentConfig) -> Summary:
    """Train the diffusion model further, with semantic losses on decoded layouts."""
    return _summary(make_prerequisite("stage2", config))


def _summary(record: dict[str, Any] | None) -> Summary:
    return record and {"metrics": record["metrics"], "seconds": record["seconds"]}
