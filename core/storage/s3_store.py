"""Artefacts in an S3 bucket: whole objects, changed by conditional writes, read through a cache of this host."""

import atexit
import base64
import contextlib
import functools
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import Any

from boto3.s3.transfer import create_transfer_manager
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from core.runtime.errors import InputError
from core.runtime.files import file_entry, sha256
from core.runtime.scratch import scratch_folder
from core.storage.download_cache import DownloadCache
from core.storage.ordered_hash import HashedFile
from core.storage.s3.conditional_writes import VersionForm, version_form
from core.storage.s3.connection import PART_BYTES, SMALL_FILES_AT_ONCE, Connection, connect, transfer_config
from core.storage.s3.errors import code_of
from core.storage.store import (
    LARGEST_SMALL_FILE,
    ArtifactsSection,
    Entry,
    Guard,
    StoredFile,
    Versioned,
    altered,
    cache_folder,
    checked_name,
    too_large,
)

_CHUNK = 2**20
_MISSING = {"404", "NoSuchKey"}
_REFUSED = {"412", "PreconditionFailed"}
_PROBE = ".probe-"
# A probe this old was left by a killed process, and is a file like any other.
_PROBE_SECONDS = 3600
# What names the page after a page.
_NEXT = {
    "list_objects_v2": {"ContinuationToken": "NextContinuationToken"},
    "list_multipart_uploads": {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"},
}
# How often an upload meets another process's file, or loses its own, or wrong bytes come, before it is given up.
_ATTEMPTS = 3
_SHA256 = re.compile("[0-9a-f]{64}")

# Tasks are given addresses only: what the flow said of a bucket holds for the whole process.
_settings: dict[str, ArtifactsSection] = {}
# By server and bucket, once found out.
_version_forms: dict[tuple[str, str], VersionForm] = {}


def open_bucket(uri: str, artifacts: ArtifactsSection | None) -> "S3Store":
    """The store at `s3://bucket/prefix`; without settings, with those that the bucket was last opened with."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if artifacts is None:
        artifacts = _settings.get(bucket) or ArtifactsSection()
    else:
        _settings[bucket] = artifacts
    prefix = prefix.rstrip("/")
    if prefix and not _is_name(prefix):
        raise InputError(f"{uri} is no address of a store: write s3://BUCKET/PREFIX, with single slashes")
    return S3Store(bucket, prefix, artifacts)


class S3Store:
    """`Store` over the objects of a bucket whose keys start with a prefix.

    Errors of the server are waited out or become InputError, see `core.storage.s3.connection`; what its guard raises
    leaves as it is.
    """

    def __init__(self, bucket: str, prefix: str, artifacts: ArtifactsSection, guard: Guard = contextlib.nullcontext):
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket, self._artifacts, self._guard = bucket, artifacts, guard
        self._root = f"{prefix}/" if prefix else ""

    def below(self, name: str) -> "S3Store":
        return S3Store(self._bucket, self._key(name), self._artifacts, self._guard)

    def guarded(self, guard: Guard) -> "S3Store":
        return S3Store(self._bucket, self._root.rstrip("/"), self._artifacts, guard)

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def upload(self, folder: Path, names: Iterable[str]) -> dict[str, Entry]:
        paths = {name: folder / checked_name(name) for name in names}
        large = [name for name, path in paths.items() if path.stat().st_size >= PART_BYTES]
        entries: dict[str, Entry] = {}

        def upload_small(name: str) -> None:
            entries[name] = self._upload_small(paths[name], name)

        _for_each(upload_small, paths.keys() - large)
        for name in large:
            entries[name] = self._upload_large(paths[name], name)
        return {name: entries[name] for name in paths}

    def fetch(self, entries: Mapping[str, Entry]) -> Path:
        folder = cache_folder(self._artifacts).absolute()
        cache = DownloadCache(folder, int(self._artifacts.cache_gb * 1e9))
        view = _views(folder, os.getpid()) / hashlib.sha256(self.uri.encode()).hexdigest()[:16]
        view.mkdir(exist_ok=True)
        downloaded: list[str] = []

        def fetch_one(name: str) -> None:
            wanted, target = entries[name], view / checked_name(name)
            if target.is_file() and sha256(target) == wanted["sha256"]:
                return

            def download(path: Path) -> Entry | None:
                downloaded.append(name)
                return self._download(name, wanted["size"], path)

            found = cache.link(wanted, target, download)
            if found != wanted:
                raise altered(self.uri, name, wanted, found)

        try:
            # Parts of a large one are fetched side by side already.
            _for_each(fetch_one, [name for name, entry in entries.items() if entry["size"] < PART_BYTES])
            for name, entry in entries.items():
                if entry["size"] >= PART_BYTES:
                    fetch_one(name)
        finally:
            if downloaded:
                cache.trim()
        return view

    def measure(self, name: str) -> Entry | None:
        return self._read_through(name, Path(os.devnull))

    def read(self, name: str) -> Versioned | None:
        def read() -> Versioned | None:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(name))
            with contextlib.closing(answer["Body"]) as body:
                if answer["ContentLength"] > LARGEST_SMALL_FILE:
                    raise too_large(self.uri, name, answer["ContentLength"])
                data = body.read()
            if not _is_what_was_stored(data, answer):
                return None
            return Versioned(data, answer["ETag"], _age(answer, answer["LastModified"]))

        def read_again() -> Versioned:
            for _ in range(_ATTEMPTS):
                if (there := self._connection.whole_answer(read)) is not None:
                    return there
            raise InputError(
                f"{self.uri}/{name}: the server at {self._connection.endpoint} gave {_ATTEMPTS} times other bytes than "
                "were stored: run the same command again, and check the server, and any proxy before it"
            )

        return self._unless_missing(read_again)

    def create(self, name: str, data: bytes) -> bool:
        if self._artifacts.single_writer:
            if self._head(name) is not None:
                return False
            with self._connection.explained():
                self._write(name, data)
            return True
        self._version_form()
        with self._connection.explained():
            return self._write_if(name, data, IfNoneMatch="*") is not None

    def compare_and_swap(self, name: str, data: bytes, version: str) -> str | None:
        if self._artifacts.single_writer:
            there = self.read(name)
            if there is None or there.version != version:
                return None
            with self._connection.explained():
                return self._write(name, data)
        condition = self._version_form()(version)
        with self._connection.explained():
            return self._write_if(name, data, IfMatch=condition)

    def files(self) -> Iterator[StoredFile]:
        for page in self._pages("list_objects_v2"):
            for item in page.get("Contents", []):
                name, age = item["Key"].removeprefix(self._root), _age(page, item["LastModified"])
                if _is_name(name) and not (name.startswith(_PROBE) and age < _PROBE_SECONDS):
                    yield StoredFile(name, item["Size"], age)

    def folders(self) -> list[str]:
        names = []
        for page in self._pages("list_objects_v2", Delimiter="/"):
            for item in page.get("CommonPrefixes", []):
                names.append(item["Prefix"].removeprefix(self._root).removesuffix("/"))
        return sorted(name for name in names if _is_name(name) and not name.startswith("."))

    def delete(self, names: Iterable[str]) -> None:
        # One by one: some servers refuse to delete many at once.
        _for_each(self._delete, names)

    def unfinished_uploads(self, older_than: float) -> list[str]:
        return [upload["Key"].removeprefix(self._root) for upload in self._unfinished(older_than)]

    def abort_uploads(self, older_than: float) -> None:
        for upload in list(self._unfinished(older_than)):
            with self._connection.explained():
                try:
                    self._client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                except ClientError as error:
                    if code_of(error) not in {"404", "NoSuchUpload"}:
                        raise

    @property
    def _connection(self) -> Connection:
        return connect(self._bucket, self._artifacts, self._guard)

    @property
    def _client(self) -> Any:
        return self._connection.client

    def _key(self, name: str) -> str:
        return self._root + checked_name(name)

    def _unless_missing(self, request: Callable[[], Any]) -> Any:
        with self._connection.explained():
            try:
                return request()
            except ClientError as error:
                if code_of(error) in _MISSING:
                    return None
                raise

    def _head(self, name: str) -> tuple[int, dict[str, str]] | None:
        """Size and metadata of the object."""
        answer = self._unless_missing(lambda: self._client.head_object(Bucket=self._bucket, Key=self._key(name)))
        if answer is None:
            return None
        # Some servers hand the names of metadata back capitalised.
        return answer["ContentLength"], {key.lower(): value for key, value in answer["Metadata"].items()}

    def _version_form(self) -> VersionForm:
        """How If-Match is written for this server; InputError if it ignores conditions."""
        server = self._connection.endpoint, self._bucket
        if server not in _version_forms:
            form = self._probe()
            if form is None:
                raise InputError(
                    f"bucket {self._bucket} at {self._connection.endpoint} ignores conditional writes, so two "
                    "processes could overwrite one another: use another server, or set artifacts.single_writer: true "
                    "and run one process at a time"
                )
            _version_forms[server] = form
        return _version_forms[server]

    def _probe(self) -> VersionForm | None:
        name = _PROBE + secrets.token_hex(8)
        with self._connection.explained():
            try:
                form = version_form(functools.partial(self._write_if, name))
            except ClientError as error:
                if code_of(error) != "NotImplemented":
                    raise
                form = None
        self._delete(name)
        return form

    def _write_if(self, name: str, data: bytes, **condition: str) -> str | None:
        """Write an object on a condition; its version, or None if the condition does not hold."""
        try:
            return self._write(name, data, **condition)
        except ClientError as error:
            if code_of(error) not in _REFUSED | _MISSING:
                raise
            repeated = error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
        if repeated:
            # The answer to an earlier attempt was lost, and it may have been that attempt which changed the file.
            there = self.read(name)
            if there is not None and there.data == data:
                return there.version
        return None

    def _write(self, name: str, data: bytes, **condition: str) -> str:
        """Write an object; its version."""
        md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        metadata = {"sha256": hashlib.sha256(data).hexdigest()}
        answer = self._client.put_object(
            Bucket=self._bucket, Key=self._key(name), Body=data, ContentMD5=md5, Metadata=metadata, **condition
        )
        return answer["ETag"]

    def _upload_small(self, path: Path, name: str) -> Entry:
        data = path.read_bytes()
        entry: Entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for _ in range(_ATTEMPTS):
            there = self._head(name)
            if there is not None:
                size, metadata = there
                if {"size": size, "sha256": metadata.get("sha256")} == entry:
                    return entry
                self._delete(name)
            with self._connection.explained():
                if self._write_if(name, data, **self._if_absent) is not None:
                    return entry
        raise InputError(f"{self.uri}/{name} is being written by another process too: stop it")

    @property
    def _if_absent(self) -> dict[str, str]:
        return {} if self._artifacts.single_writer else {"IfNoneMatch": "*"}

    def _upload_large(self, path: Path, name: str) -> Entry:
        if self._holds(name, path.stat().st_size, "", lambda: file_entry(path)):
            return file_entry(path)
        for _ in range(_ATTEMPTS):
            before, nonce = _status(path), secrets.token_hex(8)
            # Sending waits for the server, so that hashing meanwhile takes little time of its own.
            with ThreadPoolExecutor(1) as beside:
                hashed = beside.submit(file_entry, path)
                with self._connection.explained():
                    self._send_parts(path, name, nonce)
            if _status(path) != before:
                self._delete(name)
                raise InputError(f"{path} was changed while it was stored: run the same command again")
            if self._holds(name, before[0], nonce, hashed.result):
                return hashed.result()
        raise InputError(f"{self.uri}/{name} was sent {_ATTEMPTS} times and is not there whole: check the server")

    def _holds(self, name: str, size: int, nonce: str, content: Callable[[], Entry]) -> bool:
        """Whether the object is of the upload `nonce`, or else, read through, of the same content."""
        there = self._head(name)
        if there is None or there[0] != size:
            return False
        # A server may drop metadata, and a process may be killed between a file and the record that names it.
        return there[1].get("upload") == nonce or self.measure(name) == content()

    def _send_parts(self, path: Path, name: str, nonce: str) -> None:
        with create_transfer_manager(self._client, transfer_config()) as manager:
            options = {"Metadata": {"upload": nonce}}
            try:
                manager.upload(str(path), self._bucket, self._key(name), extra_args=options).result()
            except (ClientError, ResponseParserError) as error:
                # The server forgot the upload, or finished it and its answer was lost or cut off: the caller looks.
                if code_of(error) not in {"", "NoSuchUpload"}:
                    raise

    def _download(self, name: str, size: int, path: Path) -> Entry | None:
        """Fetch the object, thought to be of `size`, to a new file; what came, or None if there is no such object."""
        if size < PART_BYTES:
            return self._read_through(name, path)

        def attempt() -> Entry:
            with HashedFile(path) as file, create_transfer_manager(self._client, transfer_config()) as manager:
                manager.download(self._bucket, self._key(name), file).result()
                return file.entry()

        # s3transfer may begin with a HEAD, whose answer does not tell a missing bucket from a missing object.
        return self._unless_missing(lambda: self._connection.whole_answer(attempt)) or self._read_through(name, path)

    def _read_through(self, name: str, path: Path) -> Entry | None:
        def attempt() -> Entry:
            body = self._client.get_object(Bucket=self._bucket, Key=self._key(name))["Body"]
            size, digest = 0, hashlib.sha256()
            with contextlib.closing(body), path.open("wb") as file:
                for chunk in body.iter_chunks(_CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
            return {"size": size, "sha256": digest.hexdigest()}

        return self._unless_missing(lambda: self._connection.whole_answer(attempt))

    def _delete(self, name: str) -> None:
        self._unless_missing(lambda: self._client.delete_object(Bucket=self._bucket, Key=self._key(name)))

    def _unfinished(self, older_than: float) -> Iterator[dict[str, Any]]:
        for page in self._pages("list_multipart_uploads"):
            for upload in page.get("Uploads", []):
                if _age(page, upload["Initiated"]) >= older_than:
                    yield upload

    def _pages(self, operation: str, **options: Any) -> Iterator[dict[str, Any]]:
        # The slash at the end of the prefix keeps `demo2` out of `demo`.
        options |= {"Bucket": self._bucket, "Prefix": self._root}
        request = getattr(self._client, operation)
        more = True
        while more:
            with self._connection.explained():
                page = self._connection.whole_answer(functools.partial(request, **options))
            yield page
            more = page.get("IsTruncated", False)
            following = {marker: page.get(next_marker) for marker, next_marker in _NEXT[operation].items() if more}
            if more and (None in following.values() or following.items() <= options.items()):
                raise InputError(
                    f"{self.uri}: the server at {self._connection.endpoint} does not list it to its end: check the "
                    "server, and any proxy before it"
                )
            options |= following


def _for_each(action: Callable[[str], None], names: Iterable[str]) -> None:
    """Do it for all names side by side; the error of the first that fails ends it."""
    with ThreadPoolExecutor(SMALL_FILES_AT_ONCE) as pool:
        tasks = [pool.submit(action, name) for name in names]
        try:
            wait(tasks, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(cancel_futures=True)
    for task in tasks:
        if not task.cancelled():
            task.result()


def _is_what_was_stored(data: bytes, answer: Mapping[str, Any]) -> bool:
    """Whether these are all bytes of the object, as far as its length and the digest that we keep with it say so.

    Who else wrote the object may have kept no digest.
    """
    kept = {key.lower(): value for key, value in answer.get("Metadata", {}).items()}.get("sha256", "")
    if len(data) != answer.get("ContentLength", len(data)):
        return False
    return not _SHA256.fullmatch(kept) or hashlib.sha256(data).hexdigest() == kept


def _age(answer: Mapping[str, Any], written: datetime) -> float:
    """Seconds from `written` to the answer, by the server's clock alone."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    try:
        now = parsedate_to_datetime(date) if date else datetime.now(UTC)
    except ValueError:  # a proxy's own
        now = datetime.now(UTC)
    return max(0.0, (now.replace(tzinfo=now.tzinfo or UTC) - written).total_seconds())


def _is_name(name: str) -> bool:
    """Whether a key is one that `checked_name` lets pass: others were not made by a store."""
    path = PurePosixPath(name)
    return name not in ("", ".") and not path.is_absolute() and ".." not in path.parts and str(path) == name


def _status(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


@functools.cache
def _views(cache: Path, process: int) -> Path:
    """The folder of what this process fetches, gone at its end."""
    stack = contextlib.ExitStack()
    atexit.register(lambda: stack.close() if os.getpid() == process else None)
    return stack.enter_context(scratch_folder(cache / "views"))
