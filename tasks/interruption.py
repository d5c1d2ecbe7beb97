"""Signals that ask a command to end: it unwinds as after Ctrl-C, saves its state and exits with one line."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from core.runtime.distributed import launched

INTERRUPTED_LINE = "interrupted; run the same command again to continue from the last checkpoint"
# From a terminal, from a scheduler, and from a terminal that was closed.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# `timeout` and some schedulers send a signal to the process and to its group, so one request may arrive twice.
_SECONDS_OF_ONE_REQUEST = 1.0


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to end; `status` is its exit status."""

    def __init__(self, number: int):
        super().__init__()
        self.status = 128 + number


class Leaving:
    """The handler of the signals: the first unwinds the main thread, a later one ends the process at once."""

    def __init__(self, at_first: Callable[["Leaving"], None], at_last: Callable[[], None]):
        self._at_first, self._at_last = at_first, at_last
        self._status, self._asked_at = 0, 0.0
        self._noted_status, self._noted_at = 0, 0.0
        self._is_unwound = False

    @property
    def is_asked(self) -> bool:
        """Whether a signal has arrived."""
        return self._status != 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked:
            if time.monotonic() - self._asked_at >= _SECONDS_OF_ONE_REQUEST:
                self.leave()
            return
        self._status, self._asked_at = 128 + number, time.monotonic()
        if not self._noted_status:
            self._at_first(self)
        raise Interrupted(number)

    def note(self, number: int) -> None:
        """Register a signal that currently has another handler, which unwinds the main thread in its own way.

        Prefect's engine handles SIGTERM while a flow runs, and sends it again after it has reported the end.
        """
        if not self._noted_status:
            self._noted_status, self._noted_at = 128 + number, time.monotonic()
            self._at_first(self)
        elif time.monotonic() - self._noted_at >= _SECONDS_OF_ONE_REQUEST:
            self.leave()

    def unwound(self) -> None:
        """Note that the command has printed its last line."""
        self._is_unwound = True

    def leave(self) -> None:
        """End the process now, from any thread; print the line first if it was not printed."""
        try:
            if not self._is_unwound:
                with contextlib.suppress(OSError):  # the terminal may be closed
                    os.write(2, f"{INTERRUPTED_LINE}\n".encode())
            self._at_last()
        finally:
            os._exit(self._status or self._noted_status)


@contextlib.contextmanager
def interruptible(
    at_first: Callable[[Leaving], None] = lambda leaving: None, at_last: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Inside, the signals that ask a process to end raise Interrupted in its main thread.

    `at_first` runs first and may end the process itself. A second signal, a second or more later, ends the process at
    once, after `at_last`. A signal that was ignored (`nohup`) or has a handler of others keeps that. Processes that
    torchrun started are left to torchrun, which ends them at once.
    """
    leaving, before = Leaving(at_first, at_last), {}
    if threading.current_thread() is threading.main_thread() and launched() == 1:
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        before = {n: how for n, how in handlers.items() if how in (signal.SIG_DFL, signal.default_int_handler)}
    for number in before:
        signal.signal(number, leaving)
    try:
        with _noting(leaving, set(before)):
            yield
    finally:
        leaving.unwound()
        if not leaving.is_asked:  # otherwise a second signal must still end the process at once
            for number, how in before.items():
                signal.signal(number, how)


@contextlib.contextmanager
def _noting(leaving: Leaving, numbers: set[int]) -> Iterator[None]:
    """Inside, `leaving` also learns of signals that temporarily have another handler; see `Leaving.note`."""
    if not numbers:
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    # A forked process must not write to this socket.
    os.register_at_fork(after_in_child=lambda: writer.fileno() >= 0 and signal.set_wakeup_fd(-1))

    def listen() -> None:
        with reader:
            while received := reader.recv(1):
                if received[0] in numbers and signal.getsignal(received[0]) is not leaving:
                    leaving.note(received[0])

    threading.Thread(target=listen, name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()  # ends the thread
