"""Where artefacts live below `artifacts.root`, under names a person understands."""

from pathlib import Path

from core.config import ExperimentConfig


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
