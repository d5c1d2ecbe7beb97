"""When a failed S3 request is sent again, and when to give up: the same for uploads, downloads and small files.

botocore asks `RetryPolicy.before_retry` after every request that failed, so also for each part of an upload.
`RetryPolicy.run` repeats a request whose answer broke off while it was read. An upload that is not complete on the
server afterwards is sent again as a whole, up to `MOST_ATTEMPTS` times, see `upload.py`.
"""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from core.runtime.errors import InputError, UnavailableError
from core.storage.s3.errors import S3_ERRORS, is_transient, is_transient_answer, silence
from core.storage.s3.server import ServerState

Result = TypeVar("Result")

# How often an upload or a read is tried when requests succeed but the outcome is wrong: another process writes the same
# file, an upload got lost, or other bytes came than were stored.
MOST_ATTEMPTS = 3
# Seconds until a server that this process never reached is given up: its address is probably wrong.
FIRST_ANSWER_SECONDS = 30.0
_LONGEST_PAUSE = 10.0
# A few failures within a second are not worth a line in the log.
_FAILURES_BEFORE_LOGGING = 5


class RetryPolicy:
    """Repeats requests that failed for a reason that may pass, for `seconds` at most.

    `where` names the bucket and endpoint in errors, `setting` what configures the endpoint (None for AWS).
    """

    def __init__(self, server: ServerState, where: str, setting: str | None, seconds: float):
        self._server, self._where, self._setting, self._seconds = server, where, setting, seconds

    def before_retry(
        self,
        response: tuple[Any, dict[str, Any]] | None,
        caught_exception: Exception | None,
        attempts: int,
        operation: Any,
        request_dict: dict[str, Any],
        **_: Any,
    ) -> float | None:
        """Seconds until the request is sent again, None to give up or if it succeeded (botocore's `needs-retry`)."""
        if response is not None:
            status = response[1]["ResponseMetadata"]["HTTPStatusCode"]
            failed = is_transient_answer(status, str(response[1].get("Error", {}).get("Code", "")))
        else:
            failed = caught_exception is not None and is_transient(caught_exception)
            if failed and attempts == 1:
                self._server.take_silence()
        if not failed:
            if response is not None:
                self._server.log_answer()
            return None
        failed_at: float = request_dict["context"].setdefault("failed_at", time.monotonic())
        if operation.name == "AbortMultipartUpload" and attempts > 1:
            return None  # cleaning up after a failure is not worth waiting for
        return self._pause(attempts, time.monotonic() - failed_at)

    def run(self, request: Callable[[], Result]) -> Result:
        """What `request` returns. It is called again while the connection breaks off in the middle of its answer."""
        failures, failed_at = 0, 0.0
        while True:
            try:
                return request()
            except (*S3_ERRORS, ConnectionError, TimeoutError, AttributeError) as error:
                if not is_transient(error):
                    raise
                now = time.monotonic()
                failures, failed_at = failures + 1, failed_at or now
                pause = self._pause(failures, now - failed_at)
                if pause is None:
                    raise self.unavailable(error) from None
                time.sleep(pause)
            except UnicodeError:
                raise
            except ValueError:  # botocore could not parse a date or number
                raise InputError(
                    f"{self._where}: the answer holds an invalid number or date: check the server, and any proxy "
                    "before it"
                ) from None

    def unavailable(self, error: Exception) -> UnavailableError:
        """The error for a server that was given up; `error` is the last failure."""
        if not self._server.answered:
            return UnavailableError(f"{self._where}: {silence(error, self._setting)}")
        waited = f"for {self._seconds / 60:g} min (artifacts.patience_minutes)"
        return UnavailableError(f"{self._where}: the server failed {waited}: run the same command again when it works")

    def _pause(self, failures: int, waited: float) -> float | None:
        """Seconds to wait after `failures` in `waited` seconds; None to give up."""
        limit = self._seconds if self._server.answered else min(FIRST_ANSWER_SECONDS, self._seconds)
        if waited >= limit:
            return None
        if failures >= _FAILURES_BEFORE_LOGGING:
            self._server.log_waiting(limit)
        longest: float = min(_LONGEST_PAUSE, 0.05 * 2 ** min(failures, 10))
        return min(longest * random.uniform(0.5, 1), limit - waited)
