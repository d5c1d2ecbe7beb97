"""Commands that are run in the process of the tests: their lines, the line they end with, what they wrote."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest


def options(**values: object) -> list[str]:
    """The command line of `values`: a switch for True, `sets` for `--set`."""
    line: list[str] = []
    for name, value in values.items():
        if name == "sets":
            line += [part for one in value for part in ("--set", one)]
        else:
            line += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return line


def refusal(run: Callable[..., object], *given: object, **values: object) -> str:
    """The line that the command ends with, exit status 2."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as left:
        run(*given, **values)
    assert left.value.code == 2
    (line,) = errors.getvalue().splitlines()
    return line


def content(folder: Path) -> dict[str, bytes]:
    """Bytes of every file but the record, which holds a duration."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "stage.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
