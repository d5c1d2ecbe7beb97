"""Scratch names: folders and partly written files of one process, known by their names and gone with the process."""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from core.runtime.errors import LeaseError

SCRATCH_PREFIX = ".scratch-"
_SCRATCH = re.compile(r"\.scratch-\d+-[0-9a-f]{8}")
_PARTIAL = re.compile(r"\.(?P<of>.+)\.(?:\d+|[0-9a-f]{16})\.partial")


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new empty folder in `parent`, removed at the end; those that killed processes left there go first."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{SCRATCH_PREFIX}*"):
        if is_scratch_name(left.name) and is_abandoned(left):
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


@contextlib.contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """This process alone works in `folder` inside; LeaseError if another does."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LeaseError(f"{folder} is being trained in by another process: wait for it or stop it") from None
        except OSError:
            pass  # some network file systems lock no folders: there nobody is kept out
        yield
    finally:
        os.close(handle)


def is_scratch_name(name: str) -> bool:
    """Whether `scratch_folder` gives such a name to a folder."""
    return _SCRATCH.fullmatch(name) is not None


def is_abandoned(folder: Path) -> bool:
    """Whether the process that made the scratch folder is gone."""
    return not folder.is_symlink() and _is_free(folder / ".owner")


def partial_of(name: str) -> str | None:
    """Name of the file that a process was writing when it left a file called `name`; None for any other name."""
    found = _PARTIAL.fullmatch(name)
    if found is None:
        return None
    # Small files are made under a scratch name and then linked, so one may be partial twice.
    return partial_of(found["of"]) or found["of"]


def open_held(partial: Path) -> IO[bytes]:
    """A new empty file for writing, held by this process until it is closed: `remove_partials` leaves it alone."""
    while True:
        file = partial.open("wb")
        # File systems without locks know no holder; nothing is removed there, see `_is_free`.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink > 0:
            return file
        file.close()  # another process removed it before it was held


def remove_partials(path: Path) -> None:
    """Remove what processes that are gone left of writing `path`."""
    for left in path.parent.glob(f".{_literal(path.name)}.*.partial"):
        if partial_of(left.name) == path.name and is_free_partial(left):
            left.unlink(missing_ok=True)


def is_free_partial(path: Path) -> bool:
    """Whether no process is writing the partial file any more."""
    return not path.is_symlink() and _is_free(path)


def _is_free(path: Path) -> bool:
    try:
        # A pipe of this name, which is nothing of ours, is not waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False  # being made or removed
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return stat.S_ISREG(os.fstat(handle).st_mode)
    except OSError:
        return False  # held; or on a file system without locks
    finally:
        os.close(handle)


def _literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)
