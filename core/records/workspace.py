"""The folder that a stage works in, and its resumable state, which is saved in the background."""

import contextlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from core.inputs.locations import is_remote
from core.inputs.tensor_files import save_tensors
from core.records.artifacts import PUBLISHING_NAME, STATE_FOLDER, is_state_file, is_state_record
from core.records.created_files import CreatedFiles
from core.records.lease import lease_of
from core.records.record_forms import parse_record
from core.runtime.files import Entry, file_entry, link_or_copy
from core.runtime.scratch import SCRATCH_PREFIX, scratch_folder
from core.storage.store import ArtifactsSection, Store

log = logging.getLogger(__name__)


class _StateFile(Entry):
    """A file of a state, and the name of the state that stored it: this one or an earlier one."""

    state: str


class Workspace:
    """A folder that a stage writes to. `keep` saves the state from which the stage resumes after a crash.

    A stage that runs without a store works in its output folder, and its state is a file there.
    """

    # Whether this process writes the files, of several that train together.
    writes = True

    def __init__(self, folder: Path):
        self.folder = folder
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Also after an interruption: the next start resumes from the state that is being written.
        if self._writer is not None:
            self._writer.join()

    def claim(self, is_resumed: bool) -> None:
        """Called before the stage writes; `is_resumed` if it continues from the files in the folder."""

    def keep(self, name: str, value: Callable[[], Any], progress: str) -> None:
        """Write the state `value()` to `name` in the background, unless the last one is still being written.

        `progress` says in words how far the stage is. Raises the error of an earlier background write, if it failed.
        """
        if not self._is_due():
            return
        copied = _copy_on_cpu(value())
        self._start(lambda: save_tensors(copied, self.folder / name))

    def keep_files(self, progress: str) -> None:
        """The same for a stage whose state is the files that it has written so far."""

    def settle(self) -> None:
        """Wait until the state is written; raise its error if that failed."""
        if self._writer is not None:
            self._writer.join()
        self._raise_failure()

    def _is_due(self) -> bool:
        self._raise_failure()
        return self._writer is None or not self._writer.is_alive()

    def _start(self, write: Callable[[], None]) -> None:
        def work() -> None:
            try:
                write()
            except BaseException as error:  # raised in the stage's thread, by its next call
                self._failure = error

        self._writer = threading.Thread(target=work, name="state", daemon=True)
        self._writer.start()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure


class ClaimedWorkspace(Workspace):
    """A folder of the user in which a stage creates files of these `names`, which `made` records there.

    `setting` is the key of the config that chooses the folder.
    """

    def __init__(self, folder: Path, made: CreatedFiles, names: Sequence[str], setting: str):
        super().__init__(folder)
        self._made, self._names, self._setting = made, names, setting

    def claim(self, is_resumed: bool) -> None:
        """Record that files of these names are ours, and remove those of an earlier attempt if it is not resumed."""
        if not is_resumed:
            self._made.declare(self._names, self._setting)
            self._made.remove(self._names)
        self._made.remove_partials()


class WatchedWorkspace(Workspace):
    """The folder of the first process of the same training, which alone writes to it."""

    writes = False

    def keep(self, name: str, value: Callable[[], Any], progress: str) -> None:
        """Does nothing: the first process saves the state."""


