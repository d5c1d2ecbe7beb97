"""A run, all rounds of an experiment: its lease, its folder, its start and whether its data changed."""

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict, cast

from core.config.experiment import ExperimentConfig
from core.config.loading import config_bytes, load_config
from core.records.artifacts import (
    CONFIG_NAME,
    ROUND_FOLDER,
    ROUND_RECORD,
    RUN_RECORD,
    STAGE3_FOLDER,
    round_location,
    run_location,
)
from core.records.input_files import describe_input
from core.records.lease import hold, publishing_store
from core.records.ownership import OwnFiles, require_only_own
from core.records.record_files import create_record, read_record
from core.rounds.finished_rounds import InputEntry, last_finished_round, require_finished_round
from core.rounds.round_settings import refuse_other_settings
from core.runtime.errors import InputError, UnavailableError
from core.storage.foreign_files import foreign_file_error, matches
from core.storage.opening import open_store
from core.storage.store import Store, join, replace, split_location
from core.trackers.tracking import require_trackers
from core.training.file_names import stage3_files
from core.training.prerequisites import with_prerequisites

_ROUND_CONFIG = re.compile(rf"{ROUND_FOLDER.pattern}/{re.escape(CONFIG_NAME)}")


class RunRecord(TypedDict):
    """The record of a run; `parent` is the record of the round that it was forked from, if it was."""

    experiment: str
    parent: InputEntry | None


# Requests to a bucket at the same time.
REQUESTS_AT_ONCE = 16


@contextlib.contextmanager
def hold_run(config: ExperimentConfig, wait: bool = False) -> Iterator[None]:
    """The lease of the experiment's run; LeaseError if another process works on it and `wait` is false.

    InputError, before anything is written, if the folder holds files that are not ours and no record of a run, and if a
    tracker of the config cannot be used.
    """
    require_trackers(config)
    _require_own_folder(config)
    with hold(run_location(config), config.artifacts, wait):
        yield


def begin_run(config: ExperimentConfig, fork_from: str | None = None) -> None:
    """Store the config of the run and, on its first start, the round that it is forked from.

    `fork_from` is the address of a round's folder or record. Raises InputError if there is no such round, if the run
    was forked from another one, or if a finished round of the run was made with other settings.
    """
    store = publishing_store(run_location(config), config.artifacts)
    parent = None if fork_from is None else _fork_entry(config, fork_from)
    begun = read_run_record(store)
    if begun is None:
        _require_own_folder(config)
        create_record({"experiment": config.experiment.name, "parent": parent}, store, RUN_RECORD)
    elif parent is not None and (begun["parent"] is None or begun["parent"]["sha256"] != parent["sha256"]):
        before = begun["parent"]["path"] if begun["parent"] else "no other round"
        raise InputError(f"{store.uri} was forked from {before}, not from {fork_from}: give it another experiment.name")
    refuse_other_settings(config)
    replace(store, CONFIG_NAME, config_bytes(config))


def read_run_record(store: Store) -> RunRecord | None:
    """The record of the run in the store; None if no run was begun there. RecordError if it is damaged."""
    return cast(RunRecord | None, read_record(store, RUN_RECORD))


def find_runs(root: Store, foreign: list[str] | None = None) -> list[Store]:
    """The runs under a root: the folders that hold the record of a run.

    A folder whose run.json has another form is not a run of ours; a line on it is added to `foreign`.
    """
    runs, lines = [], []
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        stores = [root.below(name) for name in root.folders()]
        for store, begun in zip(stores, pool.map(_begun, stores), strict=True):
            if isinstance(begun, InputError):
                lines.append(f"not a run: {begun}")
            elif begun is not None:
                runs.append(store)
    if foreign is not None:
        foreign += lines
    return runs


def _begun(store: Store) -> RunRecord | InputError | None:
    try:
        return read_run_record(store)
    except UnavailableError:
        raise
    except InputError as error:
        return error


def fork_parent(config: ExperimentConfig) -> str | None:
    """Address of the round that the run was forked from; None if it was not."""
    begun = read_run_record(open_store(run_location(config), config.artifacts))
    if begun is None or begun["parent"] is None:
        return None
    return split_location(begun["parent"]["path"])[0]


def has_new_data(config: ExperimentConfig) -> bool:
    """Whether the content of the config's manifest changed since the last finished round; False before the first."""
    number = last_finished_round(config)
    if number == 0:
        return False
    record = require_finished_round(round_location(config, number), config)
    manifest = with_prerequisites(config).required("dataset.manifest")
    now = describe_input(manifest, "manifest", config.artifacts)
    return bool(record["inputs"]["manifest"]["sha256"] != now["sha256"])


def _fork_entry(config: ExperimentConfig, fork_from: str) -> InputEntry:
    record = fork_from if fork_from.endswith(f"/{ROUND_RECORD}") else join(fork_from, ROUND_RECORD)
    if open_store(split_location(record)[0], config.artifacts).read(ROUND_RECORD) is None:
        raise InputError(f"--fork-from {fork_from}: there is no {record}; give the address of a finished round")
    return cast(InputEntry, describe_input(record, "parent", config.artifacts))


def _require_own_folder(config: ExperimentConfig) -> None:
    store = open_store(run_location(config), config.artifacts)
    if OwnFiles(store).is_run():
        return
    try:
        _require_no_foreign_files(store, config)
    except InputError:
        # Another process may have begun the run while its folder was listed: then the lease says who holds it.
        if not OwnFiles(store).is_run():
            raise


def _require_no_foreign_files(store: Store, config: ExperimentConfig) -> None:
    own_files, name = OwnFiles(store), config.experiment.name
    setting = "experiment.name or artifacts.root"
    if store.read(RUN_RECORD) is not None:  # named first: because of it no other file in the folder counts as ours
        raise foreign_file_error(store.uri, RUN_RECORD, setting)
    # Earlier versions kept no record of a Stage 3 outside rounds, nor of a run whose rounds were started one by one.
    require_only_own(
        store,
        lambda file: own_files.find(file) or _is_of_lone_stage3(file, name) or _is_round_config(store, file, config),
        setting,
    )


def _is_of_lone_stage3(file: str, name: str) -> bool:
    """Whether continue-stage-3, started outside a round of the experiment `name`, writes a file of this name."""
    folder, _, below = file.partition("/")
    return folder == STAGE3_FOLDER and matches(below, stage3_files(name))


def _is_round_config(store: Store, file: str, config: ExperimentConfig) -> bool:
    """Whether the file is the config of a round of the experiment."""
    if not _ROUND_CONFIG.fullmatch(file):
        return False
    with contextlib.suppress(InputError):
        found = load_config(join(store.uri, file), artifacts=config.artifacts)
        return found.experiment.name == config.experiment.name
    return False
