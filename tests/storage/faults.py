"""Faults of an S3 server: moto fails at the first requests of a kind."""

import contextlib

import pytest
from botocore.awsrequest import AWSResponse, HeadersDict
from botocore.exceptions import ConnectionClosedError
from moto.core.botocore_stubber import BotocoreStubber, MockRawResponse

LOST_ANSWER = "lost answer"


DROPPED = "dropped"


CUT = "cut off"


SLOW_DOWN = (503, "SlowDown")


SECRET = "moto-secret"


@contextlib.contextmanager
def faulty(operation, *faults):
    """moto fails at the first requests of this kind: with an HTTP status and S3 code, no answer, or a lost answer.

    Yields the addresses of the requests that it received.
    """
    left, serve, seen = list(faults), BotocoreStubber.__call__, []

    def fail(self, event_name, request, **options):
        if event_name != f"before-send.s3.{operation}":
            return serve(self, event_name, request, **options)
        seen.append(request.url)
        fault = left.pop(0) if left else None
        if fault == LOST_ANSWER:
            serve(self, event_name, request, **options)
        if fault in (LOST_ANSWER, DROPPED):
            raise ConnectionClosedError(endpoint_url=request.url)
        if fault is None:
            return serve(self, event_name, request, **options)
        if fault == CUT:
            answer = serve(self, event_name, request, **options)
            whole = answer.raw.read()
            return AWSResponse(request.url, 200, answer.headers, MockRawResponse(whole[: len(whole) // 2]))
        status, code = fault
        body = "" if request.method == "HEAD" else f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>"
        return AWSResponse(request.url, status, HeadersDict(), MockRawResponse(body.encode()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BotocoreStubber, "__call__", fail)
        yield seen


def counted(operation):
    """The addresses of the requests of this kind."""
    return faulty(operation)
