"""A boto3 client that waits for its server, asks a guard before every change and fails in plain sentences."""

import contextlib
import functools
import itertools
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from botocore.model import OperationModel

from core.runtime.errors import InputError, UnavailableError
from core.storage.s3.answers import answer_of, other_protocol
from core.storage.s3.client import endpoint_setting, make_client
from core.storage.s3.errors import S3_ERRORS, is_transient, is_transient_answer, refusal, silence
from core.storage.store import ArtifactsSection, Guard

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

SMALL_FILES_AT_ONCE = 8
PARTS_AT_ONCE = 4
# Files from here on are sent and fetched in parts; the small ones in flight are in memory whole.
PART_BYTES = 16 * 2**20

# Seconds in which a server that this process never reached is given up: its address is probably mistyped.
FIRST_ANSWER_SECONDS = 30.0
_LONGEST_PAUSE = 10.0
# A few failures within a second are no news.
_FAILURES_TOLD = 5

_CHANGES = ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "DeleteObject")


def connect(bucket: str, artifacts: ArtifactsSection, guard: Guard) -> "Connection":
    """The connection of this process to `bucket`; the same one for the same settings and guard."""
    # A client does not survive a fork.
    return _connect(bucket, artifacts, guard, os.getpid())


@functools.lru_cache(maxsize=16)
def _connect(bucket: str, artifacts: ArtifactsSection, guard: Guard, process: int) -> "Connection":
    return Connection(bucket, artifacts, guard)


class Connection:
    """A client of one bucket; every error that leaves `explained` is an InputError or the guard's own."""

    def __init__(self, bucket: str, artifacts: ArtifactsSection, guard: Guard):
        self.bucket = bucket
        self.client = make_client(bucket, artifacts, SMALL_FILES_AT_ONCE + PARTS_AT_ONCE + 8)
        self.endpoint = self.client.meta.endpoint_url
        self._setting = endpoint_setting(self.client, artifacts)
        server = _server(self.endpoint)
        self._patience = Patience(server, 60 * artifacts.patience_minutes)
        events = self.client.meta.events
        # Inside botocore, where every request passes: those of s3transfer's threads and the repeated ones too.
        events.register("before-parse.s3", server.take_answer)
        events.register("needs-retry.s3", self._patience.before_repeating)
        for operation in _CHANGES:
            events.register_first(f"before-send.s3.{operation}", functools.partial(_ask, guard))

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """What S3 raises inside leaves as an InputError that names the bucket and what to do."""
        try:
            yield
        except S3_ERRORS as error:
            cause = getattr(error, "last_exception", error)
            if not is_transient(cause):
                raise refusal(cause, self.bucket, self.endpoint, self._setting) from None
            raise UnavailableError(self._lost(cause)) from None
        except RuntimeError as error:  # botocore's own, of credentials that a program or server gives
            if "refreshed credentials are still expired" not in str(error):
                raise
            raise InputError(
                f"bucket {self.bucket} at {self.endpoint}: the keys that the AWS configuration gives have expired: "
                "log in again, or set this machine's clock"
            ) from None

    def whole_answer(self, request: Callable[[], Answer]) -> Answer:
        """What `request` returns, made again while the connection breaks off in the middle of its answer."""
        failed_at = None
        for attempt in itertools.count(1):
            try:
                return request()
            except (*S3_ERRORS, ConnectionError, TimeoutError, AttributeError) as error:
                if not is_transient(error):
                    raise
                now = time.monotonic()
                failed_at = failed_at or now
                pause = self._patience.pause(attempt, now - failed_at)
                if pause is None:
                    raise UnavailableError(self._lost(error)) from None
                time.sleep(pause)
            except UnicodeError:
                raise
            except ValueError:  # of botocore's reader of dates and numbers
                raise InputError(
                    f"bucket {self.bucket} at {self.endpoint}: the answer holds a number or date that is none: check "
                    "the server, and any proxy before it"
                ) from None
        raise AssertionError("unreachable")

    def _lost(self, error: Exception) -> str:
        return f"bucket {self.bucket} at {self.endpoint}: {self._patience.lost(error, self._setting)}"


