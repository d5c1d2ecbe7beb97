"""The model that a person names: a checkpoint's file, a folder of diffusers, or the round or run that made it."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.checkpoints.imported_models import load_experiment, model_place
from core.checkpoints.loading import find_checkpoint
from core.checkpoints.pipeline_config import pipeline_config
from core.config.experiment import ExperimentConfig
from core.inputs.locations import Location, is_remote
from core.inputs.safetensors_files import SUFFIX
from core.records.artifacts import CONFIG_NAME, ROUND_FOLDER, ROUND_RECORD, RUN_RECORD
from core.records.input_files import describe_input, is_model
from core.records.record_files import read_record
from core.records.record_forms import RecordError
from core.rounds.finished_rounds import RoundRecord, model_of_round, require_finished_round
from core.runtime.errors import InputError
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection, join, split_location
from core.training.prerequisites import with_prerequisites

_CHECKPOINTS = (".pt", SUFFIX)


@dataclass(frozen=True)
class NamedModel:
    """A diffusion checkpoint, and the config that says what else it takes to draw with it.

    `round_location` is the address of the finished round that made it; None if none is known.
    """

    config: ExperimentConfig
    checkpoint: Location
    round_location: str | None = None


def find_model(checkpoint: Location, config: Location | None = None, overrides: Sequence[str] = ()) -> NamedModel:
    """The model at `checkpoint`: a checkpoint's file, the folder or record of a finished round, or a run's folder.

    It may also be a folder that diffusers or `tasks.export` wrote, or a name on the Hugging Face hub. Of a run it is
    the model of the last finished round. The config is the file `config`, or the round's own, or what a folder of
    diffusers says. Raises InputError if a file is named without a config, if there is no such file or finished round,
    and if the config has another autoencoder than the round was made with.
    """
    checkpoint = model_place(checkpoint)
    given = None if config is None else load_experiment(config, overrides, diffusion=_models(checkpoint))
    if given is None and is_model(checkpoint, ArtifactsSection()):
        return NamedModel(pipeline_config(checkpoint, overrides), checkpoint)
    location = _round_at(checkpoint, ArtifactsSection() if given is None else given.artifacts)
    if location is None:
        if given is None:
            raise InputError(
                f"--checkpoint {checkpoint} does not say which config it belongs to: give --config CONFIG too, or the "
                "folder of the round that made it"
            )
        found = find_checkpoint(checkpoint)
        return NamedModel(with_prerequisites(given), found, _round_of(found, given.artifacts))
    chosen = with_prerequisites(given or load_experiment(join(location, CONFIG_NAME), overrides))
    record = require_finished_round(location, chosen)
    _refuse_other_autoencoder(chosen, record, location)
    return NamedModel(chosen, model_of_round(location, record["experiment"]), location)


def _round_of(checkpoint: Location, artifacts: ArtifactsSection) -> str | None:
    """Address of the finished round whose model is the file `checkpoint`; None if there is none."""
    location = str(checkpoint).rpartition("/stage3/")[0]
    if not ROUND_FOLDER.fullmatch(location.rpartition("/")[2]):
        return None
    with contextlib.suppress(RecordError):  # then the file is a model like any other
        record = read_record(open_store(location, artifacts), ROUND_RECORD)
        if record is not None and model_of_round(location, record["experiment"]) == str(checkpoint):
            return location
    return None


def _models(checkpoint: str) -> list[Location]:
    """`checkpoint` if it is a file or a folder of diffusers, whose sizes the config may follow; none for a round."""
    return [checkpoint] if checkpoint.endswith(_CHECKPOINTS) or is_model(checkpoint, ArtifactsSection()) else []


def find_start(start: Location, artifacts: ArtifactsSection) -> Location:
    """The checkpoint that is named as `start`: a file, or a folder, round or run as in `find_model`."""
    start = model_place(start)
    location = _round_at(start, artifacts, "--start")
    if location is None:
        return find_checkpoint(start)
    record = read_record(open_store(location, artifacts), ROUND_RECORD)
    assert record is not None, "_round_at has just read it"
    return model_of_round(location, record["experiment"])


def _round_at(place: Location, artifacts: ArtifactsSection, option: str = "--checkpoint") -> str | None:
    """Address of the finished round that `place` names; None if it names a checkpoint's file or model's folder."""
    text = str(place)
    names_record = text.rpartition("/")[2] == ROUND_RECORD
    if not names_record and not is_remote(text) and Path(find_checkpoint(text)).is_file():
        return None
    folder = split_location(text)[0] if names_record else text.rstrip("/") or "/"
    if not is_remote(folder) and not Path(folder).is_dir():
        raise InputError(f"{option} {text} does not exist: give a checkpoint's file, or the folder of a finished round")
    if is_remote(folder) and folder.endswith(_CHECKPOINTS):
        return None
    if not names_record and is_model(folder, artifacts):
        return None
    store = open_store(folder, artifacts)
    if read_record(store, ROUND_RECORD) is not None:
        return folder
    if not names_record and read_record(store, RUN_RECORD) is not None:
        names = [name for name in store.folders() if ROUND_FOLDER.fullmatch(name)]
        finished = [name for name in names if read_record(store.below(name), ROUND_RECORD) is not None]
        if finished:
            return join(folder, max(finished, key=lambda name: int(name.rpartition("-")[2])))
    raise InputError(
        f"{option} {text} holds no finished round: give a checkpoint's file, or the folder of a round that is finished"
    )


def _refuse_other_autoencoder(config: ExperimentConfig, record: RoundRecord, location: str) -> None:
    checkpoint, before = config.required("autoencoder.checkpoint"), record["inputs"]["autoencoder"]
    if describe_input(find_checkpoint(checkpoint), "autoencoder", config.artifacts)["sha256"] != before["sha256"]:
        raise InputError(
            f"{location} was made with the autoencoder {before['path']}, the config has {checkpoint}, which would draw "
            f"something else: set autoencoder.checkpoint={before['path']}"
        )
