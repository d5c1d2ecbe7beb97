"""Processes below another, as Linux tells them, and processes that die at a chosen call."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(status.parent.name))
    return found


def descendants(pid: int) -> list[int]:
    """Process ids of all that a process started, and those of theirs."""
    below = _children(pid)
    return [*below, *(process for child in below for process in descendants(child))]


def killed_at(where: Any, name: str, call: int, run: Callable[[], object]) -> None:
    """Call `run` in a process that is killed at call number `call` of `where.name`, before that does anything."""

    def dying() -> None:
        calls, function = iter(range(1, call + 1)), getattr(where, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            if next(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        setattr(where, name, counted)
        run()

    process = multiprocessing.get_context("fork").Process(target=dying)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
