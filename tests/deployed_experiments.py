"""The deployments by name, and what they have done of an experiment."""

from pathlib import Path

NEXT = "adversarial-round/next-round"
TRAINING = "adversarial-training/three-rounds"


def run_folder(config: Path) -> Path:
    """Folder of the experiment's rounds."""
    return config.parent / "artifacts" / config.stem


def rounds_done(config: Path) -> list[str]:
    """Names of the finished rounds, in order."""
    return sorted(path.parent.name for path in run_folder(config).glob("round-*/round.json"))
