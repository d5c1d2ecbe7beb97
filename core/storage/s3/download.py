"""Downloads files from a bucket through the cache of this host."""

import atexit
import contextlib
import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from boto3.s3.transfer import create_transfer_manager

from core.runtime.files import Entry, sha256
from core.runtime.scratch import scratch_folder
from core.storage.download_cache import DownloadCache
from core.storage.ordered_hash import HashedFile
from core.storage.s3.objects import S3Objects
from core.storage.s3.transfer import for_each, is_large, transfer_config
from core.storage.store import altered, cache_folder, checked_name


def fetch(objects: S3Objects, entries: Mapping[str, Entry]) -> Path:
    """A folder of this process with the files of `entries`; InputError for the first that is missing or altered."""
    cache_path = cache_folder(objects.artifacts).absolute()
    cache = DownloadCache(cache_path, int(objects.artifacts.cache_gb * 1e9))
    folder = _process_folder(cache_path, os.getpid()) / hashlib.sha256(objects.uri.encode()).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    downloaded: list[str] = []

    def fetch_one(name: str) -> None:
        wanted, target = entries[name], folder / checked_name(name)
        if target.is_file() and sha256(target) == wanted["sha256"]:
            return

        def download(path: Path) -> Entry | None:
            downloaded.append(name)
            return _download(objects, name, wanted["size"], path)

        found = cache.link(wanted, target, download)
        if found != wanted:
            raise altered(objects.uri, name, wanted, found)

    try:
        for_each(fetch_one, [name for name, entry in entries.items() if not is_large(entry["size"])])
        # One after the other: the parts of each are fetched at the same time.
        for name, entry in entries.items():
            if is_large(entry["size"]):
                fetch_one(name)
    finally:
        if downloaded:
            cache.trim()
    return folder


def _download(objects: S3Objects, name: str, size: int, path: Path) -> Entry | None:
    """Fetch the object, expected to have `size` bytes, into a new file; what came, None if it does not exist."""
    if not is_large(size):
        return objects.download(name, path)

    def attempt() -> Entry:
        with HashedFile(path) as file, create_transfer_manager(objects.client, transfer_config()) as manager:
            # types-s3transfer asks for a whole IO object; s3transfer only seeks and writes.
            manager.download(objects.bucket, objects.key(name), file).result()  # type: ignore[arg-type]
            return file.entry()

    found = objects.unless_missing(lambda: objects.connection.retries.run(attempt))
    # s3transfer may begin with a HEAD request, which does not distinguish a missing bucket from a missing object.
    return found or objects.download(name, path)


@functools.cache
def _process_folder(cache: Path, process: int) -> Path:
    """The folder in the cache with the files that this process fetched; it is removed when the process ends."""
    stack = contextlib.ExitStack()
    atexit.register(lambda: stack.close() if os.getpid() == process else None)
    return stack.enter_context(scratch_folder(cache / "views"))
