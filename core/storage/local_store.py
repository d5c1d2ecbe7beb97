"""The artefact store in a folder of this machine. Files are on disk before a record names them."""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import IO

from core.runtime.errors import InputError, MissingFileError
from core.runtime.files import Entry, atomic_write, file_entry, link_or_copy, open_file_entry, open_input, partial_file
from core.runtime.scratch import partial_name
from core.storage.store import (
    LARGEST_SMALL_FILE,
    StoredFile,
    Versioned,
    WriteCheck,
    altered,
    checked_name,
    too_large,
)

LOCK_NAME = ".lock"


class _Thread(threading.local):
    """Lock files that this thread holds. Stores of one folder share them: locking a file twice would never end."""

    def __init__(self) -> None:
        self.held_locks: set[str] = set()


_thread = _Thread()


class LocalStore:
    """`Store` over a folder. Several processes of one host may use it at the same time.

    A file is created by a hard link, which fails if the name exists, and replaced by a rename under a lock.
    """

    def __init__(self, root: Path, write_check: WriteCheck = contextlib.nullcontext):
        self.uri = str(root)
        self._root, self._write_check = root, write_check

    def below(self, name: str) -> "LocalStore":
        return LocalStore(self._root / checked_name(name), self._write_check)

    def with_write_check(self, write_check: WriteCheck) -> "LocalStore":
        return LocalStore(self._root, write_check)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        path, held = str((self._root / LOCK_NAME).resolve()), _thread.held_locks
        if path in held:  # a change inside a write check that holds this lock
            yield
            return
        with _open_lock(path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            held.add(path)
            try:
                yield
            finally:
                held.discard(path)

    def upload(self, folder: Path, names: Iterable[str]) -> dict[str, Entry]:
        entries = {name: self._add(folder / checked_name(name), name) for name in names}
        os.sync()  # once for thousands of small files
        return entries

    def _add(self, source: Path, name: str) -> Entry:
        entry, target = file_entry(source), self._root / name
        if self.measure(name) == entry:
            return entry
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_name(target)
        try:
            link_or_copy(source, partial)
            with self._write_check():
                os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        return entry

    def fetch(self, entries: Mapping[str, Entry]) -> Path:
        for name, wanted in entries.items():
            found = self.measure(name)
            if found != wanted:
                raise altered(self.uri, name, wanted, found)
        return self._root

    def measure(self, name: str) -> Entry | None:
        file = _open(self._root / checked_name(name))
        if file is None:
            return None
        with file:
            return open_file_entry(file)

    def read(self, name: str) -> Versioned | None:
        file = _open(self._root / checked_name(name))
        if file is None:
            return None
        with file:
            status = os.fstat(file.fileno())
            if status.st_size > LARGEST_SMALL_FILE:
                raise too_large(self.uri, name, status.st_size)
            data = file.read()
        return Versioned(data, _version(data), time.time() - status.st_mtime)

    def create(self, name: str, data: bytes) -> bool:
        path = self._root / checked_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(path) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            try:
                with self._write_check():
                    os.link(file.name, path)
            except FileExistsError:
                return False
        _sync_folder(path.parent)
        return True

    def compare_and_swap(self, name: str, data: bytes, version: str) -> str | None:
        with self._write_check(), self.exclusive():
            found = self.read(name)
            if found is None or found.version != version:
                return None
            with atomic_write(self._root / name) as file:
                file.write(data)
        return _version(data)

    def files(self) -> Iterator[StoredFile]:
        now = time.time()
        for path in sorted(self._root.rglob("*")):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.name != LOCK_NAME:
                    status = path.stat()
                    yield StoredFile(path.relative_to(self._root).as_posix(), status.st_size, now - status.st_mtime)

    def folders(self) -> list[str]:
        if not self._root.is_dir():
            return []
        return sorted(path.name for path in self._root.iterdir() if path.is_dir() and not path.name.startswith("."))

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            path = self._root / checked_name(name)
            with self._write_check():
                path.unlink(missing_ok=True)
            for folder in path.relative_to(self._root).parents[:-1]:
                if not _remove_empty(self._root / folder):
                    break

    def unfinished_uploads(self, older_than: float) -> list[str]:
        return []  # partial files are listed like all others

    def abort_uploads(self, older_than: float) -> None:
        pass


def _open(path: Path) -> BufferedReader | None:
    """The file at `path`; None if it does not exist, InputError if it is not a regular file. Never waits."""
    try:
        return open_input(path, "file")
    except MissingFileError:
        # Other processes create files at any time: one that is there by now was still missing when it was opened.
        if path.is_symlink():  # its target is missing
            raise
        return None
    except InputError:
        if not os.path.lexists(path):  # below a file, or removed meanwhile
            return None
        raise


def _open_lock(path: str) -> IO[bytes]:
    """The lock file at `path`; InputError if a pipe or device is in its place. Never waits."""
    try:
        lock = os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666), "ab")
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.EISDIR):
            raise
        raise InputError(f"file {path} is not a regular file: move it elsewhere") from None
    if not stat.S_ISREG(os.fstat(lock.fileno()).st_mode):
        lock.close()
        raise InputError(f"file {path} is not a regular file: move it elsewhere")
    return lock


def _remove_empty(folder: Path) -> bool:
    """Remove the folder if it holds at most our lock file; whether it was removed."""
    try:
        if os.listdir(folder) == [LOCK_NAME]:
            (folder / LOCK_NAME).unlink()
        folder.rmdir()
    except OSError:
        return False
    return True


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
