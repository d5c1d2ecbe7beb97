"""A flow as a command: the terminal shows its own lines, not those of Prefect's engine."""

import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import prefect
from prefect import Flow
from prefect.logging.configuration import setup_logging

from core.checkpoints.imported_models import load_experiment
from core.config.experiment import ExperimentConfig
from core.inputs.locations import Location
from core.runtime.errors import InputError
from flows.prefect_api import configured_server, require_server, server_errors
from flows.temporary_server import TemporaryServer
from tasks.command_line import run_command, say
from tasks.interruption import Leaving, interruptible

__all__ = ["run_flow", "say"]

# Seconds for the engine to end a run after a signal. A signal of the terminal also ends Prefect's temporary server, for
# which the engine would wait for minutes. A signal to this process alone leaves the server alive, and an upload of a
# state may take longer.
_SECONDS_WITHOUT_SERVER, _SECONDS_WITH_SERVER = 3, 8
_PREFECT = os.path.dirname(prefect.__file__)


def run_flow(flow: Flow[..., Any], shown: Callable[[ExperimentConfig, Any], Any] | None = None) -> Any:
    """Result of the flow called with the command line's arguments, as `run_command` calls a function.

    With `shown`, what it makes of the config and that result.
    Prefect's log lines go to its server only: the terminal already shows progress bars, results and the error that
    ends the command. A temporary server ends with the command, however that ends.
    """
    server = TemporaryServer()
    setup_logging()
    for name in ("", *logging.root.manager.loggerDict):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.addFilter(_not_of_the_engine)

    @functools.wraps(flow.fn)
    def checked(config: Location, overrides: Sequence[str] = (), **options: Any) -> Any:
        experiment = load_experiment(config, overrides)  # a mistake ends the command before a server is started
        if (url := configured_server()) is not None:
            require_server(url)
        with (
            _leaving_a_dead_server(server),
            server_errors(),
            server.own_database() if url is None else contextlib.nullcontext(),
        ):
            result = flow(config=config, overrides=overrides, **options)
        return result if shown is None else shown(experiment, result)

    with interruptible(lambda leaving: _leave_soon(leaving, server), server.end):
        return run_command(checked)


def _not_of_the_engine(record: logging.LogRecord) -> bool:
    # Prefect's services log under the names of their classes.
    if not record.name.startswith("prefect") and not record.pathname.startswith(_PREFECT):
        return True
    return record.levelno >= logging.ERROR and not record.name.startswith(("prefect.flow_runs", "prefect.task_runs"))


def _leave_soon(leaving: Leaving, server: TemporaryServer) -> None:
    """End the process soon, even if the engine has not ended the run by then."""
    logging.disable()

    def watch() -> None:
        began, process = time.monotonic(), server.process()
        while (waited := time.monotonic() - began) < _SECONDS_WITH_SERVER:
            if process is not None and process.poll() is not None and waited >= _SECONDS_WITHOUT_SERVER:
                break
            time.sleep(0.1)
        leaving.leave()

    threading.Thread(target=watch, name="leave", daemon=True).start()


@contextlib.contextmanager
def _leaving_a_dead_server(server: TemporaryServer) -> Iterator[None]:
    """If an error ends the block and the temporary server is gone, the process ends soon after.

    Prefect would wait for minutes to send its last log lines and events to that server.
    """
    try:
        yield
    except BaseException as error:
        process = server.process()
        if process is not None and process.poll() is not None and not isinstance(error, KeyboardInterrupt):
            status = error.exit_status if isinstance(error, InputError) else 1

            def leave() -> None:
                time.sleep(_SECONDS_WITHOUT_SERVER)
                os._exit(status)

            threading.Thread(target=leave, name="leave", daemon=True).start()
        raise
