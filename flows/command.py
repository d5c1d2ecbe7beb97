"""A flow as a command: its own lines on the terminal, Prefect's engine silent."""

import functools
import logging
import os
import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

from prefect import Flow
from prefect.logging.configuration import setup_logging

from core.config import load_config
from core.store import Location
from flows.prefect_api import configured_server, require_server
from tasks.command_line import INTERRUPTED_LINE, INTERRUPTED_STATUS, run_command, say

__all__ = ["run_flow", "say"]

# Ctrl-C stops Prefect's temporary server as well; the engine must not wait for it for minutes.
_SECONDS_TO_REPORT_AN_INTERRUPT = 3


def run_flow(flow: Flow[..., Any]) -> Any:
    """Result of the flow called with the command line's arguments, as `run_command` does with a function.

    Progress bars and results are on the terminal already, and a failure ends the command itself; Prefect's
    records of both go to its server alone.
    """
    setup_logging()
    for name in ("", *logging.root.manager.loggerDict):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.addFilter(_not_of_the_engine)
    signal.signal(signal.SIGINT, _interrupt)

    @functools.wraps(flow.fn)
    def checked(config: Location, overrides: Sequence[str] = (), **options: Any) -> Any:
        load_config(config, overrides)  # a mistake is said before a server is started
        if (url := configured_server()) is not None:
            require_server(url)
        return flow(config=config, overrides=overrides, **options)

    return run_command(checked)


def _not_of_the_engine(record: logging.LogRecord) -> bool:
    if not record.name.startswith("prefect"):
        return True
    return record.levelno >= logging.ERROR and not record.name.startswith(("prefect.flow_runs", "prefect.task_runs"))


def _interrupt(*_: int | FrameType | None) -> None:
    """Stop the run; leave for good if the engine has not ended it soon."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable()
    leave = threading.Timer(_SECONDS_TO_REPORT_AN_INTERRUPT, _leave)
    leave.daemon = True
    leave.start()
    raise KeyboardInterrupt


def _leave() -> None:
    os.write(2, f"{INTERRUPTED_LINE}\n".encode())
    os._exit(INTERRUPTED_STATUS)
