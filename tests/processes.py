"""Processes below another, as Linux tells them."""

import contextlib
from pathlib import Path


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
