"""A flow as a command: its own lines on the terminal, Prefect's only when something is wrong."""

import logging
from typing import Any

from prefect import Flow

from core.errors import InputError
from tasks.command_line import run_command, say

__all__ = ["run_flow", "say"]


class _UserErrorsElsewhere(logging.Filter):
    """Drops the engine's traceback of an error that the command itself ends with, in one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        caught = record.exc_info[1] if record.exc_info else None
        return not isinstance(caught, InputError | KeyboardInterrupt)


def run_flow(flow: Flow[..., Any]) -> Any:
    """Result of the flow called with the command line's arguments, as `run_command` does with a function."""
    for handler in logging.getLogger("prefect").handlers:
        handler.setLevel(logging.WARNING)
        handler.addFilter(_UserErrorsElsewhere())
    return run_command(flow)
