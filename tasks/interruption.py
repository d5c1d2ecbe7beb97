"""Signals that ask a command to end: it unwinds as after Ctrl-C, so that states are safe, and leaves with one line."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from core.runtime.distributed import launched

INTERRUPTED_LINE = "interrupted; run the same command again to go on from the last checkpoint"
# Those of a terminal, of a scheduler, and of a terminal that was closed.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# `timeout` and some schedulers send a signal to the process and to its group, which is twice for one wish.
_SECONDS_OF_ONE_WISH = 1.0


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to end; `status` is what it exits with."""

    def __init__(self, number: int):
        super().__init__()
        self.status = 128 + number


class Leaving:
    """The handler of the signals: the first one unwinds the main thread, another ends the process."""

    def __init__(self, at_first: Callable[["Leaving"], None], at_last: Callable[[], None]):
        self._at_first, self._at_last = at_first, at_last
        self._status, self._asked_at = 0, 0.0
        self._noted_status, self._noted_at = 0, 0.0
        self._is_unwound = False

    @property
    def is_asked(self) -> bool:
        """Whether a signal has come."""
        return self._status != 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked:
            if time.monotonic() - self._asked_at >= _SECONDS_OF_ONE_WISH:
                self.leave()
            return
        self._status, self._asked_at = 128 + number, time.monotonic()
        if not self._noted_status:
            self._at_first(self)
        raise Interrupted(number)

    def note(self, number: int) -> None:
        """Take notice of a signal whose handler is another one for now, which unwinds the main thread in its own way.

        Prefect's engine does so with SIGTERM while a flow runs, and hands it on when it has reported the end.
        """
        if not self._noted_status:
            self._noted_status, self._noted_at = 128 + number, time.monotonic()
            self._at_first(self)
        elif time.monotonic() - self._noted_at >= _SECONDS_OF_ONE_WISH:
            self.leave()

    def unwound(self) -> None:
        """Note that the command has said what there is to say."""
        self._is_unwound = True

    def leave(self) -> None:
        """End the process now, from whichever thread, with its line if that was not said."""
        try:
            if not self._is_unwound:
                with contextlib.suppress(OSError):  # a terminal that was closed takes no line
                    os.write(2, f"{INTERRUPTED_LINE}\n".encode())
            self._at_last()
        finally:
            os._exit(self._status or self._noted_status)


@contextlib.contextmanager
def interruptible(
    at_first: Callable[[Leaving], None] = lambda leaving: None, at_last: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Inside, the signals that ask a process to end raise Interrupted in its main thread.

    `at_first` runs first and may end the process itself. A second signal, a second or more later, ends it at once;
    `at_last` runs before. A signal that was ignored (`nohup`) or that others handle already stays so. Processes
    that torchrun started together are ended by torchrun, at once.
    """
    leaving, before = Leaving(at_first, at_last), {}
    if threading.current_thread() is threading.main_thread() and launched() == 1:
        there = {number: signal.getsignal(number) for number in _SIGNALS}
        before = {n: how for n, how in there.items() if how in (signal.SIG_DFL, signal.default_int_handler)}
    for number in before:
        signal.signal(number, leaving)
    try:
        with _noting(leaving, set(before)):
            yield
    finally:
        leaving.unwound()
        if not leaving.is_asked:  # a process that ends may be asked to be quicker until it is gone
            for number, how in before.items():
                signal.signal(number, how)


@contextlib.contextmanager
def _noting(leaving: Leaving, numbers: set[int]) -> Iterator[None]:
    """Inside, `leaving` takes notice of signals whose handlers were replaced for a while; see `Leaving.note`."""
    if not numbers:
        yield
        return
    told, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    # A forked process has signals of its own.
    os.register_at_fork(after_in_child=lambda: writer.fileno() >= 0 and signal.set_wakeup_fd(-1))

    def listen() -> None:
        with told:
            while came := told.recv(1):
                if came[0] in numbers and signal.getsignal(came[0]) is not leaving:
                    leaving.note(came[0])

    threading.Thread(target=listen, name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()  # ends the thread
