"""Whose a file is: ours if a record of ours names it or its name is a scratch name of ours, the user's otherwise.

Nothing is removed, overwritten or taken over but what is ours by this rule. `Owner` tells it of a store, for runs and
stages; `MadeFiles` of a local folder in which a command works without a stage's record.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.artifacts import (
    ANNOUNCED_NAME,
    CONFIG_NAME,
    DECISION_NAME,
    PUBLISHING_NAME,
    RECORD_NAME,
    REPORT_NAME,
    ROUND_RECORD,
    RUN_RECORD,
    STAGE3_FOLDER,
    STATE_FOLDER,
    is_snapshot_file,
    is_state_file,
)
from core.errors import InputError
from core.files import save_json
from core.lease import LEASE_NAME
from core.scratch import is_abandoned, is_free_partial, is_scratch_name, partial_of
from core.store import Location, Store, is_remote

# In a folder of files that no stage's record names: which of them we make there.
MADE_NAME = "made.json"
_MADE_BY = "adversarial-layouts"
# A record of ours holds at least these keys.
_FORMS = {
    RUN_RECORD: {"experiment", "parent"},
    ROUND_RECORD: {"round", "outputs"},
    RECORD_NAME: {"outputs"},
    PUBLISHING_NAME: {"outputs"},
    LEASE_NAME: {"holder", "token", "released"},
}
_ROUND_FOLDER = re.compile(r"round-\d{2,}")
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
        if partial_of(parts[-1]) is not None and not self._remote:
            gone = is_free_partial(Path(self._store.uri, name))
            return Ours("partly written by a process that is gone" if gone else "")
        if _PROBE.fullmatch(parts[-1]) and self._remote:
            return Ours("probe of a process that is gone")
        return None

    def _state(self, name: str) -> Ours | None:
        """Of a stage's states, or a list of files to publish."""
        for stage, state in _splits(name, STATE_FOLDER):
            if not is_state_file(state):
                continue
            if self._record(stage, RECORD_NAME) is not None:
                return Ours("state of a stage that is finished")
            if not is_snapshot_file(state):
                return Ours()
            return Ours("" if state in self._needed(stage) else "state that a newer one replaced")
        return None

    def _needed(self, stage: str) -> set[str]:
        """Names, below the stage's states, of the newest state and of what it consists of."""
        if stage not in self._newest:
            states = self._store.below(_joined(stage, STATE_FOLDER))
            names = [file.name for file in states.files() if "/" not in file.name and is_snapshot_file(file.name)]
            self._newest[stage] = set()
            for name in sorted(names, reverse=True):
                state = _parsed(states, name)
                files = state.get("files") if state is not None else None
                if isinstance(files, dict):
                    entries = [(file, entry) for file, entry in files.items() if isinstance(entry, dict)]
                    parts = {f"{entry.get('state')}/{file}" for file, entry in entries}
                    self._newest[stage] = {name} | parts
                    break
        return self._newest[stage]

    def _is_fixed(self, name: str) -> bool:
        """Whether it is a record, or one of the files that a run or round of ours has."""
        folder, _, last = name.rpartition("/")
        if last in _FORMS or last == MADE_NAME:
            return self._record(folder, last) is not None
        run, _, round_ = folder.rpartition("/")
        in_run = last in (CONFIG_NAME, REPORT_NAME) and self.is_run(folder)
        in_round = last in (CONFIG_NAME, DECISION_NAME, ANNOUNCED_NAME) and _ROUND_FOLDER.fullmatch(round_)
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
            if made is not None and _matches(below, made["files"]):
                return Ours()
        return None

    def _record(self, folder: str, name: str) -> dict[str, Any] | None:
        """The record of ours called `name` in `folder`; None if there is none, or another tool's."""
        path = _joined(folder, name)
        if self._names is not None and path not in self._names:
            return None
        if path not in self._records:
            record = _parsed(self._store, path)
            ours = _is_made(record) if name == MADE_NAME else record is not None and _FORMS[name] <= record.keys()
            self._records[path] = record if ours else None
        return self._records[path]


def refuse_others(store: Store, is_ours: Callable[[str], object], setting: str) -> None:
    """InputError naming the first file in `store` that is not ours, and the `setting` that chooses another place."""
    for file in store.files():
        if not is_ours(file.name):
            raise foreign_file(store.uri, file.name, setting)


def foreign_file(folder: Location, name: str, setting: str) -> InputError:
    """The error for a file of somebody else's where we would write."""
    return InputError(f"{folder} holds {name}, which something else made: choose another {setting}, or move it away")


