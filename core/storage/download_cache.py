"""The download cache of this host: files by digest, shared by processes, bounded in size, verified at each use.

The folder is tagged as a cache (bford.info/cachedir). A folder that holds anything else is refused, and only files with
names of the form `sha256/ab/<64 hex>` are ever removed.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from core.runtime.errors import InputError
from core.runtime.files import Entry, atomic_write, link_or_copy, require_writable, sha256
from core.runtime.scratch import is_scratch_name, partial_of
from core.storage.foreign_files import foreign_file_error, is_file_system_name

# Writes a file to the given path and returns what it wrote; None if there is nothing to download.
Download = Callable[[Path], Entry | None]

_PARTIAL = ".partial"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TAG_NAME, _TAG = "CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55\n# Downloads of adversarial-layouts.\n"
# Folders of a cache. Earlier versions wrote no tag.
_FOLDERS = {"sha256", "locks", "views"}
# A partial file this old was left by a killed process.
_PARTIAL_SECONDS = 24 * 3600


class DownloadCache:
    """Files `sha256/ab/<64 hex>` in `folder`. The least recently used are removed when all exceed `max_bytes`.

    A user of a file has a hard link to it, so it keeps the file when the cache removes it.
    """

    def __init__(self, folder: Path, max_bytes: int):
        require_writable(folder)
        _require_own(folder)
        self._folder, self._max_bytes = folder, max_bytes

    def link(self, entry: Entry, target: Path, download: Download) -> Entry | None:
        """Make `target` a link to the file described by `entry`; download it, at most twice, if it is not cached.

        Returns `entry` if that succeeded. Otherwise `target` is not made, and what was downloaded is returned.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        path = self._path(entry["sha256"])
        with self._locked(entry["sha256"]):
            if self._link_cached(path, entry, target):
                return entry
            found = self._download(path, entry, target, download)
            if found is not None and found != entry:
                found = self._download(path, entry, target, download)
            return found

    def trim(self) -> None:
        """Remove the least recently used files until the rest fit."""
        files = []
        for path in self._folder.glob("sha256/??/*"):
            named_by_us = path.suffix in ("", _PARTIAL) and _DIGEST.fullmatch(path.stem)
            if not named_by_us or path.stem[:2] != path.parent.name:
                continue
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if path.suffix != _PARTIAL:
                    files.append((status.st_mtime, status.st_size, path))
                elif time.time() - status.st_mtime > _PARTIAL_SECONDS:
                    path.unlink()
        excess = sum(size for _, size, _ in files) - self._max_bytes
        for _, size, path in sorted(files):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size

    def _path(self, digest: str) -> Path:
        return self._folder / "sha256" / digest[:2] / digest

    @contextlib.contextmanager
    def _locked(self, digest: str) -> Iterator[None]:
        """Inside, no other thread or process fetches the same file."""
        locks = self._folder / "locks"
        locks.mkdir(exist_ok=True)
        with (locks / digest[:2]).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _link_cached(self, path: Path, entry: Entry, target: Path) -> bool:
        linked = _beside(target)
        try:
            # Linked before it is verified, so that another process cannot remove it in between.
            link_or_copy(path, linked)
            if linked.stat().st_size == entry["size"] and sha256(linked) == entry["sha256"]:
                os.utime(path)
                os.replace(linked, target)
                return True
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        finally:
            linked.unlink(missing_ok=True)
        return False

    def _download(self, path: Path, entry: Entry, target: Path, download: Download) -> Entry | None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, linked = path.with_suffix(_PARTIAL), _beside(target)
        partial.unlink(missing_ok=True)
        try:
            found = download(partial)
            if found == entry:
                partial.chmod(0o444)  # a reader that writes to it would change it for all
                link_or_copy(partial, linked)
                os.replace(linked, target)
                os.replace(partial, path)
            return found
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(
                    f"no space left in the cache {self._folder}: free some, or set artifacts.cache to another folder"
                ) from None
            raise
        finally:
            partial.unlink(missing_ok=True)
            linked.unlink(missing_ok=True)


def _require_own(folder: Path) -> None:
    """Tag a new cache folder; InputError if the folder holds other files."""
    tag = folder / _TAG_NAME
    if tag.is_file() and tag.read_bytes() == _TAG:
        return
    for path in sorted(folder.iterdir()):
        name = path.name
        if not (
            name in _FOLDERS or is_scratch_name(name) or partial_of(name) == _TAG_NAME or is_file_system_name(name)
        ):
            raise foreign_file_error(folder, name, "artifacts.cache")
    with atomic_write(tag) as file:
        file.write(_TAG)


def _beside(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(8)}.link")
