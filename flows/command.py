"""A flow as a command: its own lines on the terminal, Prefect's engine silent."""

import logging
from typing import Any

from prefect import Flow
from prefect.logging.configuration import setup_logging

from tasks.command_line import run_command, say

__all__ = ["run_flow", "say"]


def run_flow(flow: Flow[..., Any]) -> Any:
    """Result of the flow called with the command line's arguments, as `run_command` does with a function.

    Progress bars and results are on the terminal already, and a failure ends the command itself; Prefect's
    records of both go to its server alone.
    """
    setup_logging()
    for handler in logging.getLogger().handlers:
        handler.addFilter(_not_of_the_engine)
    return run_command(flow)


def _not_of_the_engine(record: logging.LogRecord) -> bool:
    if not record.name.startswith("prefect"):
        return True
    return record.levelno >= logging.WARNING and not record.name.startswith(("prefect.flow_runs", "prefect.task_runs"))
