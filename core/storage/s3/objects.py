"""Single objects of a bucket: their head, reading, writing and deleting them."""

import base64
import contextlib
import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from botocore.exceptions import ClientError

from core.runtime.errors import InputError
from core.runtime.files import Entry
from core.storage.s3.connection import Connection, connect
from core.storage.s3.errors import code_of
from core.storage.s3.retries import MOST_ATTEMPTS
from core.storage.store import (
    LARGEST_SMALL_FILE,
    ArtifactsSection,
    Versioned,
    WriteCheck,
    checked_name,
    too_large,
)

Result = TypeVar("Result")

_CHUNK = 2**20
_MISSING = {"404", "NoSuchKey"}
_CONDITION_FAILED = {"412", "PreconditionFailed"}
_SHA256 = re.compile("[0-9a-f]{64}")


class ObjectHead(NamedTuple):
    """Size and metadata of an object; names of metadata are in lower case."""

    size: int
    metadata: dict[str, str]


class S3Objects:
    """The objects of `bucket` whose keys start with `prefix`. Their names are the rest of the key.

    Failures of the server leave as InputError, errors of `write_check` unchanged.
    """

    def __init__(self, bucket: str, prefix: str, artifacts: ArtifactsSection, write_check: WriteCheck):
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self.bucket, self.artifacts = bucket, artifacts
        # The slash keeps `demo2` out of `demo`.
        self.key_prefix = f"{prefix}/" if prefix else ""
        self._write_check = write_check

    def below(self, name: str) -> "S3Objects":
        """The objects below the folder `name`."""
        return S3Objects(self.bucket, self.key(name), self.artifacts, self._write_check)

    def with_write_check(self, write_check: WriteCheck) -> "S3Objects":
        """The same objects, changed only inside `write_check()`."""
        return S3Objects(self.bucket, self.key_prefix.rstrip("/"), self.artifacts, write_check)

    @property
    def connection(self) -> Connection:
        """The connection of this process, made on first use."""
        return connect(self.bucket, self.artifacts, self._write_check)

    @property
    def client(self) -> Any:
        """The boto3 client; its methods are made at run time, so no type describes them."""
        return self.connection.client

    def key(self, name: str) -> str:
        """Key of the object `name`."""
        return self.key_prefix + checked_name(name)

    def head(self, name: str) -> ObjectHead | None:
        """Size and metadata of the object; None if it does not exist."""
        answer = self.unless_missing(lambda: self.client.head_object(Bucket=self.bucket, Key=self.key(name)))
        if answer is None:
            return None
        # Some servers return the names of metadata capitalised.
        return ObjectHead(answer["ContentLength"], {key.lower(): value for key, value in answer["Metadata"].items()})

    def read(self, name: str) -> Versioned | None:
        """A small object, read again if other bytes come than were stored; None if it does not exist."""

        def attempt() -> Versioned | None:
            answer = self.client.get_object(Bucket=self.bucket, Key=self.key(name))
            with contextlib.closing(answer["Body"]) as body:
                if answer["ContentLength"] > LARGEST_SMALL_FILE:
                    raise too_large(self.uri, name, answer["ContentLength"])
                data = body.read()
            if not _is_complete(data, answer):
                return None
            return Versioned(data, answer["ETag"], age(answer, answer["LastModified"]))

        def complete() -> Versioned:
            for _ in range(MOST_ATTEMPTS):
                if (found := self.connection.retries.run(attempt)) is not None:
                    return found
            raise InputError(
                f"{self.uri}/{name}: the server at {self.connection.endpoint} gave {MOST_ATTEMPTS} times other bytes "
                "than were stored: run the same command again, and check the server, and any proxy before it"
            )

        return self.unless_missing(complete)

    def download(self, name: str, path: Path) -> Entry | None:
        """Read the whole object into the file at `path`; its size and digest, None if it does not exist."""

        def attempt() -> Entry:
            body = self.client.get_object(Bucket=self.bucket, Key=self.key(name))["Body"]
            size, digest = 0, hashlib.sha256()
            with contextlib.closing(body), path.open("wb") as file:
                for chunk in body.iter_chunks(_CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
            return {"size": size, "sha256": digest.hexdigest()}

        return self.unless_missing(lambda: self.connection.retries.run(attempt))

    def write(self, name: str, data: bytes) -> str:
        """Write an object; its version."""
        with self.connection.explained():
            return self._put(name, data)

    def write_if(self, name: str, data: bytes, **condition: str) -> str | None:
        """Write an object if the condition (IfMatch or IfNoneMatch) holds; its version, or None if it does not hold."""
        with self.connection.explained():
            return self.try_write_if(name, data, **condition)

    def try_write_if(self, name: str, data: bytes, **condition: str) -> str | None:
        """The same, with errors as boto3 raises them."""
        try:
            return self._put(name, data, **condition)
        except ClientError as error:
            if code_of(error) not in _CONDITION_FAILED | _MISSING:
                raise
            repeated = error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
        if repeated:
            # The answer to an earlier attempt was lost. That attempt may have written the object.
            found = self.read(name)
            if found is not None and found.data == data:
                return found.version
        return None

    def delete(self, name: str) -> None:
        """Delete an object, if it exists."""
        self.unless_missing(lambda: self.client.delete_object(Bucket=self.bucket, Key=self.key(name)))

    def unless_missing(self, request: Callable[[], Result]) -> Result | None:
        """What `request` returns; None if the object does not exist."""
        with self.connection.explained():
            try:
                return request()
            except ClientError as error:
                if code_of(error) in _MISSING:
                    return None
                raise

    def _put(self, name: str, data: bytes, **condition: str) -> str:
        md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        metadata = {"sha256": hashlib.sha256(data).hexdigest()}
        answer = self.client.put_object(
            Bucket=self.bucket, Key=self.key(name), Body=data, ContentMD5=md5, Metadata=metadata, **condition
        )
        version: str = answer["ETag"]
        return version


def age(answer: Mapping[str, Any], written: datetime) -> float:
    """Seconds from `written` to the answer, both by the server's clock."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    try:
        now = parsedate_to_datetime(date) if date else datetime.now(UTC)
    except ValueError:  # a proxy wrote another form
        now = datetime.now(UTC)
    return max(0.0, (now.replace(tzinfo=now.tzinfo or UTC) - written).total_seconds())


def _is_complete(data: bytes, answer: Mapping[str, Any]) -> bool:
    """Whether `data` has the object's length, and the digest that we store with every object.

    Objects that other programs wrote may have no digest.
    """
    stored = {key.lower(): value for key, value in answer.get("Metadata", {}).items()}.get("sha256", "")
    if len(data) != answer.get("ContentLength", len(data)):
        return False
    return not _SHA256.fullmatch(stored) or hashlib.sha256(data).hexdigest() == stored