class StoredWorkspace(Workspace):
    """A temporary folder whose state goes to the store that the stage will be published in.

    A state is a snapshot of the folder's files, `state/{token}-{number}/`, and a small record that is created after
    them. It never changes, and older states are deleted once it is stored. Its name begins with the fencing token of
    the lease, so a state of the present holder is always newer than one of an earlier holder.
    """

    def __init__(self, folder: Path, store: Store, provenance: Mapping[str, Any], artifacts: ArtifactsSection):
        super().__init__(folder)
        self._stage, self._store = store, store.below(STATE_FOLDER)
        self._provenance = provenance
        self._interval = 60 * artifacts.state_minutes
        self._lease = lease_of(store.uri)
        self._token = self._lease.token if self._lease else 0
        self._number, self._saved_at = 0, time.monotonic()
        self._is_announced = False

    def restore(self, differs: Callable[[Mapping[str, Any]], None]) -> str | None:
        """Put the files of the newest state into the folder; its progress in words, None if there is no state.

        `differs` raises an error if the state was made from something else.
        """
        newest = newest_state(self._store)
        if newest is None:
            return None
        name, state = newest
        differs(state)
        self._token, self._number = max((self._token, self._number), _position(name))
        stored = {f"{entry['state']}/{file}": _content(entry) for file, entry in state["files"].items()}
        fetched = self._store.fetch(stored)
        for file, entry in state["files"].items():
            _link(fetched / entry["state"] / file, self.folder / file)
        progress: str = state["progress"]
        return progress

    def keep(self, name: str, value: Callable[[], Any], progress: str) -> None:
        if not self._is_due():
            return
        copied = _copy_on_cpu(value())
        with self._snapshot() as snapshot:
            self._start(lambda: self._publish(snapshot, progress, name, copied))

    def keep_files(self, progress: str) -> None:
        if self._is_due():
            with self._snapshot() as snapshot:
                self._start(lambda: self._publish(snapshot, progress))

    def drop_states(self) -> None:
        """Remove all states and their folder, once the stage is finished."""
        drop_states(self._stage)

    def _is_due(self) -> bool:
        if self._lease is not None:
            self._lease.check()
        return super()._is_due() and time.monotonic() - self._saved_at >= self._interval

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[Path]:
        """A folder of links to the files that the stage has written. Links suffice, as files are only ever replaced."""
        self._number += 1
        snapshot = self.folder / f"{SCRATCH_PREFIX}state" / _name(self._token, self._number)
        for path in stage_files(self.folder):
            _link(path, snapshot / path.relative_to(self.folder))
        snapshot.mkdir(parents=True, exist_ok=True)
        yield snapshot
        self._saved_at = time.monotonic()

    def _publish(self, snapshot: Path, progress: str, name: str | None = None, value: Any = None) -> None:
        if name is not None:
            save_tensors(value, snapshot / name, on_disk=False)
        if not self._is_announced:
            # Before the first file, so that the files of a process that dies are recognised as ours.
            self._store.create(PUBLISHING_NAME, json.dumps({"outputs": []}).encode())
            self._is_announced = True
        files = self._upload_changed(snapshot)
        state = {"progress": progress, "files": files, **self._provenance}
        self._store.create(f"{snapshot.name}.json", json.dumps(state, indent=2, sort_keys=True).encode())
        shutil.rmtree(snapshot)
        self._drop_older(snapshot.name, {f"{entry['state']}/{file}" for file, entry in files.items()})

    def _upload_changed(self, snapshot: Path) -> dict[str, _StateFile]:
        """Every file of the snapshot, with the state that holds it. Only files that changed are stored again."""
        newest = newest_state(self._store)
        known: Mapping[str, _StateFile] = newest[1]["files"] if newest else {}
        files: dict[str, _StateFile] = {}
        changed = []
        for path in stage_files(snapshot):
            name, entry = path.relative_to(snapshot).as_posix(), file_entry(path)
            if name in known and _content(known[name]) == entry:
                files[name] = {**entry, "state": known[name]["state"]}
            else:
                changed.append(f"{snapshot.name}/{name}")
        for stored, entry in self._store.upload(snapshot.parent, changed).items():
            files[stored.removeprefix(f"{snapshot.name}/")] = {**entry, "state": snapshot.name}
        return files

    def _drop_older(self, name: str, needed: set[str]) -> None:
        states = {file.name: _state_of(file.name) for file in self._store.files()}
        ours = {file: state for file, state in states.items() if is_state_record(f"{state}.json")}
        older = [file for file, state in ours.items() if _position(state) < _position(name)]
        # Records first: a record must not name files that are missing.
        self._store.delete([file for file in older if "/" not in file])
        self._store.delete([file for file in older if "/" in file and file not in needed])


def newest_state(store: Store) -> tuple[str, dict[str, Any]] | None:
    """Name and record of the newest state in the store of a stage's states; RecordError if it has another form.

    Files with other names are ignored: they are not ours.
    """
    names = [file.name.removesuffix(".json") for file in store.files() if is_state_record(file.name)]
    for name in sorted(names, key=_position, reverse=True):
        file = store.read(f"{name}.json")
        if file is not None:
            return name, parse_record(file.data, store.uri, f"{name}.json")
    return None


def drop_states(stage: Store) -> None:
    """Remove all states of the finished stage in the store, and their folder."""
    names = [file.name for file in stage.below(STATE_FOLDER).files() if is_state_file(file.name)]
    stage.delete([f"{STATE_FOLDER}/{name}" for name in names])


def workspace_folder(store: Store, cache: Path) -> contextlib.AbstractContextManager[Path]:
    """A temporary folder for a stage: in the folder of a local store, so that files are published by a link."""
    return scratch_folder(cache if is_remote(store.uri) else Path(store.uri))


def stage_files(folder: Path) -> list[Path]:
    """Every file below `folder` that is not hidden, in order."""
    files = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            files.append(path)
    return files


def _copy_on_cpu(value: Any) -> Any:
    """`value` with every tensor copied, so that training can continue while it is written."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, torch.nn.Module):
        raise TypeError("give a module's state_dict")
    if isinstance(value, dict):
        return {key: _copy_on_cpu(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy_on_cpu(inner) for inner in value)
    return value


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    link_or_copy(source, target)


def _content(entry: Entry) -> Entry:
    return {"size": entry["size"], "sha256": entry["sha256"]}


def _name(token: int, number: int) -> str:
    return f"{token:06d}-{number:06d}"


def _position(name: str) -> tuple[int, int]:
    token, _, number = name.partition("-")
    return int(token), int(number)


def _state_of(file: str) -> str:
    return file.partition("/")[0].removesuffix(".json")
