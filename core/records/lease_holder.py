"""The process that holds a lease, and whether it is still running on this machine."""

import os
import platform
from pathlib import Path
from typing import TypedDict


class HolderIdentity(TypedDict, total=False):
    """What distinguishes a process from others with the same number; empty on systems without /proc."""

    boot: str
    namespace: str
    started: str


class Holder(HolderIdentity):
    """A process as a lease names it."""

    host: str
    pid: int


def this_process() -> Holder:
    """This process as the holder of a lease."""
    return {"host": platform.node(), "pid": os.getpid(), **_identity(os.getpid())}


def died_here(holder: Holder) -> bool:
    """Whether the holder was a process of this machine and has ended. Then its lease is free at once."""
    return _is_of_this_machine(holder) and _identity(holder["pid"]).get("started") != holder.get("started")


def lives_here(holder: Holder) -> bool:
    """Whether the holder is a process of this machine and still running."""
    return _is_of_this_machine(holder) and not died_here(holder)


def _is_of_this_machine(holder: Holder) -> bool:
    here = _identity(os.getpid())
    if not here:
        return False
    return holder.get("boot") == here["boot"] and holder.get("namespace") == here["namespace"]


def _identity(pid: int) -> HolderIdentity:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return {}
    started = "dead" if state in "ZX" else fields[18]
    return {"boot": boot, "namespace": namespace, "started": started}
