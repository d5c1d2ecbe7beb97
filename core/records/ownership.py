"""Whose a file is: ours if a record of ours names it or its name is a scratch name of ours, the user's otherwise.

Nothing is removed, overwritten or taken over but what is ours by this rule.
"""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.records.artifacts import (
    ANNOUNCED_NAME,
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
from core.storage.foreign_files import foreign_file, matches, names_in
from core.storage.local_store import LOCK_NAME
from core.storage.store import Store, is_remote

# Records of ours, wherever they lie.
_RECORDS = (RECORD_NAME, ROUND_RECORD, RUN_RECORD, LEASE_NAME, MADE_NAME)
# Names of those that we write, wherever we do.
_WRITTEN = (*_RECORDS, CONFIG_NAME, REPORT_NAME, DECISION_NAME, ANNOUNCED_NAME)
_PROBE = re.compile(r"\.probe-[0-9a-f]{16}")


@dataclass(frozen=True)
class Ours:
    """A file of ours: `left` says why it is needed no more, and is empty for one that is needed."""

    left: str = ""


class Owner:
    """Tells of files in a store whose they are; it reads each record there once.

    Where every file's name is known, `names` saves looking for records that are not there.
    """

    def __init__(self, store: Store, names: Collection[str] | None = None):
        self._store, self._remote, self._names = store, is_remote(store.uri), names
        self._records: dict[str, dict[str, Any] | None] = {}
        self._newest: dict[str, set[str] | None] = {}

    def of(self, name: str) -> Ours | None:
        """What the file `name` is to us; None for the user's."""
        found = self._scratch(name) or self._state(name) or self._recorded(name)
        return Ours() if found is None and self._is_fixed(name) else found

    def is_of_stage(self, name: str) -> bool:
        """Whether the file is of an interrupted try at a stage whose folder the store is."""
        if self._scratch(name) is not None or name in _outputs(self._record(STATE_FOLDER, PUBLISHING_NAME)):
            return True
        return name.startswith(f"{STATE_FOLDER}/") and self._state(name) is not None

    def is_run(self, folder: str = "") -> bool:
        """Whether a run of ours was begun in `folder`."""
        return self._record(folder, RUN_RECORD) is not None

    def _scratch(self, name: str) -> Ours | None:
        """Of a process's scratch folder, a partly written file, or a probe of a bucket."""
        parts = name.split("/")
        at = next((index for index, part in enumerate(parts) if is_scratch_name(part)), None)
        if at is not None and not self._remote:
            gone = is_abandoned(Path(self._store.uri, *parts[: at + 1]))
            return Ours("scratch folder of a process that is gone" if gone else "")
        of = partial_of(parts[-1])
        if of is not None and not self._remote and self._is_written_here("/".join([*parts[:-1], of])):
            gone = is_free_partial(Path(self._store.uri, name))
            return Ours("partly written by a process that is gone" if gone else "")
        if _PROBE.fullmatch(parts[-1]) and self._remote:
            return Ours("probe of a process that is gone")
        return None

    def _is_written_here(self, name: str) -> bool:
        """Whether we write a file of this name there, whether or not it is there yet."""
        states = any(is_state_file(state) for _, state in _splits(name, STATE_FOLDER))
        return name.rpartition("/")[2] in _WRITTEN or states or self._recorded(name) is not None

    def _state(self, name: str) -> Ours | None:
        """Of a stage's states, or a list of files to publish."""
        for stage, state in _splits(name, STATE_FOLDER):
            if not is_state_file(state):
                continue
            if self._record(stage, RECORD_NAME) is not None:
                return Ours("state of a stage that is finished")
            if not is_snapshot_file(state):
                return Ours()
            needed = self._needed(stage)
            if needed == set() and not self._is_stage(stage):
                return None
            kept = needed is None or state in needed or self._is_worked_in(stage)
            return Ours("" if kept else "state that a newer one replaced")
        return None

    def _is_worked_in(self, stage: str) -> bool:
        """Whether a process makes the stage now: a state that it is about to name is not replaced, only younger."""
        if self._remote:
            return False
        scratch = Path(self._store.uri, stage).glob(f"{SCRATCH_PREFIX}*")
        return any(is_scratch_name(folder.name) and not is_abandoned(folder) for folder in scratch)

    def _is_stage(self, stage: str) -> bool:
        """Whether a stage of ours that has no state yet was begun in the folder."""
        if self._record(_joined(stage, STATE_FOLDER), PUBLISHING_NAME) is not None:
            return True
        if stage.startswith("round-") and not self.is_run():
            return False
        return stage.count("/") < 2 and is_stage_folder(f"{self._store.uri}/{stage}".rstrip("/"))

    def _needed(self, stage: str) -> set[str] | None:
        """Names, below the stage's states, of the newest state and of what it consists of, none if there is none.

        None where it is damaged: then the older ones are needed too.
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
        """Whether it is a record, or one of the files that a run or round of ours has."""
        folder, _, last = name.rpartition("/")
        if last in _RECORDS:
            return self._record(folder, last) is not None
        run, _, round_ = folder.rpartition("/")
        in_run = last in (CONFIG_NAME, REPORT_NAME) and self.is_run(folder)
        in_round = last in (CONFIG_NAME, DECISION_NAME, ANNOUNCED_NAME) and ROUND_FOLDER.fullmatch(round_)
        return in_run or bool(in_round and self.is_run(run))

    def _recorded(self, name: str) -> Ours | None:
        """Of what the record of a folder that it lies in names."""
        parts = name.split("/")
        for depth in range(len(parts)):
            folder, below = "/".join(parts[:depth]), "/".join(parts[depth:])
            stage, made = self._record(folder, RECORD_NAME), self._record(folder, MADE_NAME)
            if below in _outputs(stage) or below in _outputs(self._record(folder, ROUND_RECORD)):
                return Ours()
            if below in _outputs(self._record(_joined(folder, STATE_FOLDER), PUBLISHING_NAME)):
                return Ours("of a try at a stage that is finished" if stage is not None else "")
            if made is not None and matches(below, made["files"]):
                return Ours()
        return None

    def _record(self, folder: str, name: str) -> dict[str, Any] | None:
        """The record of ours called `name` in `folder`; None if there is none, or another tool's."""
        path = _joined(folder, name)
        if self._names is not None and path not in self._names:
            return None
        if path not in self._records:
            there = self._store.read(path)
            record = None if there is None else _ours(there.data, self._store.uri, name)
            if record is not None and name == PUBLISHING_NAME:
                record["outputs"] = set(record["outputs"])  # looked up for every file
            self._records[path] = record
        return self._records[path]


def refuse_others(store: Store, is_ours: Callable[[str], object], setting: str) -> None:
    """InputError naming the first file in `store` that is not ours, and the `setting` that chooses another place."""
    for name in stored_names(store):
        if not is_ours(name):
            raise foreign_file(store.uri, name, setting)


def stored_names(store: Store) -> Iterator[str]:
    """Names of everything in `store`; in a local folder also of links, pipes and the like, and of what is linked."""
    if is_remote(store.uri):
        return (file.name for file in store.files())
    return (name for name in names_in(Path(store.uri)) if name.rpartition("/")[2] != LOCK_NAME)


def _outputs(record: dict[str, Any] | None) -> Collection[str]:
    return record["outputs"] if record is not None else ()


def _splits(name: str, folder: str) -> Iterator[tuple[str, str]]:
    """What comes before and after each part of `name` that is `folder`."""
    parts = name.split("/")
    for index, part in enumerate(parts[:-1]):
        if part == folder:
            yield "/".join(parts[:index]), "/".join(parts[index + 1 :])


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _ours(data: bytes, uri: str, name: str) -> dict[str, Any] | None:
    """The record; None for another program's, and for a damaged one, which says nothing of what is ours."""
    try:
        return parse_record(data, uri, name)
    except RecordError:
        return None
