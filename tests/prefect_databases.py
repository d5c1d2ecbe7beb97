"""Databases of Prefect's server with its tables made: once for all servers of the tests, because it takes seconds."""

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from prefect.testing import utilities

from tests.made_once import made_once

# For a server that begins with a copy: what it would add to an empty database is there.
OF_A_COPY = {"PREFECT_API_BLOCKS_REGISTER_ON_START": "false"}
_NAME = "prefect-test.db"  # as Prefect's harness names it


def database_with_tables(factory: pytest.TempPathFactory) -> Path:
    """A database that holds the server's tables and nothing else; copy it."""
    return made_once(factory, "prefect-tables", _make) / _NAME


def copy_database(database: Path, copy: Path) -> None:
    """Copy a database that no server uses, with what is still in its log."""
    with contextlib.closing(sqlite3.connect(database)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)


@contextlib.contextmanager
def flows_server(database: Path | None = None) -> Iterator[Path]:
    """Prefect's harness: a server for the flows of this process, which begins with a copy of `database`.

    Gives the server's own database.
    """
    folder = tempfile.mkdtemp(prefix="prefect-")  # the harness removes it when this process ends
    own = Path(folder, _NAME)
    with contextlib.ExitStack() as harness:
        with contextlib.ExitStack() as start:
            start.enter_context(mock.patch.object(utilities, "mkdtemp", lambda: folder))
            if database is not None:
                copy_database(database, own)
                start.enter_context(mock.patch.dict("os.environ", OF_A_COPY))
            harness.enter_context(utilities.prefect_test_harness(server_startup_timeout=120))
        yield own


def _make(folder: Path) -> None:
    with flows_server() as made:
        pass
    copy_database(made, folder / _NAME)
