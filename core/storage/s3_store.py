"""The artefact store in an S3 bucket. The parts that do the work are in the package `s3` beside this module."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from core.runtime.errors import InputError
from core.runtime.files import Entry
from core.storage.s3 import conditional_writes, listing
from core.storage.s3.download import fetch
from core.storage.s3.objects import S3Objects
from core.storage.s3.transfer import for_each
from core.storage.s3.upload import stored_entry, upload
from core.storage.store import ArtifactsSection, StoredFile, Versioned, WriteCheck, is_file_name


def open_bucket(uri: str, artifacts: ArtifactsSection) -> "S3Store":
    """The store at `s3://bucket/prefix`."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    prefix = prefix.rstrip("/")
    if prefix and not is_file_name(prefix):
        raise InputError(f"{uri} is not the address of a store: write s3://BUCKET/PREFIX, with single slashes")
    return S3Store(S3Objects(bucket, prefix, artifacts, contextlib.nullcontext))


class S3Store:
    """`Store` over the objects of a bucket whose keys start with a prefix.

    Files are whole objects. Small files are changed by conditional writes, large ones are read through a cache of this
    host. Failures of the server are waited out or become InputError, see `s3/retries.py` and `s3/errors.py`.
    """

    def __init__(self, objects: S3Objects):
        self.uri = objects.uri
        self._objects = objects

    def below(self, name: str) -> "S3Store":
        return S3Store(self._objects.below(name))

    def with_write_check(self, write_check: WriteCheck) -> "S3Store":
        return S3Store(self._objects.with_write_check(write_check))

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def upload(self, folder: Path, names: Iterable[str]) -> dict[str, Entry]:
        return upload(self._objects, folder, names)

    def fetch(self, entries: Mapping[str, Entry]) -> Path:
        return fetch(self._objects, entries)

    def measure(self, name: str) -> Entry | None:
        return stored_entry(self._objects, name)

    def read(self, name: str) -> Versioned | None:
        return self._objects.read(name)

    def create(self, name: str, data: bytes) -> bool:
        return conditional_writes.create(self._objects, name, data)

    def compare_and_swap(self, name: str, data: bytes, version: str) -> str | None:
        return conditional_writes.compare_and_swap(self._objects, name, data, version)

    def files(self) -> Iterator[StoredFile]:
        return listing.files(self._objects)

    def folders(self) -> list[str]:
        return listing.folders(self._objects)

    def delete(self, names: Iterable[str]) -> None:
        # One by one: some servers refuse to delete many at once.
        for_each(self._objects.delete, names)

    def unfinished_uploads(self, older_than: float) -> list[str]:
        return listing.unfinished_uploads(self._objects, older_than)

    def abort_uploads(self, older_than: float) -> None:
        listing.abort_uploads(self._objects, older_than)
