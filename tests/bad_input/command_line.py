"""Commands as a user gives them, and what they leave in a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from prefect import Task

from tasks.command_line import run_command

Options = dict[str, Any]


Refused = Callable[..., str]


def arguments(options: Options) -> list[str]:
    """Command line of `options`; `config` is positional, a list is an option given several times."""
    line = [str(options["config"])] if "config" in options else []
    for name, value in options.items():
        if name != "config":
            values = value if isinstance(value, list) else [value]
            line += [part for one in values for part in (f"--{name}", str(one))]
    return line


def run(command: Task, options: Options) -> dict[str, Any]:
    return run_command(command.fn, arguments(options))


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def states(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Modification time and content of every file."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files_below(folder)}


def all_finite(checkpoint: Path) -> bool:
    weights = torch.load(checkpoint, weights_only=True)["state_dict"].values()
    return all(value.isfinite().all() for value in weights)


def changed(rows: pd.DataFrame, position: int, column: str, value: Any) -> pd.DataFrame:
    rows = rows.copy()
    rows.loc[position, column] = value
    return rows
