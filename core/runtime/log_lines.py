"""Every log record of this project is one printable line without secrets, at a terminal, in a file, on a server."""

import logging
from typing import Any

from core.runtime.errors import one_line

_make = logging.getLogRecordFactory()


def _record(name: str, *arguments: Any, **options: Any) -> logging.LogRecord:
    record = _make(name, *arguments, **options)
    if name.partition(".")[0] == "core":
        record.msg, record.args = one_line(record.getMessage()), None
    return record


def show_lines() -> None:
    """Have all records of `core` made so; others stay as they are."""
    logging.setLogRecordFactory(_record)
