"""Where artefacts live below `artifacts.root`, under names a person understands."""

from pathlib import Path
from typing import Any

from core.config import ExperimentConfig

PREREQUISITES = ("layouts", "autoencoder", "latents", "stage1", "stage2")


def prerequisite_folder(config: ExperimentConfig, stage: str) -> Path:
    """`{root}/prerequisites/{stage}`: shared by every experiment under the root."""
    return Path(config.artifacts.root) / "prerequisites" / stage


def run_folder(config: ExperimentConfig) -> Path:
    """`{root}/{experiment.name}`."""
    return Path(config.artifacts.root) / config.experiment.name


def round_folder(config: ExperimentConfig, number: int) -> Path:
    """`{root}/{experiment.name}/round-01`."""
    return run_folder(config) / f"round-{number:02d}"


def stage3_folder(config: ExperimentConfig) -> Path:
    """`experiment.save_path`, or `{root}/{experiment.name}/stage3`."""
    return Path(config.experiment.save_path or run_folder(config) / "stage3")


def prerequisite_file(config: ExperimentConfig, stage: str) -> Path:
    """The file of a prerequisite that later stages read."""
    name = {
        "layouts": "manifest.csv",
        "autoencoder": "autoencoder_checkpoint_best.pt",
        "latents": "manifest.csv",
        "stage1": "checkpoints/stage1_checkpoint_best.pt",
        "stage2": "checkpoints/stage2_checkpoint_best.pt",
    }[stage]
    return prerequisite_folder(config, stage) / name


def with_prerequisites(config: ExperimentConfig) -> ExperimentConfig:
    """`config` with its empty checkpoints, and the manifest, pointing at the finished prerequisites under its root."""
    finished = {
        stage: str(prerequisite_file(config, stage))
        for stage in PREREQUISITES
        if (prerequisite_folder(config, stage) / "stage.json").exists()
    }
    values: dict[str, Any] = {}
    if "latents" in finished or config.dataset.manifest is None:
        values["dataset.manifest"] = finished.get("latents") or finished.get("layouts")
    if config.autoencoder.checkpoint is None:
        values["autoencoder.checkpoint"] = finished.get("autoencoder")
    if config.diffusion.stage1_checkpoint is None:
        values["diffusion.stage1_checkpoint"] = finished.get("stage1")
    if config.diffusion.stage2_checkpoint is None:
        values["diffusion.stage2_checkpoint"] = finished.get("stage2")
    return config.with_values({key: value for key, value in values.items() if value is not None})
