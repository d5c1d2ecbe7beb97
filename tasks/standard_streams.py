"""Output of commands to the terminal, without a traceback even if stdout or stderr is closed or full."""

import contextlib
import errno
import io
import os
import sys
from typing import TextIO

from core.runtime.errors import printable

OUTPUT_ERROR_STATUS = 2
# Errors of a pipe whose reader has exited.
_READER_LEFT = (errno.EPIPE, errno.ESHUTDOWN, errno.ECONNRESET)


class _Closed(io.TextIOWrapper):
    """Stands in for a stream that was closed before the command started; what is written to it is discarded."""

    def __init__(self) -> None:
        super().__init__(io.BufferedWriter(io.FileIO(os.devnull, "w")), encoding="utf-8")


def prepare_streams() -> None:
    """Make stdout and stderr accept any text, and replace closed ones.

    Otherwise a file opened later would get the number of a closed stream, and receive what others write to it.
    """
    with contextlib.suppress(OSError):
        while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(handle, True)
        os.close(handle)
    sys.stdout = sys.stdout or _Closed()
    sys.stderr = sys.stderr or _Closed()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def put(text: str) -> None:
    """Write a result to stdout at once, its control characters escaped.

    Does nothing if the reader of a pipe has exited. Exits with 2 and one line if stdout is closed or its disk is full.
    """
    if sys.stdout is None or isinstance(sys.stdout, _Closed):
        _lost("it is closed")
    try:
        sys.stdout.write("\n".join(printable(line) for line in text.split("\n")) + "\n")
        sys.stdout.flush()
    except OSError as error:
        _drop(sys.stdout)
        if error.errno not in _READER_LEFT:
            _lost(error.strerror or str(error))
    except ValueError:
        _lost("it is closed")


def put_error(line: str) -> None:
    """Write a line to stderr; does nothing if stderr cannot be written."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        _drop(sys.stderr)


def flush_streams() -> None:
    """Flush stdout and stderr: the interpreter's own attempt at its end prints an error if that fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            _drop(stream)


def _lost(cause: str) -> None:
    put_error(f"error: standard output cannot be written ({printable(cause)}): give it another place")
    sys.exit(OUTPUT_ERROR_STATUS)


def _drop(stream: TextIO | None) -> None:
    """Discard what is left in the stream, and all later output."""
    if stream is None:
        return
    with contextlib.suppress(AttributeError, OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
