"""Temporary folders and partial files of one process, recognised by name and removed when the process has ended."""

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
    """A new empty folder in `parent`, removed at the end. Folders of killed processes are removed first."""
    parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(parent)
    folder = parent / f"{SCRATCH_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir()
    with (folder / ".owner-to-be").open("w") as owner:
        # The lock ends with the process. A process id alone may belong to another process later.
        fcntl.flock(owner, fcntl.LOCK_EX)
        # It appears once it is locked: other processes may look for abandoned folders at any time.
        os.rename(owner.name, folder / ".owner")
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Remove the scratch folders in `parent` whose processes have ended."""
    for left in parent.glob(f"{SCRATCH_PREFIX}*"):
        if is_scratch_name(left.name) and is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Inside, this process alone works in `folder`; LeaseError if another process does."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LeaseError(f"{folder} is being trained in by another process: wait for it or stop it") from None
        except OSError:
            pass  # some network file systems cannot lock folders: there no process is kept out
        yield
    finally:
        os.close(handle)


def is_scratch_name(name: str) -> bool:
    """Whether `name` is a name that `scratch_folder` gives."""
    return _SCRATCH.fullmatch(name) is not None


def is_abandoned(folder: Path) -> bool:
    """Whether the process that made the scratch folder has ended."""
    return not folder.is_symlink() and _is_free(folder / ".owner")


def partial_of(name: str) -> str | None:
    """Name of the file of which `name` is a partial file; None if it is not the name of a partial file."""
    found = _PARTIAL.fullmatch(name)
    if found is None:
        return None
    # Earlier versions linked small files from a temporary name, so a name may be partial twice.
    return partial_of(found["of"]) or found["of"]


def partial_name(path: Path) -> Path:
    """A hidden name beside `path` that no other thread or process uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")


def open_locked(partial: Path) -> IO[bytes]:
    """A new empty file for writing, locked by this process until it is closed, so that `remove_partials` keeps it."""
    while True:
        file = partial.open("wb")
        # On file systems without locks nothing is removed, see `_is_free`.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink > 0:
            return file
        file.close()  # another process removed it before it was locked


def remove_partials(path: Path) -> None:
    """Remove partial files of `path` whose processes have ended."""
    for left in path.parent.glob(f".{_literal(path.name)}.*.partial"):
        if partial_of(left.name) == path.name and is_free_partial(left):
            left.unlink(missing_ok=True)


def is_free_partial(path: Path) -> bool:
    """Whether no process is writing the partial file any more."""
    return not path.is_symlink() and _is_free(path)


def _is_free(path: Path) -> bool:
    try:
        # With O_NONBLOCK a pipe of this name, which is not ours, is not waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False  # just created or removed
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return stat.S_ISREG(os.fstat(handle).st_mode)
    except OSError:
        return False  # locked, or on a file system without locks
    finally:
        os.close(handle)


def _literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)
