"""Decides which files in a store this project made. All others belong to the user.

A file is ours if one of our records names it, or if its name is one of our temporary names. Only such files are ever
removed or overwritten.
"""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.inputs.locations import is_remote
from core.records.artifacts import (
    ANNOUNCED_NAME,
    BEFORE_AFTER_NAME,
    CONFIG_NAME,
    DECISION_NAME,
    LEASE_NAME,
    MADE_NAME,
    PUBLISHING_NAME,
    RECORD_NAME,
    REPORT_NAME,
    ROUND_FOLDER,
    ROUND_RECORD,
    RUN_RECORD,
    STATE_FOLDER,
    is_snapshot_file,
    is_stage_folder,
    is_state_file,
)
from core.records.record_forms import RecordError, parse_record
from core.records.workspace import newest_state
from core.runtime.scratch import SCRATCH_PREFIX, is_abandoned, is_free_partial, is_scratch_name, partial_of
from core.storage.foreign_files import foreign_file_error, matches, names_below
from core.storage.local_store import LOCK_NAME
from core.storage.store import Store

# Names of our records, which may be in any folder.
_RECORDS = (RECORD_NAME, ROUND_RECORD, RUN_RECORD, LEASE_NAME, MADE_NAME)
# Names of all small files that we write.
_WRITTEN = (*_RECORDS, CONFIG_NAME, REPORT_NAME, BEFORE_AFTER_NAME, DECISION_NAME, ANNOUNCED_NAME)
_PROBE = re.compile(r"\.probe-[0-9a-f]{16}")


@dataclass(frozen=True)
class OwnFile:
    """A file of ours. `obsolete` says why nothing needs it any more; it is empty if the file is needed."""

    obsolete: str = ""


