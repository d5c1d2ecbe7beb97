"""Prefect's temporary server, which a flow's command starts where no other server is configured."""

import atexit
import contextlib
import fcntl
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from prefect.settings import (
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    PREFECT_SERVER_LOGGING_LEVEL,
    get_current_settings,
    temporary_settings,
)

from core.runtime.errors import InputError

# Below core's, so that the line goes where those of core go.
log = logging.getLogger("core.flows")

_SECONDS_TO_END = 2
_LOCK = "temporary-server.lock"
_DATABASE_SETTINGS = {"connection_url", "driver", "host", "name"}
# Held until this process is gone: its server ends after everything else.
_locks: list[IO[bytes]] = []
_folders: list[str] = []


@contextlib.contextmanager
def temporary_server() -> Iterator[None]:
    """Inside, a server that Prefect starts has a database that no other such server has.

    Two at once on the database in PREFECT_HOME break each other's tables and lock each other out. The records of a
    second one are gone with it.
    """
    server = get_current_settings().server
    changed: dict[Any, Any] = {}
    if "logging_level" not in server.model_fields_set:
        changed[PREFECT_SERVER_LOGGING_LEVEL] = "CRITICAL"  # the terminal is the command's; what fails comes back
    if not _DATABASE_SETTINGS & server.database.model_fields_set and not _is_ours():
        _folders.append(tempfile.mkdtemp(prefix="prefect-"))
        atexit.register(_remove_folders)
        changed[PREFECT_SERVER_DATABASE_CONNECTION_URL] = f"sqlite+aiosqlite:///{_folders[-1]}/prefect.db"
        log.info("another command's Prefect server uses PREFECT_HOME: Prefect keeps no records of this one")
    with temporary_settings(changed):
        yield


def server_process() -> subprocess.Popen[bytes] | None:
    """The process of this command's temporary server, if it has started one."""
    from prefect.server.api.server import SubprocessASGIServer  # takes seconds, which a command without one saves

    return SubprocessASGIServer().server_process


def end_server() -> None:
    """End the temporary server when the process leaves by `os._exit`, where Prefect's own exit handler does not run."""
    server = server_process()
    if server is not None:
        server.terminate()
        try:
            server.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            server.kill()
    _remove_folders()


def _is_ours() -> bool:
    """Whether no other command's server uses the database in PREFECT_HOME; from now on this one does."""
    home = Path(get_current_settings().home)
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / _LOCK).open("ab")
    except OSError as error:
        raise InputError(f"PREFECT_HOME {home} cannot be written to ({error.strerror}): set another") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return False
    except OSError:
        pass  # a file system without locks, as some of a network are: there nobody is kept apart
    _locks.append(lock)
    return True


def _remove_folders() -> None:
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)
