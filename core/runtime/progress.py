"""Progress of a stage: a bar on a terminal, log lines elsewhere, and messages to watchers such as Prefect's UI."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Never, TypeVar

from tqdm import tqdm

from core.runtime import distributed

log = logging.getLogger(__name__)

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `done` of `total` units, and `per_second` units since this process started it."""

    stage: str
    done: int
    total: int
    unit: str
    per_second: float
    epoch: str = ""

    @property
    def time_left(self) -> str:
        """About how long the rest takes at this rate, as `duration`."""
        return duration((self.total - self.done) / max(self.per_second, 1e-9))


def duration(seconds: float) -> str:
    """`1:02:03` for 3723 seconds, `02:03` for 123."""
    text: str = tqdm.format_interval(seconds)
    return text


# Called after every unit, so it must almost always return at once.
Watcher = Callable[[Progress], None]
# Of the current context, as with logging: every loop would have to pass watchers on that it does not use itself. Two
# stages in two threads have their own.
_watchers: ContextVar[tuple[Watcher, ...]] = ContextVar("watchers", default=())


@contextlib.contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Inside, `watcher` is called with the progress of every stage of this thread."""
    token = _watchers.set((*_watchers.get(), watcher))
    try:
        yield
    finally:
        _watchers.reset(token)


def each(items: Sequence[Item], stage: str, unit: str, lines: bool = False) -> Iterator[Item]:
    """The items of a stage without epochs, with progress in `unit`s.

    With `lines`, where there is no terminal for a bar, log lines now and then say how far it is and the time left.
    """
    shown = bar(items, stage, unit)
    began = said = time.monotonic()
    for done, item in enumerate(shown, 1):
        yield item
        now = time.monotonic()
        progress = Progress(stage, done, len(items), unit, done / max(now - began, 1e-9))
        _report(progress)
        if lines and shown.disable and done < len(items) and now - said >= SECONDS_BETWEEN_LINES:
            said = now
            log.info("%s", _with_time_left(progress))


def _with_time_left(progress: Progress) -> str:
    return f"{progress.stage}: {progress.done} of {progress.total} {progress.unit}, about {progress.time_left} left"


def bar(items: Iterable[Item], description: str, unit: str = "it", leave: bool = True) -> "tqdm[Item]":
    """A tqdm bar over the items, in the first process only and on a terminal only."""
    return tqdm(items, description, unit=unit, leave=leave, disable=_is_disabled())


def counting_bar(total: int, description: str, unit: str, initial: int = 0, leave: bool = True) -> "tqdm[Never]":
    """The same without items: the caller calls `update` on it."""
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        leave=leave,
        initial=initial,
        dynamic_ncols=True,
        disable=_is_disabled(),
    )


def _is_disabled() -> bool | None:
    return None if distributed.is_first() else True  # None: unless on a terminal


def _report(progress: Progress) -> None:
    for watcher in _watchers.get():
        watcher(progress)


class EpochProgress:
    """A bar over all steps of a stage, with epoch and losses; without a terminal one log line per epoch."""

    def __init__(self, stage: str, epochs: int, steps_per_epoch: int, epochs_done: int):
        self._stage, self._epochs = stage, epochs
        self.done, self._total = epochs_done * steps_per_epoch, epochs * steps_per_epoch
        self._began, self._done_before, self._latest = time.monotonic(), self.done, ""
        self._bar = counting_bar(self._total, stage, "step", initial=self.done)

    def __enter__(self) -> "EpochProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self) -> None:
        """One optimizer step is done."""
        self.done += 1
        self._bar.update()
        self._report()

    def epoch(self, epoch: int, values: Mapping[str, float | None]) -> None:
        """Epoch number `epoch` is done, with these averages."""
        shown = {name: f"{value:.4g}" for name, value in values.items() if value is not None}
        self._bar.set_postfix({"epoch": f"{epoch}/{self._epochs}", **shown}, refresh=False)
        self._latest = f"epoch {epoch}/{self._epochs}  " + "  ".join(f"{k} {v}" for k, v in shown.items())
        if self._bar.disable:
            left = f"  about {self._progress().time_left} left" if self.done < self._total else ""
            log.info("%s %s%s", self._stage, self._latest, left)
        if self.done == self._total:
            self._report()

    def _report(self) -> None:
        if _watchers.get():
            _report(self._progress())

    def _progress(self) -> Progress:
        rate = (self.done - self._done_before) / max(time.monotonic() - self._began, 1e-9)
        return Progress(self._stage, self.done, self._total, "steps", rate, self._latest)


def log_to_stderr() -> None:
    """Also send the first process's log lines of this package to stderr, as plain text."""
    handler = logging.StreamHandler() if distributed.is_first() else logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("core")
    others = [known for known in logger.handlers if type(known) not in (logging.StreamHandler, logging.NullHandler)]
    logger.handlers[:] = [*others, handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
