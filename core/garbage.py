"""What lies in the runs of an artefact root that no record names."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.artifacts import REPORT_NAME, STAGE3_FOLDER
from core.errors import InputError
from core.latent_parts import PARTS_FOLDER
from core.lease import LEASE_NAME, hold, is_free
from core.records import RECORD_NAME, read_record
from core.rounds import ANNOUNCED_NAME, CONFIG_NAME, DECISION_NAME, ROUND_RECORD, RUN_RECORD
from core.run_status import PREREQUISITES, find_runs
from core.scratch import SCRATCH_PREFIX, is_abandoned
from core.store import ArtifactsSection, Store, StoredFile, is_remote, open_store
from core.workspace import STATE_FOLDER, newest_state

# Files that are kept wherever they are, besides those that records name.
_KEPT_NAMES = {RECORD_NAME, ROUND_RECORD, RUN_RECORD, CONFIG_NAME, LEASE_NAME, DECISION_NAME}
_KEPT_NAMES |= {ANNOUNCED_NAME, REPORT_NAME}


@dataclass(frozen=True)
class Garbage:
    """Garbage of one run, or of the prerequisites: files by name below `uri`, and uploads never finished.

    `busy` is true where a process works on it; then nothing is looked for.
    """

    uri: str
    files: list[StoredFile]
    uploads: list[str]
    busy: bool = False


def find_garbage(uri: str, grace_hours: float) -> list[Garbage]:
    """Garbage, older than the grace period, of every run under the root at `uri`, or of the run at `uri`.

    Only folders that hold a run, and the prerequisites, are looked into: whatever else lies under the root is not ours.
    """
    return [
        _garbage_of(store, 3600 * grace_hours) if is_free(store) else Garbage(store.uri, [], [], busy=True)
        for store in _scopes(uri)
    ]


def remove_garbage(uri: str, grace_hours: float, artifacts: ArtifactsSection) -> Garbage:
    """Remove the garbage of the run at `uri`, or of the prerequisites there; what was removed.

    Looked for again, holding the run's lease: what was garbage before may belong to a stage finished since. Raises
    LeaseError if somebody works on it.
    """
    store = open_store(uri, artifacts)
    with hold(uri, artifacts):
        garbage = _garbage_of(store, 3600 * grace_hours)
        store.delete([file.name for file in garbage.files])
        store.abort_uploads(3600 * grace_hours)
    return garbage


def _scopes(uri: str) -> list[Store]:
    store = open_store(uri)
    if read_record(store, RUN_RECORD) is not None:
        return [store]
    scopes = find_runs(store)
    if PREREQUISITES in store.folders():
        scopes.append(store.below(PREREQUISITES))
    if not scopes:
        raise InputError(f"{uri} holds no run: give an artefact root, or a run's folder in it")
    return scopes


def _garbage_of(store: Store, grace_seconds: float) -> Garbage:
    files = list(store.files())
    named = set(_named(store, files))
    left = [file for file in files if file.name not in named and file.age >= grace_seconds and not _in_use(store, file)]
    return Garbage(store.uri, left, store.unfinished_uploads(grace_seconds))


def _named(store: Store, files: list[StoredFile]) -> Iterator[str]:
    names = {file.name for file in files}
    if f"{STAGE3_FOLDER}/{RECORD_NAME}" not in names and not is_remote(store.uri):
        # Continued by hand: such a training works there without a record, and may be at work.
        yield from (path for path in names if path.startswith(f"{STAGE3_FOLDER}/"))
    for path in names:
        folder, _, name = path.rpartition("/")
        if name in _KEPT_NAMES and SCRATCH_PREFIX not in path:
            yield path
        if name == RECORD_NAME:
            record = read_record(store.below(folder) if folder else store, name)
            yield from (f"{folder}/{output}" for output in record.get("outputs", {}))
    unfinished = {path.partition(f"/{STATE_FOLDER}/")[0] for path in names if f"/{STATE_FOLDER}/" in path}
    for stage in unfinished:
        if f"{stage}/{RECORD_NAME}" in names:
            continue  # the stage is finished and needs its states no more
        yield from (path for path in names if path.startswith(f"{stage}/{STATE_FOLDER}/{PARTS_FOLDER}/"))
        newest = newest_state(store.below(stage).below(STATE_FOLDER))
        if newest is not None:
            name, state = newest
            yield f"{stage}/{STATE_FOLDER}/{name}.json"
            yield from (f"{stage}/{STATE_FOLDER}/{entry['state']}/{file}" for file, entry in state["files"].items())


def _in_use(store: Store, file: StoredFile) -> bool:
    """Whether the file is in the scratch folder of a process that lives."""
    parts = file.name.split("/")
    at = next((index for index, part in enumerate(parts) if part.startswith(SCRATCH_PREFIX)), None)
    if at is None or is_remote(store.uri):
        return False
    return not is_abandoned(Path(store.uri, *parts[: at + 1]))