class OwnFiles:
    """Finds our files in a store. It reads each record at most once.

    If the caller knows the names of all files, `names` saves requests for records that do not exist.
    """

    def __init__(self, store: Store, names: Collection[str] | None = None):
        self._store, self._remote, self._names = store, is_remote(store.uri), names
        self._records: dict[str, dict[str, Any] | None] = {}
        self._newest: dict[str, set[str] | None] = {}

    def find(self, name: str) -> OwnFile | None:
        """The file `name` as one of ours; None if it belongs to the user."""
        found = self._scratch(name) or self._state(name) or self._recorded(name)
        return OwnFile() if found is None and self._is_fixed(name) else found

    def is_of_open_stage(self, name: str) -> bool:
        """Whether the file comes from an interrupted attempt at a stage, if the store is the stage's folder."""
        if self._scratch(name) is not None or name in _outputs(self._record(STATE_FOLDER, PUBLISHING_NAME)):
            return True
        return name.startswith(f"{STATE_FOLDER}/") and self._state(name) is not None

    def is_run(self, folder: str = "") -> bool:
        """Whether one of our runs was started in `folder`."""
        return self._record(folder, RUN_RECORD) is not None

    def _scratch(self, name: str) -> OwnFile | None:
        """A file in a temporary folder, a partial file, or a probe of a bucket."""
        parts = name.split("/")
        at = next((index for index, part in enumerate(parts) if is_scratch_name(part)), None)
        if at is not None and not self._remote:
            ended = is_abandoned(Path(self._store.uri, *parts[: at + 1]))
            return OwnFile("temporary folder of a process that has ended" if ended else "")
        of = partial_of(parts[-1])
        if of is not None and not self._remote and self._is_written_here("/".join([*parts[:-1], of])):
            ended = is_free_partial(Path(self._store.uri, name))
            return OwnFile("partial file of a process that has ended" if ended else "")
        if _PROBE.fullmatch(parts[-1]) and self._remote:
            return OwnFile("probe of a process that has ended")
        return None

    def _is_written_here(self, name: str) -> bool:
        """Whether we write a file of this name, which need not exist yet."""
        states = any(is_state_file(state) for _, state in _splits(name, STATE_FOLDER))
        return name.rpartition("/")[2] in _WRITTEN or states or self._recorded(name) is not None

    def _state(self, name: str) -> OwnFile | None:
        """A file of a stage's states, or its list of files to publish."""
        for stage, state in _splits(name, STATE_FOLDER):
            if not is_state_file(state):
                continue
            if self._record(stage, RECORD_NAME) is not None:
                return OwnFile("state of a finished stage")
            if not is_snapshot_file(state):
                return OwnFile()
            needed = self._needed(stage)
            if needed == set() and not self._is_stage(stage):
                return None
            is_needed = needed is None or state in needed or self._is_running(stage)
            return OwnFile("" if is_needed else "state that a newer one replaced")
        return None

    def _is_running(self, stage: str) -> bool:
        """Whether a process runs the stage now. Then a state without a record may be the next one, not an old one."""
        if self._remote:
            return False
        scratch = Path(self._store.uri, stage).glob(f"{SCRATCH_PREFIX}*")
        return any(is_scratch_name(folder.name) and not is_abandoned(folder) for folder in scratch)

    def _is_stage(self, stage: str) -> bool:
        """Whether one of our stages was started in the folder, even if it has no state yet."""
        if self._record(_joined(stage, STATE_FOLDER), PUBLISHING_NAME) is not None:
            return True
        if stage.startswith("round-") and not self.is_run():
            return False
        return stage.count("/") < 2 and is_stage_folder(f"{self._store.uri}/{stage}".rstrip("/"))

    def _needed(self, stage: str) -> set[str] | None:
        """Names of the newest state and its files below the stage's states; empty if there is no state.

        None if the newest state is damaged, because then the older ones are needed too.
        """
        if stage not in self._newest:
            try:
                newest = newest_state(self._store.below(_joined(stage, STATE_FOLDER)))
            except RecordError:
                self._newest[stage] = None
            else:
                self._newest[stage] = set()
                if newest is not None:
                    name, state = newest
                    parts = {f"{entry['state']}/{file}" for file, entry in state["files"].items()}
                    self._newest[stage] = {f"{name}.json"} | parts
        return self._newest[stage]

    def _is_fixed(self, name: str) -> bool:
        """Whether it is one of our records, or one of the other files of our runs and rounds."""
        folder, _, last = name.rpartition("/")
        if last in _RECORDS:
            return self._record(folder, last) is not None
        run, _, round_ = folder.rpartition("/")
        in_run = last in (CONFIG_NAME, REPORT_NAME, BEFORE_AFTER_NAME) and self.is_run(folder)
        in_round = last in (CONFIG_NAME, DECISION_NAME, ANNOUNCED_NAME) and ROUND_FOLDER.fullmatch(round_)
        return in_run or bool(in_round and self.is_run(run))

    def _recorded(self, name: str) -> OwnFile | None:
        """A file that the record of one of its folders names."""
        parts = name.split("/")
        for depth in range(len(parts)):
            folder, below = "/".join(parts[:depth]), "/".join(parts[depth:])
            stage, made = self._record(folder, RECORD_NAME), self._record(folder, MADE_NAME)
            if below in _outputs(stage) or below in _outputs(self._record(folder, ROUND_RECORD)):
                return OwnFile()
            if below in _outputs(self._record(_joined(folder, STATE_FOLDER), PUBLISHING_NAME)):
                return OwnFile("left by an attempt at a stage that is finished" if stage is not None else "")
            if made is not None and matches(below, made["files"]):
                return OwnFile()
        return None

    def _record(self, folder: str, name: str) -> dict[str, Any] | None:
        """Our record `name` in `folder`; None if it does not exist or another program made it."""
        path = _joined(folder, name)
        if self._names is not None and path not in self._names:
            return None
        if path not in self._records:
            file = self._store.read(path)
            record = None if file is None else _our_record(file.data, self._store.uri, name)
            if record is not None and name == PUBLISHING_NAME:
                record["outputs"] = set(record["outputs"])  # it is searched for every file
            self._records[path] = record
        return self._records[path]


def require_only_own(store: Store, is_ours: Callable[[str], object], setting: str) -> None:
    """InputError that names the first file in `store` that is not ours, and the `setting` that chooses the place."""
    for name in all_names(store):
        if not is_ours(name):
            raise foreign_file_error(store.uri, name, setting)


def all_names(store: Store) -> Iterator[str]:
    """Names of everything in `store`, in a local folder including links, pipes and files in linked folders."""
    if is_remote(store.uri):
        return (file.name for file in store.files())
    return (name for name in names_below(Path(store.uri)) if name.rpartition("/")[2] != LOCK_NAME)


def _outputs(record: dict[str, Any] | None) -> Collection[str]:
    return record["outputs"] if record is not None else ()


def _splits(name: str, folder: str) -> Iterator[tuple[str, str]]:
    """The parts of `name` before and after each folder in it that is called `folder`."""
    parts = name.split("/")
    for index, part in enumerate(parts[:-1]):
        if part == folder:
            yield "/".join(parts[:index]), "/".join(parts[index + 1 :])


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _our_record(data: bytes, uri: str, name: str) -> dict[str, Any] | None:
    """The record; None if another program made it, or if it is damaged and so cannot say which files are ours."""
    try:
        return parse_record(data, uri, name)
    except RecordError:
        return None
