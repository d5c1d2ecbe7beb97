"""Progress a person can read: a bar on a terminal, log lines elsewhere."""

import logging
from collections.abc import Mapping

from tqdm import tqdm

log = logging.getLogger(__name__)


class EpochProgress:
    """A bar over all steps of a stage, with epoch and losses; one log line an epoch where there is no terminal."""

    def __init__(self, stage: str, epochs: int, steps_per_epoch: int, epochs_done: int):
        self._stage, self._epochs = stage, epochs
        self.done = epochs_done * steps_per_epoch
        self._bar = tqdm(
            total=epochs * steps_per_epoch,
            initial=self.done,
            desc=stage,
            unit="step",
            disable=None,
            dynamic_ncols=True,
        )

    def __enter__(self) -> "EpochProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self) -> None:
        """One optimizer step is done."""
        self.done += 1
        self._bar.update()

    def epoch(self, epoch: int, values: Mapping[str, float | None]) -> None:
        """Epoch number `epoch` is done with these averages."""
        shown = {name: f"{value:.4g}" for name, value in values.items() if value is not None}
        self._bar.set_postfix({"epoch": f"{epoch}/{self._epochs}", **shown}, refresh=False)
        if self._bar.disable:
            log.info(
                "%s epoch %d/%d  %s", self._stage, epoch, self._epochs, "  ".join(f"{k} {v}" for k, v in shown.items())
            )


def log_to_stderr() -> None:
    """Send this package's log lines to stderr, as bare text."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("core")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
