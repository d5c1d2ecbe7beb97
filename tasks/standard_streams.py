"""What commands write to the terminal: never a traceback, whatever became of stdout and stderr."""

import contextlib
import errno
import os
import sys
from typing import TextIO

from core.runtime.errors import printable

OUTPUT_ERROR_STATUS = 2
# What a pipe whose reader left answers.
_READER_LEFT = (errno.EPIPE, errno.ESHUTDOWN, errno.ECONNRESET)
_closed = False


def prepare_streams() -> None:
    """Make stdout and stderr such that text in whatever letters can be written, and closed ones take no harm.

    A file opened later would get the number of a closed stream, and what others write there.
    """
    global _closed
    if sys.stdout is None:
        _closed = True
    with contextlib.suppress(OSError):
        while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(handle, True)
        os.close(handle)
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def put(text: str) -> None:
    """Write a result to stdout, at once, its control characters escaped.

    Nothing is said to a reader that left. Exits with 2 and one line where stdout is closed, or its disk is full.
    """
    if _closed or sys.stdout is None:
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
    """Write a line to stderr; if stderr cannot be written, nothing is said."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        _drop(sys.stderr)


def flush_streams() -> None:
    """Write out what others wrote to stdout and stderr, as the interpreter's own attempt at its end fails loudly."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            _drop(stream)


def _lost(cause: str) -> None:
    put_error(f"error: standard output cannot be written ({printable(cause)}): give it another place")
    sys.exit(OUTPUT_ERROR_STATUS)


def _drop(stream: TextIO | None) -> None:
    """Have what is left in the stream, and all that follows, go nowhere."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")
