"""The experiment trackers that a training may log to, through the classes of accelerate, and what each needs."""

import contextlib
import importlib.util
import netrc
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from core.config.training_sections import Tracker, TrainingSection
from core.runtime.errors import InputError

_EXTRA = "pip install 'adversarial-layouts[trackers]'"


def require_usable(section: TrainingSection) -> None:
    """InputError for the first of the section's trackers that is not installed, or is online without a login."""
    for name in section.trackers:
        for module in ("accelerate", name):  # each is called as its module
            if not _is_installed(module):
                raise InputError(f"training.trackers: {name} needs the package {module}: {_EXTRA}")
    if "wandb" in section.trackers and _wandb_mode() == "online" and not _is_logged_in():
        raise InputError(
            "training.trackers: wandb is online (WANDB_MODE) and nobody is logged in: run `wandb login`, set "
            "WANDB_API_KEY, or set WANDB_MODE=offline"
        )


def _is_installed(module: str) -> bool:
    # A folder without code, as wandb makes one in the folder where it is started, is found without an origin.
    found = importlib.util.find_spec(module)
    return found is not None and found.origin is not None


def _wandb_mode() -> str:
    return os.environ.get("WANDB_MODE") or "offline"


def _is_logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC") or Path("~/.netrc").expanduser()).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class TrackerRun:
    """The run of an experiment in one tracker, which goes on where an earlier process left it."""

    def __init__(self, tracker: Any):
        self._tracker = tracker
        # Otherwise accelerate asks its state, which has no part here, whether this process is the first.
        tracker.main_process_only = False
        tracker.start()

    @property
    def run_id(self) -> str | None:
        """What the tracker finds the run again by, if not by the experiment's name."""
        return None

    def configure(self, values: Mapping[str, Any]) -> None:
        """Log the settings of the experiment by dotted key."""
        self._tracker.store_init_configuration(dict(values))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log figures by name at a step."""
        self._tracker.log(dict(values), step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Log the picture at `path` at a step."""
        self._tracker.log_images({name: _pixels(path)}, step=step)

    def finish(self) -> None:
        """Write what is still to be written, and close the run."""
        self._tracker.finish()


class _TensorBoard(TrackerRun):
    def picture(self, name: str, path: Path, step: int) -> None:
        self._tracker.log_images({name: _pixels(path)}, step=step, dataformats="NHWC")
        self._tracker.tracker.flush()


class _Wandb(TrackerRun):
    """Steps of one run may only grow there, so each group of figures has an axis of its own, which is logged too."""

    def __init__(self, tracker: Any, prefix: str):
        super().__init__(tracker)
        self._axis = f"{prefix}/step"
        tracker.tracker.define_metric(self._axis, hidden=True)
        tracker.tracker.define_metric(f"{prefix}/*", step_metric=self._axis)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._tracker.log({**values, self._axis: step})

    def picture(self, name: str, path: Path, step: int) -> None:
        import wandb

        self._tracker.log({name: wandb.Image(str(path)), self._axis: step})


class _MLflow(TrackerRun):
    @property
    def run_id(self) -> str | None:
        found: str = self._tracker.tracker.info.run_id
        return found

    def picture(self, name: str, path: Path, step: int) -> None:
        self._tracker.log_artifact(str(path), name)


class _Trackio(TrackerRun):
    """It prints what it does, but stdout is for what a command says."""

    def __init__(self, tracker: Any):
        with contextlib.redirect_stdout(sys.stderr):
            super().__init__(tracker)

    def finish(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            super().finish()

    def picture(self, name: str, path: Path, step: int) -> None:
        import trackio

        self._tracker.log({name: trackio.Image(str(path))}, step=step)


def open_run(kind: Tracker, experiment: str, folder: Path, prefix: str, run_id: str | None) -> TrackerRun:
    """The run of an experiment in a tracker, which writes below `folder/{kind}`; `run_id` is that of an earlier part.

    `prefix` is what the names of the figures begin with. Variables of the environment that a tracker reads count more.
    """
    from accelerate import tracking
    from accelerate.state import PartialState

    PartialState()  # the classes write debug lines, which fails without it
    folder = folder.absolute() / kind
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "tensorboard":
        return _TensorBoard(tracking.TensorBoardTracker(experiment, folder))
    if kind == "mlflow":
        import mlflow

        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # newer ones refuse a folder otherwise
            mlflow.set_tracking_uri(folder.as_uri())
        return _MLflow(tracking.MLflowTracker(experiment, run_id=run_id, run_name=experiment))
    if kind == "trackio":
        os.environ.setdefault("TRACKIO_DIR", str(folder))
        quiet = {"auto_log_cpu": False, "auto_log_gpu": False}
        return _Trackio(tracking.TrackioTracker(experiment, name=experiment, resume="allow", **quiet))
    return _Wandb(_wandb_tracker(experiment, folder), prefix)


def _wandb_tracker(experiment: str, folder: Path) -> Any:
    from accelerate.tracking import WandBTracker

    options = {"console": "off", "silent": True, "disable_git": True, "disable_code": True}
    # Its id is the same for every process, so that `wandb sync` puts the offline parts together.
    own_id = re.sub(r"[^A-Za-z0-9_-]", "-", experiment)
    place = folder.parent  # it makes a folder `wandb` there
    return WandBTracker(
        experiment, name=experiment, id=own_id, resume="allow", dir=place, mode=_wandb_mode(), settings=options
    )


def _pixels(path: Path) -> np.ndarray:
    """uint8 [1, H, W, 3] of a picture."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))[None]
