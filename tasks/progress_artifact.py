"""Progress of the running stage as an artefact in Prefect's UI."""

import contextlib
import time
from typing import cast
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from core.runtime.escaping import markdown_text
from core.runtime.progress import Progress

# The least time between two calls to Prefect's server: one takes tens of milliseconds.
SECONDS_BETWEEN = 5.0


class ProgressArtifact:
    """A watcher of `core.runtime.progress` that keeps one progress artefact for each stage.

    A server that cannot be reached does not stop the training; its progress is then shown later or not at all.
    """

    def __init__(self, key: str):
        self._key = key
        self._artifacts: dict[str, UUID] = {}
        self._sent_at = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._sent_at < SECONDS_BETWEEN and progress.done < progress.total:
            return
        self._sent_at = now
        percent = 100 * progress.done / max(progress.total, 1)
        rate = f"{progress.done}/{progress.total} {progress.unit}, {progress.per_second:.2f} a second"
        left = f", about {progress.time_left} left" if progress.done < progress.total else ""
        text = markdown_text(f"{progress.stage}: {rate}{left}")
        if progress.epoch:
            text += f"\n\n{markdown_text(progress.epoch)}"
        with contextlib.suppress(httpx.HTTPError, PrefectException):
            if progress.stage in self._artifacts:
                update_progress_artifact(self._artifacts[progress.stage], percent, text)
            else:
                created = create_progress_artifact(percent, self._key, text)
                self._artifacts[progress.stage] = cast(UUID, created)  # no coroutine outside an event loop
