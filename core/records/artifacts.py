"""Names and addresses of artefacts below `artifacts.root`, in words that a person understands."""

import re

from core.config.experiment import ExperimentConfig
from core.storage.store import join

# Records: of a finished stage, of a finished round, of a run that was started.
RECORD_NAME, ROUND_RECORD, RUN_RECORD = "stage.json", "round.json", "run.json"
# In the folder of a run or round: its config, a person's decision, whether its events were sent, its report.
CONFIG_NAME, DECISION_NAME, ANNOUNCED_NAME, REPORT_NAME = (
    "config.yaml",
    "decision.json",
    "announced.json",
    "report.html",
)
# In the folder of a run: what its models draw before the first round and after the last.
BEFORE_AFTER_NAME = "before_after.png"
# In the folder of an unfinished stage: its resumable states, and the names of the files that it publishes.
STATE_FOLDER, PUBLISHING_NAME = "state", "publishing.json"
# In the folder of a run or of the prerequisites: which process works on it.
LEASE_NAME = "lease.json"
# In a user's folder: the files that a command made there.
MADE_NAME = "made.json"
# In the folder of states: the parts of the bad latents.
PARTS_FOLDER = "parts"
# In the run's folder: Stage 3 continued by continue-stage-3 alone, outside any round.
STAGE3_FOLDER = "stage3"

# In the name of a state: the lease's token and the state's number. Of a part of bad latents: its first, and the next's.
POSITION = "[0-9]{6,12}-[0-9]{6,12}"
_PART = re.compile(rf"bad_latents_{POSITION}\.(json|pt)")
_SNAPSHOT_FILE = re.compile(rf"{POSITION}(\.json|/.+)")
ROUND_FOLDER = re.compile(r"round-[0-9]{2,}")

_STAGE_FOLDER = re.compile(
    rf"(?:^|/)(?:{ROUND_FOLDER.pattern}/(?:bad_latents|discriminator|stage3|audit|audit_before|audit_strength_[0-9.e-]+)"
    r"|prerequisites/(?:layouts|autoencoder|latents|stage1|stage2))$"
)


def is_state_record(name: str) -> bool:
    """Whether a file of this name directly below `state/` is the record of a state."""
    return is_snapshot_file(name) and "/" not in name


def is_part_record(name: str) -> bool:
    """Whether a file of this name among the parts of bad latents is the record of one."""
    return _PART.fullmatch(name) is not None and name.endswith(".json")


def is_snapshot_file(name: str) -> bool:
    """Whether a file of this name below `state/` is a state's record, `{token}-{number}.json`, or one of its files."""
    return _SNAPSHOT_FILE.fullmatch(name) is not None


def is_state_file(name: str) -> bool:
    """Whether a file of this name below a stage's `state/` is one of ours."""
    folder, _, part = name.partition("/")
    return is_snapshot_file(name) or name == PUBLISHING_NAME or (folder == PARTS_FOLDER and bool(_PART.fullmatch(part)))


def is_stage_folder(path: str) -> bool:
    """Whether a path ends like the folder of a stage of a round or of the prerequisites."""
    return _STAGE_FOLDER.search(path) is not None


# The folder under the root that all experiments share.
PREREQUISITES = "prerequisites"


def prerequisites_location(config: ExperimentConfig) -> str:
    """`{root}/prerequisites`: shared by every experiment under the root."""
    return join(config.artifacts.root, PREREQUISITES)


def run_location(config: ExperimentConfig) -> str:
    """`{root}/{experiment.name}`."""
    return join(config.artifacts.root, config.experiment.name)


def round_location(config: ExperimentConfig, number: int) -> str:
    """`{root}/{experiment.name}/round-01`."""
    return join(run_location(config), f"round-{number:02d}")


def stage3_location(config: ExperimentConfig) -> str:
    """`experiment.save_path`, or `{root}/{experiment.name}/stage3`."""
    return config.experiment.save_path or join(run_location(config), STAGE3_FOLDER)
