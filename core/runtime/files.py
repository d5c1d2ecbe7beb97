"""Whole files: written under a temporary name and renamed, so that a reader never sees half of one."""

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypedDict

from core.runtime.errors import InputError
from core.runtime.scratch import open_held, remove_partials


class Entry(TypedDict):
    """What a record says about a file."""

    size: int
    sha256: str


def open_input(path: str | Path, what: str) -> IO[bytes]:
    """The regular file at `path`, open for reading; `what` it is stands before its path in errors.

    Every file that a user gives is opened here. Raises InputError for one that is missing or cannot be read, and for
    a pipe, a socket, a device or a folder, none of which is waited for.
    """
    try:
        # A pipe opened without waiting is open at once, whether or not anybody writes to it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist: give the path of an existing file") from None
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read ({error.strerror}): give the path of a file") from None
    except ValueError:
        raise InputError(f"{what} {path} is no path of a file: it holds a NUL character") from None
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise InputError(f"{what} {path} is {_kind_of(mode)}, not a regular file: give the path of a file")


def _kind_of(mode: int) -> str:
    kinds = {
        stat.S_ISDIR: "a folder",
        stat.S_ISFIFO: "a named pipe",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
    }
    return next((kind for holds, kind in kinds.items() if holds(mode)), "a special file")


@contextlib.contextmanager
def atomic_write(path: Path, on_disk: bool = True) -> Iterator[IO[bytes]]:
    """Binary file that appears at `path` only once it is complete and on disk; nothing is left on an error.

    What a killed process left of the same file is removed first. One of thousands need not be waited for (`on_disk`
    false) where `os.sync` comes before the record that vouches for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if on_disk:
        remove_partials(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open_held(partial) as file:
            yield file
            file.flush()
            if on_disk:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"no space left for {path}: free some and run the same command again") from None
        if error.errno == errno.EISDIR:
            raise InputError(f"{path} is a folder where a file is to be written: move it elsewhere") from None
        if error.errno == errno.EFBIG:
            raise InputError(
                f"{path} is larger than files may be here: raise the limit (ulimit -f) and run the same command again"
            ) from None
        raise
    finally:
        partial.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Make `folder`; InputError if it cannot be made or written to, so that no work is done in vain."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder {folder} cannot be made ({error.strerror}): choose another place") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"folder {folder} cannot be written to: choose another place or change its permissions")


def save_json(value: Any, path: Path) -> None:
    """Write `value` as indented JSON, a whole file."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


_DIGESTS: dict[tuple[int, ...], str] = {}


def sha256(path: Path) -> str:
    """Hex digest of the file at `path`; read once in a process while the file stays untouched."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if identity not in _DIGESTS:
            _DIGESTS[identity] = hashlib.file_digest(file, "sha256").hexdigest()
        return _DIGESTS[identity]


def file_entry(path: Path) -> Entry:
    """Size and sha256 of the file at `path`."""
    return {"size": path.stat().st_size, "sha256": sha256(path)}
