"""A boto3 client of one bucket with retries, a check before every change, and errors in plain sentences."""

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

from core.runtime.errors import InputError
from core.storage.s3.client import endpoint_setting, make_client
from core.storage.s3.errors import S3_ERRORS, is_transient, refusal
from core.storage.s3.retries import RetryPolicy
from core.storage.s3.server import ServerState
from core.storage.s3.transfer import MOST_REQUESTS_AT_ONCE
from core.storage.store import ArtifactsSection, WriteCheck

_CHANGES = ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "DeleteObject")


def connect(bucket: str, artifacts: ArtifactsSection, write_check: WriteCheck) -> "Connection":
    """The connection of this process to `bucket`; the same one for the same settings and check."""
    # Making a client takes long. It must not be used after a fork.
    return _connect(bucket, artifacts, write_check, os.getpid())


@functools.lru_cache(maxsize=16)
def _connect(bucket: str, artifacts: ArtifactsSection, write_check: WriteCheck, process: int) -> "Connection":
    return Connection(bucket, artifacts, write_check)


class Connection:
    """A client of one bucket. Errors that leave `explained` are InputErrors or come from the write check."""

    def __init__(self, bucket: str, artifacts: ArtifactsSection, write_check: WriteCheck):
        self.client = make_client(bucket, artifacts, MOST_REQUESTS_AT_ONCE + 8)
        self.endpoint: str = self.client.meta.endpoint_url
        self.where = f"bucket {bucket} at {self.endpoint}"
        self.server = _server(self.endpoint)
        self._bucket, self._setting = bucket, endpoint_setting(self.client, artifacts)
        self.retries = RetryPolicy(self.server, self.where, self._setting, 60 * artifacts.patience_minutes)
        events = self.client.meta.events
        # botocore's events see every request: also repeated ones and those of s3transfer's threads.
        events.register("before-parse.s3", self.server.take_answer)
        # boto3-stubs say that handlers return nothing; the result of this one is the pause.
        events.register("needs-retry.s3", self.retries.before_retry)  # type: ignore[arg-type]
        for operation in _CHANGES:
            events.register_first(f"before-send.s3.{operation}", functools.partial(_check, write_check))

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Inside, errors of boto3 become InputErrors that name the bucket and what to do."""
        try:
            yield
        except S3_ERRORS as error:
            cause = getattr(error, "last_exception", error)
            if not is_transient(cause):
                raise refusal(cause, self._bucket, self.endpoint, self._setting) from None
            raise self.retries.unavailable(cause) from None
        except RuntimeError as error:  # botocore's own, for credentials that a program or server provides
            if "refreshed credentials are still expired" not in str(error):
                raise
            raise InputError(
                f"{self.where}: the keys that the AWS configuration gives have expired: log in again, or set this "
                "machine's clock"
            ) from None


# One for each endpoint, shared by connections with different checks: what is known about a server holds for all.
@functools.cache
def _server(endpoint: str) -> ServerState:
    return ServerState(endpoint)


def _check(write_check: WriteCheck, **_: Any) -> None:
    with write_check():
        pass