class MadeFiles:
    """The files that a command makes in a local folder, as our record `made.json` there names them.

    The record is written before any of them. In its names `*` stands for digits.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        record = _read_json(folder / MADE_NAME)
        self._names: list[str] = record["files"] if _is_made(record) else []
        self._is_ours = _is_made(record)

    def covers(self, names: Sequence[str]) -> bool:
        """Whether the record has all of these names."""
        return set(names) <= set(self._names)

    def declare(self, names: Sequence[str], setting: str) -> None:
        """Write that files of these names are ours from now on; InputError as `require_free`."""
        self.require_free(names, setting)
        if not self.covers(names):
            self._names, self._is_ours = sorted({*self._names, *names}), True
            save_json({"made_by": _MADE_BY, "files": self._names}, self._folder / MADE_NAME)

    def require_free(self, names: Sequence[str], setting: str) -> None:
        """InputError if a file of these names, or a `made.json`, is there that is not ours."""
        taken = [name for name in self.files() if _matches(name, names) and not _matches(name, self._names)]
        if not self._is_ours and os.path.lexists(self._folder / MADE_NAME):
            taken.insert(0, MADE_NAME)
        if taken:
            raise foreign_file(self._folder, taken[0], setting)

    def refuse_any(self, setting: str) -> None:
        """InputError naming the first file of the folder; what a killed process left of its record does not count."""
        names = (name for name in self.files() if partial_of(name) != MADE_NAME)
        # A record of other files' making says less than one of those files.
        first = next(names, None)
        if first == MADE_NAME:
            first = next(names, first)
        if first is not None:
            raise foreign_file(self._folder, first, setting)

    def remove(self, names: Sequence[str]) -> None:
        """Remove the files of these names that the record names."""
        for name in list(self.files()):
            if _matches(name, names) and _matches(name, self._names):
                (self._folder / name).unlink()

    def remove_partials(self) -> None:
        """Remove what processes that are gone left of writing a file that the record names."""
        for name in list(self.files()):
            folder, _, last = name.rpartition("/")
            of = partial_of(last)
            if of is not None and _matches(_joined(folder, of), self._names) and is_free_partial(self._folder / name):
                (self._folder / name).unlink(missing_ok=True)

    def files(self) -> Iterator[str]:
        """Names of everything in the folder that is no folder itself, links to folders included."""
        for folder, folders, files in os.walk(self._folder):
            folders.sort()
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for name in sorted(links + files):
                yield Path(folder, name).relative_to(self._folder).as_posix()


def stage3_files(name: str) -> list[str]:
    """Names of what continue-stage-3 of the experiment `name` makes in its folder, `*` for digits."""
    kinds = ("best", "latest", "epoch_*")
    return [
        *(f"checkpoints/{name}_checkpoint_{kind}.pt" for kind in kinds),
        "checkpoints/trajectories.pt",
        f"samples/{name}_epoch_*_samples.png",
        f"samples/{name}_real.png",
        f"samples/{name}_best_and_worst.png",
        f"{name}_metrics.csv",
    ]


def is_by_hand(file: str, name: str) -> bool:
    """Whether the file of a run's folder is one that continue-stage-3 by hand makes there for the experiment `name`."""
    folder, _, below = file.partition("/")
    return folder == STAGE3_FOLDER and _matches(below, stage3_files(name))


def _outputs(record: dict[str, Any] | None) -> Collection[str]:
    outputs = record.get("outputs") if record is not None else None
    return outputs if isinstance(outputs, dict | list) else ()


def _is_made(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and record.get("made_by") == _MADE_BY
        and isinstance(record.get("files"), list)
        and all(isinstance(name, str) for name in record["files"])
    )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(re.fullmatch(re.escape(pattern).replace(r"\*", r"\d+"), name) for pattern in patterns)


def _splits(name: str, folder: str) -> Iterator[tuple[str, str]]:
    """What comes before and after each part of `name` that is `folder`."""
    parts = name.split("/")
    for index, part in enumerate(parts[:-1]):
        if part == folder:
            yield "/".join(parts[:index]), "/".join(parts[index + 1 :])


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _parsed(store: Store, name: str) -> dict[str, Any] | None:
    there = store.read(name)
    return None if there is None else _object(there.data)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return _object(path.read_bytes()) if path.is_file() else None
    except OSError:
        return None


def _object(data: bytes) -> dict[str, Any] | None:
    """A JSON object; None for anything else, which is not ours."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
