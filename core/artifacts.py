"""Where artefacts live below `artifacts.root`, under names a person understands."""

from core.config import ExperimentConfig
from core.store import join

# In the run's folder: what its rounds came to, for a person.
REPORT_NAME = "report.html"
# In the run's folder: Stage 3 continued by hand, outside any round.
STAGE3_FOLDER = "stage3"


def prerequisites_location(config: ExperimentConfig) -> str:
    """`{root}/prerequisites`: shared by every experiment under the root."""
    return join(config.artifacts.root, "prerequisites")


def run_location(config: ExperimentConfig) -> str:
    """`{root}/{experiment.name}`."""
    return join(config.artifacts.root, config.experiment.name)


def round_location(config: ExperimentConfig, number: int) -> str:
    """`{root}/{experiment.name}/round-01`."""
    return join(run_location(config), f"round-{number:02d}")


def stage3_location(config: ExperimentConfig) -> str:
    """`experiment.save_path`, or `{root}/{experiment.name}/stage3`."""
    return config.experiment.save_path or join(run_location(config), STAGE3_FOLDER)
