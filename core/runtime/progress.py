"""Progress a person can read: a bar on a terminal, log lines elsewhere, and whatever watches the process."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tqdm import tqdm

from core.runtime import distributed

log = logging.getLogger(__name__)

Item = TypeVar("Item")


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `done` of `total` units, `per_second` of them since it began or went on."""

    stage: str
    done: int
    total: int
    unit: str
    per_second: float
    epoch: str = ""


# Called after every unit, so it must return at once almost always.
Watcher = Callable[[Progress], None]
_watchers: list[Watcher] = []


@contextlib.contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """`watcher` is told of the progress of every stage inside."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def each(items: Sequence[Item], stage: str, unit: str) -> Iterator[Item]:
    """The items of a stage without epochs, one a unit."""
    began = time.monotonic()
    for done, item in enumerate(bar(items, stage, unit=unit), 1):
        yield item
        _tell(Progress(stage, done, len(items), unit, done / max(time.monotonic() - began, 1e-9)))


def bar(*arguments: Any, **options: Any) -> tqdm:
    """A tqdm bar, of the first process alone and only on a terminal."""
    return tqdm(*arguments, **options, disable=None if distributed.is_first() else True)


def _tell(progress: Progress) -> None:
    for watcher in _watchers:
        watcher(progress)


class EpochProgress:
    """A bar over all steps of a stage, with epoch and losses; one log line an epoch where there is no terminal."""

    def __init__(self, stage: str, epochs: int, steps_per_epoch: int, epochs_done: int):
        self._stage, self._epochs = stage, epochs
        self.done, self._total = epochs_done * steps_per_epoch, epochs * steps_per_epoch
        self._began, self._done_before, self._latest = time.monotonic(), self.done, ""
        self._bar = bar(total=self._total, initial=self.done, desc=stage, unit="step", dynamic_ncols=True)

    def __enter__(self) -> "EpochProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self) -> None:
        """One optimizer step is done."""
        self.done += 1
        self._bar.update()
        self._tell()

    def epoch(self, epoch: int, values: Mapping[str, float | None]) -> None:
        """Epoch number `epoch` is done with these averages."""
        shown = {name: f"{value:.4g}" for name, value in values.items() if value is not None}
        self._bar.set_postfix({"epoch": f"{epoch}/{self._epochs}", **shown}, refresh=False)
        self._latest = f"epoch {epoch}/{self._epochs}  " + "  ".join(f"{k} {v}" for k, v in shown.items())
        if self._bar.disable:
            log.info("%s %s", self._stage, self._latest)
        if self.done == self._total:
            self._tell()

    def _tell(self) -> None:
        if _watchers:
            rate = (self.done - self._done_before) / max(time.monotonic() - self._began, 1e-9)
            _tell(Progress(self._stage, self.done, self._total, "steps", rate, self._latest))


def log_to_stderr() -> None:
    """Send the first process's log lines of this package to stderr, as bare text, besides where they go already."""
    handler = logging.StreamHandler() if distributed.is_first() else logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("core")
    elsewhere = [known for known in logger.handlers if type(known) not in (logging.StreamHandler, logging.NullHandler)]
    logger.handlers[:] = [*elsewhere, handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
