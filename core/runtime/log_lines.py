"""Makes every log record of this project one printable line without secrets, wherever it is shown."""

import logging
from typing import Any

from core.runtime.errors import one_line

_make = logging.getLogRecordFactory()


def _record(name: str, *arguments: Any, **options: Any) -> logging.LogRecord:
    record = _make(name, *arguments, **options)
    if name.partition(".")[0] == "core":
        record.msg, record.args = one_line(record.getMessage()), None
    return record


def install_log_lines() -> None:
    """Install this for all records of `core`. Other records stay unchanged."""
    logging.setLogRecordFactory(_record)
