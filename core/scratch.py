"""Folders of one process that vanish with it, even when it is killed."""

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

SCRATCH_PREFIX = ".scratch-"


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new empty folder in `parent`, removed at the end; those that killed processes left there go first."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{SCRATCH_PREFIX}*"):
        if is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = parent / f"{SCRATCH_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir()
    with (folder / ".owner-to-be").open("w") as owner:
        # Held by the process, so it falls with it; a process id alone may be another's by then.
        fcntl.flock(owner, fcntl.LOCK_EX)
        # Seen only once it is held: others look for the abandoned at any instant.
        os.rename(owner.name, folder / ".owner")
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def is_abandoned(folder: Path) -> bool:
    """Whether the process that made the scratch folder is gone."""
    try:
        with (folder / ".owner").open() as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False  # being made, or being removed
    except BlockingIOError:
        return False
    return True
