"""The folder a stage works in, and its resumable state, kept beside the training loop rather than in it."""

import contextlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.inputs.tensor_files import save_tensors
from core.records.artifacts import PUBLISHING_NAME, STATE_FOLDER, is_state_file, is_state_name
from core.records.lease import lease_of
from core.records.made_files import MadeFiles
from core.records.record_forms import parse_record
from core.runtime.files import file_entry
from core.runtime.scratch import SCRATCH_PREFIX, scratch_folder
from core.storage.store import ArtifactsSection, Store, is_remote

log = logging.getLogger(__name__)


class Workspace:
    """A folder a stage writes to, `keep` what it needs to go on after a crash.

    A stage run by itself works in its output folder, and its state is a file there. `writes` says whether this
    process is the one that does.
    """

    writes = True

    def __init__(self, folder: Path):
        self.folder = folder
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> "Workspace":
        return self

    def __exit__(self, *_: object) -> None:
        # Also when interrupted: the state being written is what the next start goes on from.
        if self._writer is not None:
            self._writer.join()

    def claim(self, going_on: bool) -> None:
        """Say that the stage is about to write, and whether it goes on from what the folder holds."""

    def keep(self, name: str, value: Callable[[], Any], progress: str) -> None:
        """Write the state `value()` to `name` in the background; leave it if the last one is still being written.

        `progress` says in words how far the stage is. Raises what went wrong while an earlier state was written.
        """
        if not self._is_due():
            return
        copied = _copy_on_cpu(value())
        self._start(lambda: save_tensors(copied, self.folder / name))

    def keep_files(self, progress: str) -> None:
        """The same for a stage whose state is the files it has written so far."""

    def settle(self) -> None:
        """Wait until the state being written is safe; raise what went wrong with it."""
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
            except BaseException as error:  # raised in the stage's own thread, at its next call
                self._failure = error

        self._writer = threading.Thread(target=work, name="state", daemon=True)
        self._writer.start()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure


class ClaimedWorkspace(Workspace):
    """A folder of the user's in which a stage makes files of these `names`, as the record `made` there says.

    `setting` is the key of the config that chooses the folder.
    """

    def __init__(self, folder: Path, made: MadeFiles, names: Sequence[str], setting: str):
        super().__init__(folder)
        self._made, self._names, self._setting = made, names, setting

    def claim(self, going_on: bool) -> None:
        """Note that the names are ours, and remove what an earlier try left of them that is needed no more."""
        if not going_on:
            self._made.declare(self._names, self._setting)
            self._made.remove(self._names)
        self._made.remove_partials()


class WatchedWorkspace(Workspace):
    """The folder of another process of the same training, which alone writes to it."""

    writes = False

    def keep(self, name: str, value: Callable[[], Any], progress: str) -> None:
        """Nothing: the first process keeps the state."""


class StoredWorkspace(Workspace):
    """A scratch folder whose state goes to the store the stage will be published in.

    A state is the files of the folder as they were at one instant, under `state/{token}-{number}/`, and a small record
    created after them; it is immutable, and older ones go once it is safe. The lease's fencing token leads the
    name, so the newest of the rightful holder always counts.
    """

    def __init__(self, folder: Path, store: Store, provenance: Mapping[str, Any], artifacts: ArtifactsSection):
        super().__init__(folder)
        self._stage, self._store = store, store.below(STATE_FOLDER)
        self._made_from = provenance
        self._interval = 60 * artifacts.state_minutes
        self._lease = lease_of(store.uri)
        self._token = self._lease.token if self._lease else 0
        self._number, self._kept = 0, time.monotonic()
        self._begun = False

    def restore(self, differs: Callable[[Mapping[str, Any]], None]) -> str | None:
        """Progress of the newest state, whose files are put into the folder; None if there is no state.

        `differs` raises for what the state was made from if that is something else.
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
        return state["progress"]

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
        """Remove every state, and their folder: the stage is finished."""
        names = [file.name for file in self._store.files() if is_state_file(file.name)]
        self._stage.delete([f"{STATE_FOLDER}/{name}" for name in names])

    def _is_due(self) -> bool:
        if self._lease is not None:
            self._lease.check()
        return super()._is_due() and time.monotonic() - self._kept >= self._interval

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[Path]:
        """A folder of links to what the stage has written so far; files are only ever replaced, not changed."""
        self._number += 1
        snapshot = self.folder / f"{SCRATCH_PREFIX}state" / _name(self._token, self._number)
        for path in stage_files(self.folder):
            _link(path, snapshot / path.relative_to(self.folder))
        snapshot.mkdir(parents=True, exist_ok=True)
        yield snapshot
        self._kept = time.monotonic()

    def _publish(self, snapshot: Path, progress: str, name: str | None = None, value: Any = None) -> None:
        if name is not None:
            save_tensors(value, snapshot / name, on_disk=False)
        files = {path.relative_to(snapshot).as_posix(): file_entry(path) for path in stage_files(snapshot)}
        if not self._begun:
            # Before the first of the files: a process that dies meanwhile leaves files that are known for ours.
            self._store.create(PUBLISHING_NAME, json.dumps({"outputs": []}).encode())
            self._begun = True
        before = newest_state(self._store)
        known = before[1]["files"] if before else {}
        for file, entry in files.items():
            there = known.get(file)
            entry["state"] = there["state"] if there and _content(there) == _content(entry) else snapshot.name
        added = {f"{snapshot.name}/{file}": entry for file, entry in files.items() if entry["state"] == snapshot.name}
        for file, stored in self._store.upload(snapshot.parent, added).items():
            added[file].update(stored)
        state = {"progress": progress, "files": files, **self._made_from}
        self._store.create(f"{snapshot.name}.json", json.dumps(state, indent=2, sort_keys=True).encode())
        shutil.rmtree(snapshot)
        self._drop_older(snapshot.name, {f"{entry['state']}/{file}" for file, entry in files.items()})

    def _drop_older(self, name: str, needed: set[str]) -> None:
        states = {file.name: _state_of(file.name) for file in self._store.files()}
        ours = {file: state for file, state in states.items() if is_state_name(f"{state}.json")}
        older = [file for file, state in ours.items() if _position(state) < _position(name)]
        # Records first: what is named must be there.
        self._store.delete([file for file in older if "/" not in file])
        self._store.delete([file for file in older if "/" in file and file not in needed])


def newest_state(store: Store) -> tuple[str, dict[str, Any]] | None:
    """Name and record of the newest state in the store of a stage's states; RecordError if that is of another form.

    Files of other names are not ours.
    """
    names = [file.name.removesuffix(".json") for file in store.files() if is_state_name(file.name)]
    for name in sorted(names, key=_position, reverse=True):
        there = store.read(f"{name}.json")
        if there is not None:
            return name, parse_record(there.data, store.uri, f"{name}.json")
    return None


def workspace_folder(store: Store, cache: Path) -> contextlib.AbstractContextManager[Path]:
    """A scratch folder to make a stage in: beside a local store's files, so that publishing is a link."""
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
    """`value` with every tensor copied, so that training may go on while it is written."""
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
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _content(entry: Mapping[str, Any]) -> Any:
    return {"size": entry["size"], "sha256": entry["sha256"]}


def _name(token: int, number: int) -> str:
    return f"{token:06d}-{number:06d}"


def _position(name: str) -> tuple[int, int]:
    token, _, number = name.partition("-")
    return int(token), int(number)


def _state_of(file: str) -> str:
    return file.partition("/")[0].removesuffix(".json")
