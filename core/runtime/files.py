"""Opening input files safely, and writing files atomically: under a temporary name that is then renamed."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, TypedDict

from core.runtime.errors import InputError, MissingFileError
from core.runtime.scratch import open_locked, partial_name, remove_partials


class Entry(TypedDict):
    """What a record says about a file."""

    size: int
    sha256: str


def open_input(path: str | Path, what: str) -> BufferedReader:
    """The regular file at `path`, open for reading. Errors begin with `what` and the path.

    All files that users give are opened here. Raises InputError if the file is missing or cannot be read, or is a pipe,
    a socket, a device or a folder; a missing file is a MissingFileError. It never waits for any of these.
    """
    try:
        # With O_NONBLOCK a pipe opens at once, even if no process writes to it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise MissingFileError(f"{what} {path} does not exist: give the path of an existing file") from None
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read ({error.strerror}): give the path of a file") from None
    except ValueError:
        raise InputError(f"{what} {path} is not the path of a file: it holds a NUL character") from None
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
    """A binary file that appears at `path` once it is complete and on disk. After an error nothing is left.

    Partial files of the same name that killed processes left are removed first. With `on_disk` false it does not wait
    for the disk: for many small files that are followed by one `os.sync` before a record names them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if on_disk:
        remove_partials(path)
    with partial_file(path) as file:
        yield file
        file.flush()
        if on_disk:
            os.fsync(file.fileno())
        os.replace(file.name, path)


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[IO[bytes]]:
    """A new hidden file beside `path`, to be renamed or linked while it is open: its lock keeps other processes off.

    At the end nothing is left under its hidden name. InputError if there is no space for it, or a folder at `path`.
    """
    partial = partial_name(path)
    try:
        with open_locked(partial) as file:
            yield file
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"no space left for {path}: free some and run the same command again") from None
        if error.errno == errno.EISDIR:
            raise InputError(
                f"{path} is a folder, and a file is to be written there: move the folder elsewhere"
            ) from None
        if error.errno == errno.EFBIG:
            raise InputError(
                f"{path} exceeds the limit on the size of files: raise it (ulimit -f) and run the same command again"
            ) from None
        raise
    finally:
        partial.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Create `folder`; InputError if it cannot be created or written to. Checked before work starts."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder {folder} cannot be created ({error.strerror}): choose another place") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"folder {folder} cannot be written to: choose another place or change its permissions")


def save_json(value: Any, path: Path) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


# By device, inode, size and times: a pure cache, since a changed file has another identity.
_DIGESTS: dict[tuple[int, ...], str] = {}


def sha256(path: Path) -> str:
    """Hex digest of the file at `path`. A process reads the file again only if it has changed."""
    return file_entry(path)["sha256"]


def file_entry(path: Path) -> Entry:
    """Size and sha256 of the file at `path`."""
    with path.open("rb") as file:
        return open_file_entry(file)


def open_file_entry(file: BufferedReader) -> Entry:
    """Size and sha256 of a file that is open at its start. A process reads the file again only if it has changed."""
    status = os.fstat(file.fileno())
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if identity not in _DIGESTS:
        _DIGESTS[identity] = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": status.st_size, "sha256": _DIGESTS[identity]}


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy where the file system cannot link them."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, one without hard links, or too many links
        shutil.copyfile(source, target)
