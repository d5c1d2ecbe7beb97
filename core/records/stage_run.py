"""Running a stage at most once: the record that it ends with marks it as finished."""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from core.inputs.locations import Location, is_remote
from core.records.artifacts import PUBLISHING_NAME, RECORD_NAME, STATE_FOLDER
from core.records.input_files import local_path
from core.records.lease import publishing_store
from core.records.ownership import OwnFiles, all_names, require_only_own
from core.records.provenance import Inputs, code_version, provenance_of, refuse_difference
from core.records.record_files import Record, create_record, read_record, written_meanwhile_error
from core.records.workspace import (
    StoredWorkspace,
    WatchedWorkspace,
    Workspace,
    drop_states,
    stage_files,
    workspace_folder,
)
from core.runtime import distributed, processes
from core.runtime.files import Entry, require_writable
from core.runtime.scratch import remove_abandoned
from core.storage.foreign_files import foreign_file_error
from core.storage.store import ArtifactsSection, Store, cache_folder, join, replace

log = logging.getLogger(__name__)

# The settings that choose the folder of a stage.
STAGE_PLACE = "folder (--output_dir, experiment.save_path or artifacts.root)"

Work = Callable[[Workspace, Mapping[str, Path]], dict[str, Any]]


def run_stage(
    stage: str,
    location: Location,
    inputs: Inputs,
    settings: Mapping[str, Any],
    work: Work,
    artifacts: ArtifactsSection | None = None,
) -> Record:
    """Record of the stage at `location`: the existing one, or a new one after `work` has made the stage's files.

    `work` gets the folder to fill and a local path of every input, and returns the stage's metrics. After a crash it
    finds the newest state in the folder and continues from it. Raises InputError, which names the difference, if the
    stage exists and was made from other inputs or settings, and if an input differs from its own record.
    Of several processes the first one reads, prepares and publishes. The others only work, in the same folder.
    """
    if distributed.rank() > 0:
        return _work_along(work)
    artifacts = artifacts or ArtifactsSection()
    store = publishing_store(location, artifacts)
    provenance = provenance_of(stage, inputs, settings, artifacts)
    record = read_record(store, RECORD_NAME)
    if record is not None:
        refuse_difference(record, provenance, store.uri)
        log.info("%s: already done (%s)", stage, store.uri)
        distributed.from_first(_Start(record=record))
        return record
    distributed.require_joined(stage)
    require_only_own(store, OwnFiles(store).is_of_open_stage, STAGE_PLACE)
    if not is_remote(store.uri):
        require_writable(Path(store.uri))
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(workspace_folder(store, cache_folder(artifacts)))
        workspace = StoredWorkspace(folder, store, provenance, artifacts)
        stack.enter_context(workspace)
        progress = workspace.restore(lambda state: refuse_difference(state, provenance, join(store.uri, STATE_FOLDER)))
        if progress is not None:
            log.info("%s: continuing from %s", stage, progress)
        paths = {name: local_path(path, artifacts) for name, path in inputs.items()}
        processes.start_others()
        distributed.from_first(_Start(folder, paths))
        metrics = work(workspace, paths)
        workspace.settle()
        outputs = _publish(store, folder)
        record = provenance | {
            "outputs": outputs,
            "metrics": metrics,
            "seconds": round(time.monotonic() - started, 1),
            "code": code_version(),
        }
        create_record(record, store, RECORD_NAME)
        workspace.drop_states()
    return distributed.from_first(record)


def remove_leftovers(store: Store) -> None:
    """Remove states and scratch files that a process left which was killed right after the record of its stage."""
    drop_states(store)
    if not is_remote(store.uri):
        remove_abandoned(Path(store.uri))


class _Start(NamedTuple):
    """What the first process tells the others: where to work, or the record of a finished stage."""

    folder: Path = Path()
    paths: Mapping[str, Path] = {}
    record: Record | None = None


def _publish(store: Store, folder: Path) -> dict[str, Entry]:
    """Upload the files of `folder`; size and sha256 of each. InputError if the user has a file of one of their names.

    Their names are written first, so that files of a process that dies meanwhile are known as ours.
    """
    names = [path.relative_to(folder).as_posix() for path in stage_files(folder)]
    own_files, states = OwnFiles(store), store.below(STATE_FOLDER)
    taken = {name for name in all_names(store) if not own_files.is_of_open_stage(name)}.intersection(names)
    if taken:
        if read_record(store, RECORD_NAME) is not None:
            raise written_meanwhile_error(store, RECORD_NAME)
        raise foreign_file_error(store.uri, min(taken), STAGE_PLACE)
    replace(states, PUBLISHING_NAME, json.dumps({"outputs": names}, indent=2).encode())
    return store.upload(folder, names)


def _work_along(work: Work) -> Record:
    """Record of the stage that the first process finds finished, or publishes after all have worked on it."""
    start = distributed.from_first(_Start())
    if start.record is not None:
        return start.record
    work(WatchedWorkspace(start.folder), start.paths)
    published: Record = {}
    return distributed.from_first(published)
