"""A flow as a command: its own lines on the terminal, Prefect's engine silent."""

import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import prefect
from prefect import Flow
from prefect.logging.configuration import setup_logging

from core.config.loading import load_config
from core.inputs.places import Location
from core.runtime.errors import InputError
from flows.prefect_api import configured_server, require_server, server_errors
from flows.temporary_server import end_server, server_process, temporary_server
from tasks.command_line import run_command, say
from tasks.interruption import Leaving, interruptible

__all__ = ["run_flow", "say"]

# Seconds for the engine to end a run. A terminal's signal ends Prefect's temporary server too, for which the engine
# would wait for minutes; one to this process alone leaves it alive, and a state may be on its way to a bucket.
_SECONDS_WITHOUT_SERVER, _SECONDS_WITH_SERVER = 3, 8
_PREFECT = os.path.dirname(prefect.__file__)


def run_flow(flow: Flow[..., Any]) -> Any:
    """Result of the flow called with the command line's arguments, as `run_command` does with a function.

    Progress bars and results are on the terminal already, and a failure ends the command itself; Prefect's
    records of both go to its server alone. A temporary server ends with the command, however that ends.
    """
    setup_logging()
    for name in ("", *logging.root.manager.loggerDict):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.addFilter(_not_of_the_engine)

    @functools.wraps(flow.fn)
    def checked(config: Location, overrides: Sequence[str] = (), **options: Any) -> Any:
        load_config(config, overrides)  # a mistake is said before a server is started
        if (url := configured_server()) is not None:
            require_server(url)
        with (
            _leaving_a_dead_server(),
            server_errors(),
            temporary_server() if url is None else contextlib.nullcontext(),
        ):
            return flow(config=config, overrides=overrides, **options)

    with interruptible(_leave_soon, end_server):
        return run_command(checked)


def _not_of_the_engine(record: logging.LogRecord) -> bool:
    # Prefect's services log under the names of their classes.
    if not record.name.startswith("prefect") and not record.pathname.startswith(_PREFECT):
        return True
    return record.levelno >= logging.ERROR and not record.name.startswith(("prefect.flow_runs", "prefect.task_runs"))


def _leave_soon(leaving: Leaving) -> None:
    """Have the process left for good if the engine has not ended the run soon."""
    logging.disable()

    def watch() -> None:
        began, server = time.monotonic(), server_process()
        while (waited := time.monotonic() - began) < _SECONDS_WITH_SERVER:
            if server is not None and server.poll() is not None and waited >= _SECONDS_WITHOUT_SERVER:
                break
            time.sleep(0.1)
        leaving.leave()

    threading.Thread(target=watch, name="leave", daemon=True).start()


@contextlib.contextmanager
def _leaving_a_dead_server() -> Iterator[None]:
    """Whatever ends the block, the process ends soon after if its temporary server is gone.

    Prefect waits at the end for minutes until it may send what it has to say.
    """
    try:
        yield
    except BaseException as error:
        server = server_process()
        if server is not None and server.poll() is not None and not isinstance(error, KeyboardInterrupt):
            status = error.exit_status if isinstance(error, InputError) else 1

            def leave() -> None:
                time.sleep(_SECONDS_WITHOUT_SERVER)
                os._exit(status)

            threading.Thread(target=leave, name="leave", daemon=True).start()
        raise
