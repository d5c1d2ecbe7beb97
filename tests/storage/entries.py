"""Files that a test stores, and guards that refuse or count changes."""

import contextlib
import hashlib
import threading
from pathlib import Path

from core.runtime.files import Entry


def entry_of(data: bytes) -> Entry:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def written(folder: Path, files: dict[str, bytes]) -> dict[str, Entry]:
    """Write the files; their entries, as in records."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return {name: entry_of(data) for name, data in files.items()}


class Refused(Exception):
    """Raised by the write checks of these tests."""


@contextlib.contextmanager
def refusing():
    raise Refused
    yield


class CountingCheck:
    """A write check that allows the first `allowed` changes."""

    def __init__(self, allowed: int):
        self.calls, self._allowed = 0, allowed
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def __call__(self):
        with self._lock:
            self.calls += 1
            if self.calls > self._allowed:
                raise Refused
        yield
