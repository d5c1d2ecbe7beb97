"""The user's own folder of a Stage 3 that is trained outside of a round: who may write there, and what is kept."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from core.checkpoints.loading import load_checkpoint
from core.config.experiment import ExperimentConfig
from core.inputs.locations import Location, is_remote
from core.records.created_files import CreatedFiles
from core.records.workspace import ClaimedWorkspace, WatchedWorkspace, Workspace
from core.runtime import distributed
from core.runtime.errors import InputError
from core.runtime.files import require_writable
from core.runtime.scratch import locked_folder
from core.training.diffusion_stage import INPUT_KEYS
from core.training.file_names import checkpoint_name, stage3_files

_SAVE_PATH = "experiment.save_path"


@contextlib.contextmanager
def own_folder(
    config: ExperimentConfig, folder: Path, inputs: Mapping[str, Location], resume: bool | None
) -> Iterator[Workspace]:
    """The workspace in the user's `folder`, which this process holds until the end.

    InputError if there is no training to resume and the folder has a file that `made.json` does not list as ours.
    LeaseError if another process trains there.
    """
    if not distributed.is_first():
        yield WatchedWorkspace(folder)
        return
    names = stage3_files(config.experiment.name)
    require_writable(folder)
    with locked_folder(folder):
        made = CreatedFiles(folder)
        if not resumes(config, folder, resume):
            # Earlier versions wrote no made.json: their training can be resumed, but not replaced.
            if not made.covers(names):
                made.require_empty(_SAVE_PATH)
            _require_nothing_to_lose(config, made, inputs, resume)
        with ClaimedWorkspace(folder, made, names, _SAVE_PATH) as workspace:
            yield workspace


def resumes(config: ExperimentConfig, folder: Path, resume: bool | None) -> bool:
    """Whether Stage 3 resumes from the latest checkpoint in `folder`: there is one, and `resume` is not False."""
    return resume is not False and (folder / checkpoint_name(config.experiment.name, "latest")).exists()


def _require_nothing_to_lose(
    config: ExperimentConfig, made: CreatedFiles, inputs: Mapping[str, Location], resume: bool | None
) -> None:
    """InputError if a new start would remove an input of the training, or epochs that the user did not give up."""
    removed = [made.folder / name for name in made.existing(stage3_files(config.experiment.name))]
    for name, location in inputs.items():
        if any(path.samefile(location) for path in removed if not is_remote(location) and Path(location).exists()):
            raise InputError(
                f"{INPUT_KEYS[name]} {location} is a file that a new start removes: move it, or choose another "
                f"{_SAVE_PATH}"
            )
    if resume is False:
        return
    for path in removed:
        if path.suffix != ".pt" or "_checkpoint_" not in path.name:
            continue
        # A training that died before its first latest checkpoint has at most these epochs.
        epoch = load_checkpoint(path, "checkpoint").get("epoch", 0)
        if epoch >= config.training.latest_interval:
            raise InputError(
                f"{path} is of epoch {epoch}, and there is no {config.experiment.name}_checkpoint_latest.pt beside it "
                "to resume from: put that back, or give --no-resume to remove it and start again"
            )
