"""Prefect's temporary server, which the command of a flow starts if no other server is configured."""

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

# A child of the logger `core`, so that its lines are part of a run's logs too.
log = logging.getLogger("core.flows")

_SECONDS_TO_END = 2
_LOCK = "temporary-server.lock"
_DATABASE_SETTINGS = {"connection_url", "driver", "host", "name"}


class TemporaryServer:
    """The temporary server of this command, with a database that no other temporary server uses.

    Two servers on the database in PREFECT_HOME break each other's tables and lock each other out. So the first command
    uses that database, and a second one has a database in a folder that is removed at its end.
    """

    def __init__(self) -> None:
        # Held until this process ends, because its server ends after everything else.
        self._lock: IO[bytes] | None = None
        self._folder: str | None = None

    @contextlib.contextmanager
    def own_database(self) -> Iterator[None]:
        """Inside, Prefect starts a server with a database of its own; InputError if PREFECT_HOME is not writable."""
        server = get_current_settings().server
        changed: dict[Any, Any] = {}
        if "logging_level" not in server.model_fields_set:
            changed[PREFECT_SERVER_LOGGING_LEVEL] = "CRITICAL"  # errors come back to the command, which prints them
        if not _DATABASE_SETTINGS & server.database.model_fields_set and not self._takes_home():
            self._folder = tempfile.mkdtemp(prefix="prefect-")
            atexit.register(self._remove_folder)
            changed[PREFECT_SERVER_DATABASE_CONNECTION_URL] = f"sqlite+aiosqlite:///{self._folder}/prefect.db"
            log.info("another command's Prefect server uses PREFECT_HOME: Prefect keeps no records of this one")
        with temporary_settings(changed):
            yield

    def process(self) -> subprocess.Popen[bytes] | None:
        """The process of the server; None if this command has not started one."""
        from prefect.server.api.server import SubprocessASGIServer  # takes seconds, which most commands can save

        return SubprocessASGIServer().server_process

    def end(self) -> None:
        """End the server, for a process that leaves by `os._exit` and so skips Prefect's own exit handler."""
        process = self.process()
        if process is not None:
            process.terminate()
            try:
                process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
        self._remove_folder()

    def _takes_home(self) -> bool:
        """Whether this command is the first to use the database in PREFECT_HOME; it locks it from now on."""
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
            pass  # a file system without locks, such as some network file systems: nothing separates commands there
        self._lock = lock
        return True

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
