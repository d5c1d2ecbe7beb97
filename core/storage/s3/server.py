"""What this process knows about an S3 server."""

import logging
import threading
import time
from typing import Any

from botocore.exceptions import ClientError
from botocore.model import OperationModel

from core.storage.s3.answers import answer_of, other_protocol
from core.storage.s3.condition_probe import VersionForm

log = logging.getLogger(__name__)


class ServerState:
    """Whether the server at `endpoint` ever answered, is being waited for, and how it takes conditions."""

    def __init__(self, endpoint: str):
        self.endpoint, self.answered = endpoint, False
        # How If-Match is written, by bucket, once a probe has shown that the server honours conditions there.
        self.version_forms: dict[str, VersionForm] = {}
        self._is_known_s3 = False
        self._waiting_since: float | None = None
        self._lock = threading.Lock()

    def take_answer(self, operation_model: OperationModel, response_dict: dict[str, Any], **_: Any) -> None:
        """Check every answer (botocore's event `before-parse`). NotS3Error if it does not come from an S3 server.

        If the server gave S3 answers before, the answer is replaced by a transient error instead: a proxy may show a
        page of its own while the S3 server is down.
        """
        answer = answer_of(operation_model.name, response_dict)
        if answer.operation == "HeadBucket" and answer.redirects:
            # boto3 sends this to find the region of a redirect, and would repeat it for this redirect forever.
            # It reads the headers of this error, and nothing else of it.
            response: Any = {"Error": {"Code": "PermanentRedirect"}, "ResponseMetadata": {"HTTPHeaders": {}}}
            raise ClientError(response, "")
        if answer.is_from_s3:
            self.answered = self._is_known_s3 = True
        elif answer.is_from_s3 is None:
            self.answered |= answer.is_of_a_gateway
        elif self._is_known_s3:
            response_dict["status_code"], response_dict["body"] = 503, b""
        else:
            raise (other_protocol(self.endpoint) if answer.status == 400 else None) or answer.error()

    def take_silence(self) -> None:
        """After a first request without an answer: NotS3Error if the server speaks another protocol."""
        if not self._is_known_s3 and (error := other_protocol(self.endpoint)) is not None:
            raise error

    def log_waiting(self, seconds: float) -> None:
        """Log once that the server does not answer."""
        with self._lock:
            if self._waiting_since is None:
                self._waiting_since = time.monotonic()
                log.warning("%s does not answer: waiting for it up to %.0f s", self.endpoint, seconds)

    def log_answer(self) -> None:
        """Log that the server answers again, if a wait for it was logged."""
        if self._waiting_since is None:
            return
        with self._lock:
            if self._waiting_since is not None:
                waited = time.monotonic() - self._waiting_since
                self._waiting_since = None
                log.info("%s answers again after %.0f s", self.endpoint, waited)
