"""Garbage: files of this project in the runs under an artefact root that nothing needs any more."""

from dataclasses import dataclass

from core.records.artifacts import PREREQUISITES
from core.records.lease import hold, is_free
from core.records.ownership import OwnFiles
from core.records.record_forms import RecordError
from core.rounds.run import find_runs
from core.runtime.errors import InputError
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection, Store, StoredFile


@dataclass(frozen=True)
class LeftFile(StoredFile):
    """A file of this project that nothing needs, and `why`."""

    why: str


@dataclass(frozen=True)
class Garbage:
    """Garbage of one run, or of the prerequisites: files by name below `uri`, and unfinished uploads.

    Nothing is listed if a process works on the run (`busy`), or if its lease cannot be read (`unreadable` says why).
    """

    uri: str
    files: list[LeftFile]
    uploads: list[str]
    busy: bool = False
    unreadable: str = ""


def find_garbage(uri: str, grace_hours: float, artifacts: ArtifactsSection) -> list[Garbage]:
    """Garbage older than the grace period of every run under the root at `uri`, or of the run at `uri`.

    Only files that `core.records.ownership` recognises count; all others are the user's.
    """
    return [_found(store, 3600 * grace_hours) for store in _scopes(uri, artifacts)]


def remove_garbage(uri: str, grace_hours: float, artifacts: ArtifactsSection) -> Garbage:
    """What was removed: the garbage of the run, or of the prerequisites, at `uri`.

    It is searched again while the run's lease is held, because a stage may have finished since an earlier search.
    Raises LeaseError if another process works on the run.
    """
    store = open_store(uri, artifacts)
    with hold(uri, artifacts):
        garbage = _garbage_of(store, 3600 * grace_hours)
        store.delete([file.name for file in garbage.files])
        store.abort_uploads(3600 * grace_hours)
    return garbage


def _scopes(uri: str, artifacts: ArtifactsSection) -> list[Store]:
    store = open_store(uri, artifacts)
    if OwnFiles(store).is_run():
        return [store]
    scopes = find_runs(store)
    if PREREQUISITES in store.folders():
        scopes.append(store.below(PREREQUISITES))
    if not scopes:
        raise InputError(f"{uri} holds no run: give an artefact root, or a run's folder in it")
    return scopes


def _found(store: Store, grace_seconds: float) -> Garbage:
    try:
        free = is_free(store)
    except RecordError as error:  # the garbage of the other runs is still listed
        return Garbage(store.uri, [], [], unreadable=str(error))
    return _garbage_of(store, grace_seconds) if free else Garbage(store.uri, [], [], busy=True)


def _garbage_of(store: Store, grace_seconds: float) -> Garbage:
    files = list(store.files())
    own_files = OwnFiles(store, {file.name for file in files})
    left = []
    for file in files:
        found = own_files.find(file.name)
        if found is not None and found.obsolete and file.age >= grace_seconds:
            left.append(LeftFile(file.name, file.size, file.age, found.obsolete))
    return Garbage(store.uri, left, store.unfinished_uploads(grace_seconds))
