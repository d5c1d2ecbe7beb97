"""The files that our commands created in a folder of the user, as the record `made.json` in it lists them."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from core.records.artifacts import MADE_NAME
from core.records.json_forms import MADE_BY
from core.records.record_forms import RecordError, parse_record
from core.runtime.files import save_json
from core.runtime.scratch import is_free_partial, partial_of
from core.storage.foreign_files import foreign_file_error, matches, names_below


class CreatedFiles:
    """The files that our commands created in a local folder of the user.

    The record `made.json` names them and is written before them. In its names `*` stands for digits.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        # Whether one of our commands created files here.
        self.is_ours, self._names = False, list[str]()
        path = folder / MADE_NAME
        if path.is_file():
            with contextlib.suppress(RecordError):  # another program made it
                self._names = parse_record(path.read_bytes(), str(folder), MADE_NAME)["files"]
                self.is_ours = True

    def covers(self, names: Sequence[str]) -> bool:
        """Whether the record contains all of these names."""
        return set(names) <= set(self._names)

    def declare(self, names: Sequence[str], setting: str) -> None:
        """Record that files of these names are ours from now on; InputError as in `require_free`."""
        self.require_free(names, setting)
        if not self.covers(names):
            self._names, self.is_ours = sorted({*self._names, *names}), True
            save_json({"made_by": MADE_BY, "files": self._names}, self.folder / MADE_NAME)

    def require_free(self, names: Sequence[str], setting: str) -> None:
        """InputError if the folder has a file of these names, or a `made.json`, that is not ours."""
        taken = [name for name in self.files() if matches(name, names) and not matches(name, self._names)]
        if not self.is_ours and os.path.lexists(self.folder / MADE_NAME):
            taken.insert(0, MADE_NAME)
        if taken:
            raise foreign_file_error(self.folder, taken[0], setting)

    def require_empty(self, setting: str) -> None:
        """InputError that names the first file of the folder. Partial files of our record are ignored."""
        names = (name for name in self.files() if partial_of(name) != MADE_NAME)
        # Name the record only if there is no other file.
        first = next(names, None)
        if first == MADE_NAME:
            first = next(names, first)
        if first is not None:
            raise foreign_file_error(self.folder, first, setting)

    def remove(self, names: Sequence[str]) -> None:
        """Remove the files of these names that the record names."""
        for name in self.existing(names):
            (self.folder / name).unlink()

    def existing(self, names: Sequence[str]) -> list[str]:
        """The existing files of these names that the record names."""
        return [name for name in self.files() if matches(name, names) and matches(name, self._names)]

    def remove_partials(self) -> None:
        """Remove partial files of the files that the record names, if their processes have ended."""
        for name in list(self.files()):
            folder, _, last = name.rpartition("/")
            of = partial_of(last)
            if (
                of is not None
                and matches(f"{folder}/{of}".lstrip("/"), self._names)
                and is_free_partial(self.folder / name)
            ):
                (self.folder / name).unlink(missing_ok=True)

    def files(self) -> Iterator[str]:
        """Names of everything in the folder except folders."""
        return names_below(self.folder)
