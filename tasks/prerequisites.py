"""The five tasks that make what Stage 3 starts from; each returns its metrics, or None if the config has it."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from core.config import ExperimentConfig
from core.prerequisites import make_prerequisite

Made = dict[str, Any] | None


@task(name="generate-layouts", cache_policy=NO_CACHE)
def generate_layouts(config: ExperimentConfig) -> Made:
    """Generated layouts for a config without a manifest."""
    return _summary(make_prerequisite("layouts", config))


@task(name="train-autoencoder", cache_policy=NO_CACHE)
def train_autoencoder(config: ExperimentConfig) -> Made:
    """The frozen autoencoder."""
    return _summary(make_prerequisite("autoencoder", config))


@task(name="encode-layouts", cache_policy=NO_CACHE)
def encode_layouts(config: ExperimentConfig) -> Made:
    """A latent of every layout."""
    return _summary(make_prerequisite("latents", config))


@task(name="train-stage-1", cache_policy=NO_CACHE)
def train_stage1(config: ExperimentConfig) -> Made:
    """Diffusion on noise prediction."""
    return _summary(make_prerequisite("stage1", config))


@task(name="train-stage-2", cache_policy=NO_CACHE)
def train_stage2(config: ExperimentConfig) -> Made:
    """Diffusion with semantic losses on decoded layouts."""
    return _summary(make_prerequisite("stage2", config))


def _summary(record: dict[str, Any] | None) -> Made:
    return record and {"metrics": record["metrics"], "seconds": record["seconds"]}
