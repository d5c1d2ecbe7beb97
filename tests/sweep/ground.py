"""What a row of the sweep over wrong inputs is: something given to a reader or command, and what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from core.config.experiment import ExperimentConfig


@dataclass(frozen=True)
class Ground:
    """Where a row does its work: `folder` is its own and empty, `config` the tiny experiment with its prerequisites.

    `config_path` is that experiment's file and `manifest` its pictures' manifest; neither is written to.
    """

    folder: Path
    config_path: Path
    config: ExperimentConfig
    manifest: Path
    written: dict[Path, bytes] = field(default_factory=dict)

    def file(self, name: str, data: bytes | str = b"") -> Path:
        """A file of the user's with this content in the row's folder, where it is still afterwards."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.written[path] = data.encode() if isinstance(data, str) else data
        path.write_bytes(self.written[path])
        return path


class Row(NamedTuple):
    """One input: which `reader` gets it, what it is, and what comes of it.

    `give` does it. With `says` it must end in an InputError (or a command's exit status 2 and one line) that holds
    each of these words; without, it must return a true value: the input is understood, as `meaning` says.
    """

    reader: str
    given: str
    give: Callable[[Ground], Any]
    says: tuple[str, ...] = ()
    meaning: str = ""