class Patience:
    """How long a request that fails for a reason that may pass is made again."""

    def __init__(self, server: "Server", seconds: float):
        self._server, self._seconds = server, seconds

    def before_repeating(
        self,
        response: tuple[Any, dict[str, Any]] | None,
        caught_exception: Exception | None,
        attempts: int,
        operation: Any,
        request_dict: dict[str, Any],
        **_: Any,
    ) -> float | None:
        """botocore's `needs-retry`: the pause before the request is sent again, or None to let it be."""
        if response is not None:
            status = response[1]["ResponseMetadata"]["HTTPStatusCode"]
            failed = is_transient_answer(status, str(response[1].get("Error", {}).get("Code", "")))
        else:
            failed = caught_exception is not None and is_transient(caught_exception)
            if failed and attempts == 1:
                self._server.take_silence()
        if not failed:
            if response is not None:
                self._server.tell_answer()
            return None
        failed_at = request_dict["context"].setdefault("failed_at", time.monotonic())
        if operation.name == "AbortMultipartUpload" and attempts > 1:
            return None  # sweeping up after a failure is not worth waiting for
        return self.pause(attempts, time.monotonic() - failed_at)

    def pause(self, failures: int, waited: float) -> float | None:
        """Seconds to wait after so many failures in so many seconds; None to give up."""
        limit = self._limit()
        if waited >= limit:
            return None
        if failures >= _FAILURES_TOLD:
            self._server.tell_waiting(limit)
        longest = min(_LONGEST_PAUSE, 0.05 * 2 ** min(failures, 10))
        return min(longest * random.uniform(0.5, 1), limit - waited)

    def lost(self, error: Exception, setting: str | None) -> str:
        """The sentence for a server that was given up with this error; `setting` names its endpoint."""
        if not self._server.answered:
            return silence(error, setting)
        waited = f"for {self._seconds / 60:g} min (artifacts.patience_minutes)"
        return f"the server failed {waited}: run the same command again when it works"

    def _limit(self) -> float:
        return self._seconds if self._server.answered else min(FIRST_ANSWER_SECONDS, self._seconds)


class Server:
    """What this process knows of an S3 server: whether it ever answered, and whether it is being waited for."""

    def __init__(self, endpoint: str):
        self.endpoint, self.answered = endpoint, False
        self._is_known = False  # to be one of S3's
        self._waiting_since: float | None = None
        self._lock = threading.Lock()

    def take_answer(self, operation_model: OperationModel, response_dict: dict[str, Any], **_: Any) -> None:
        """botocore's `before-parse`, for every answer. NotS3Error for one of something else than an S3 server.

        From where S3 answered before, such an answer becomes one that may pass: a proxy's page while S3 is away.
        """
        answer = answer_of(operation_model.name, response_dict)
        if answer.operation == "HeadBucket" and answer.redirects:
            # boto3 asks so which region a redirect is to, and would ask again for this one, without end.
            raise ClientError({"Error": {"Code": "PermanentRedirect"}, "ResponseMetadata": {"HTTPHeaders": {}}}, "")
        if answer.is_from_s3:
            self.answered = self._is_known = True
        elif answer.is_from_s3 is None:
            self.answered |= answer.is_of_a_gateway
        elif self._is_known:
            response_dict["status_code"], response_dict["body"] = 503, b""
        else:
            raise (other_protocol(self.endpoint) if answer.status == 400 else None) or answer.error()

    def take_silence(self) -> None:
        """NotS3Error if a first request found no silence, but something that speaks another protocol."""
        if not self._is_known and (error := other_protocol(self.endpoint)) is not None:
            raise error

    def tell_waiting(self, seconds: float) -> None:
        """Log that the server is waited for, once."""
        with self._lock:
            if self._waiting_since is None:
                self._waiting_since = time.monotonic()
                log.warning("%s does not answer: waiting for it up to %.0f s", self.endpoint, seconds)

    def tell_answer(self) -> None:
        """Log that the server answers again, if it was waited for."""
        if self._waiting_since is None:
            return
        with self._lock:
            if self._waiting_since is not None:
                waited = time.monotonic() - self._waiting_since
                self._waiting_since = None
                log.info("%s answers again after %.0f s", self.endpoint, waited)


@functools.cache
def _server(endpoint: str) -> Server:
    return Server(endpoint)


def transfer_config() -> TransferConfig:
    """How files are sent and fetched in parts: at most PARTS_AT_ONCE of them, about 25 MB waiting to be written."""
    return TransferConfig(
        multipart_threshold=PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=PARTS_AT_ONCE,
        num_download_attempts=10,
        max_io_queue=100,
        io_chunksize=256 * 2**10,
        preferred_transfer_client="classic",
    )


def _ask(guard: Guard, **_: Any) -> None:
    with guard():
        pass
