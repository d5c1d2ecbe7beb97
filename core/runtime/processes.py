"""Further processes of this machine that work on a stage with this one, which is the first of them.

Torch's elastic launcher starts the first process too. Here that is the one which holds the run's lease, publishes and
reports to Prefect, so it only gets company, and only for as long as a stage has work to do.
"""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import IO, Literal, Protocol

import torch

from core.runtime import distributed
from core.runtime.device import pick_device
from core.runtime.errors import InputError, UnavailableError

Processes = int | Literal["auto"]

# The module that the others run.
_OTHER = "core.runtime.other_process"
_SECONDS_TO_END = 60.0
_SECONDS_BETWEEN_LOOKS, _SECONDS_FOR_A_STATUS = 0.1, 5.0


class ProcessLostError(UnavailableError):
    """One of several processes ended before its work was done. The same command goes on from the last state."""


def count_processes(processes: Processes, device: str) -> int:
    """How many processes `processes` means on the device called `device`: `auto` is one for each GPU, on a CPU one.

    InputError if there are more than GPUs.
    """
    picked = pick_device(device)
    if picked.type == "cpu" or picked.index is not None:
        if picked.type == "cuda" and processes not in ("auto", 1):
            raise InputError(f"training.processes {processes}: device {device} is one GPU; use auto or cuda")
        return 1 if processes == "auto" else processes
    available = torch.cuda.device_count()
    if processes != "auto" and processes > available:
        raise InputError(
            f"training.processes {processes}: each process needs a GPU, and this machine has {available}: set at most "
            f"{available}, or auto"
        )
    return available if processes == "auto" else processes


class Workers(Protocol):
    """Settings that say how many processes work on a stage, and on which device."""

    @property
    def processes(self) -> Processes: ...
    @property
    def device(self) -> str: ...


@contextlib.contextmanager
def together(workers: Workers, work: Callable[..., object], *arguments: object) -> Iterator[None]:
    """Inside, `start_others` starts as many processes as `workers` asks for, this one counted; they call `work`.

    `work(*arguments)` must do what this process does in the block, from a `together` of its own, which there starts
    nothing. Both must be picklable. Under torchrun nothing is started either: its processes are joined.
    Raises ProcessLostError in this process within seconds if another one is killed, and the InputError that one raised;
    a RuntimeError holds the traceback of any other error there.
    """
    device = workers.device
    if distributed.launched() > 1 or distributed.is_joined():
        with distributed.joined(device):
            yield
        return
    count = count_processes(workers.processes, device)
    if count == 1:
        yield
        return
    team = _Team(count, device, work, arguments)
    token = _team.set(team)
    try:
        yield
        team.finish()
    except BaseException as error:
        # An exchange fails as soon as the other process ends, which may be a moment before it has a status.
        team.stop(_SECONDS_FOR_A_STATUS if isinstance(error, RuntimeError) else 0)
        if team.failure is not None and isinstance(error, Exception):
            raise team.failure from None
        raise
    finally:
        _team.reset(token)


def start_others() -> None:
    """Start the other processes of the enclosing `together`, if they are not there yet; they join this one."""
    team = _team.get()
    if team is not None:
        team.start()


class _Team:
    """The processes that this one started."""

    def __init__(self, count: int, device: str, work: Callable[..., object], arguments: tuple[object, ...]):
        self.failure: Exception | None = None
        self._count, self._device = count, device
        self._call = pickle.dumps((device, work, arguments))
        self._others: list[_Other] = []
        self._ended, self._finding = threading.Event(), threading.Lock()
        self._threads = torch.get_num_threads()

    def start(self) -> None:
        if self._others:
            return
        threads = max(1, self._threads // self._count)
        store = distributed.meeting_point(self._count)
        self._others = [_Other(rank, self._count, store.port, threads) for rank in range(1, self._count)]
        for other in self._others:
            other.send(self._call)
        for other in self._others:
            if not other.is_ready():
                self.failure = other.ending()
                raise self.failure
        torch.set_num_threads(threads)
        distributed.join(store, 0, self._count, self._device)
        threading.Thread(target=self._watch, name="processes", daemon=True).start()

    def finish(self) -> None:
        """Wait until the others have ended too; raises the error of one that failed."""
        if not self._others:
            return
        for other in self._others:
            if not other.ends(_SECONDS_TO_END):
                self.failure = other.ending()
        failure = self._found_failure()
        if failure is not None:
            raise failure
        self._leave()

    def stop(self, seconds: float) -> None:
        """End the others, once one of them is found to have failed or after some seconds."""
        if not self._others:
            return
        self._ended.set()
        until = time.monotonic() + seconds
        while self._found_failure() is None and time.monotonic() < until:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        for other in self._others:
            other.kill()
        self._leave()

    def _leave(self) -> None:
        self._ended.set()
        distributed.leave()
        torch.set_num_threads(self._threads)
        for other in self._others:
            other.close()
        self._others = []

    def _found_failure(self) -> Exception | None:
        """Why the first of the others that failed did so; None while none did."""
        with self._finding:
            failed = next((other for other in self._others if other.status), None)
            if self.failure is None and failed is not None:
                self.failure = failed.ending()
        return self.failure

    def _watch(self) -> None:
        """Note when one of the others fails. On GPUs this process would wait for it for ever."""
        while not self._ended.wait(_SECONDS_BETWEEN_LOOKS):
            if self._found_failure() is not None:
                distributed.abandon()
                return


class _Other:
    """A process that this one started, of this rank among `count`."""

    def __init__(self, rank: int, count: int, port: int, threads: int):
        self._rank, self._count = rank, count
        told, tell = os.pipe()
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "TORCHELASTIC_RUN_ID": _OTHER,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        command = [sys.executable, "-m", _OTHER, str(port), str(tell)]
        # It ends when its standard input does, which is when this process ends.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, pass_fds=[tell])
        os.close(tell)
        self._told: IO[str] = os.fdopen(told)

    def send(self, call: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; `is_ready` finds that
            self._process.stdin.write(call)
            self._process.stdin.flush()

    def is_ready(self) -> bool:
        """Wait until it is about to join; false if it ended instead."""
        return bool(self._told.readline())

    def ends(self, seconds: float) -> bool:
        """Wait until it has ended; false if it did not within these seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.poll() is not None

    @property
    def status(self) -> int | None:
        """Its exit status, minus the signal that killed it; None while it runs."""
        return self._process.poll()

    def ending(self) -> Exception:
        """Why it ended, or did not end."""
        if not self.ends(_SECONDS_TO_END):
            return ProcessLostError(f"process {self._rank} of {self._count} does not end: run the same command again")
        reported = json.loads(self._told.readline() or "{}")
        if "refused" in reported:
            return InputError(reported["refused"])
        if "failed" in reported:
            return RuntimeError(f"process {self._rank} of {self._count} failed:\n{reported['failed']}")
        status = self._process.returncode
        cause = f"was killed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"
        return ProcessLostError(
            f"process {self._rank} of {self._count} {cause}: run the same command again, and it goes on from its last "
            "state; if it lacked memory, set fewer training.processes"
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._told.close()


# Of the current context, like the processes that torchrun describes in the environment: stages start them from below.
_team: ContextVar[_Team | None] = ContextVar("team", default=None)
