"""Points of a stage for experiment trackers: an axis that goes on from round to round, and no point twice."""

import contextlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from core.config.experiment import ExperimentConfig
from core.config.training_sections import Tracker
from core.inputs.locations import is_remote
from core.runtime import distributed
from core.runtime.errors import HIDDEN, InputError, without_secrets
from core.runtime.files import save_json
from core.trackers.tracker_kinds import TrackerRun, open_run, require_usable

log = logging.getLogger(__name__)

# What points are of. Each kind has a last point of its own.
EPOCHS, STEPS, PICTURES = "epochs", "steps", "pictures"
# Variables whose values trackers may repeat in their errors.
_SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN")
_FORM = {"stages": dict, "logged": dict, "runs": dict, "configured": list}


def require_trackers(config: ExperimentConfig) -> None:
    """InputError if a tracker of the config cannot be used: not installed, no login, a folder that is not writable.

    Nothing is written.
    """
    section = config.training
    if not section.trackers:
        return
    require_usable(section)
    folder = Path(section.tracker_dir).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        cause = "cannot be written to" if existing.is_dir() else "is no folder"
        raise InputError(f"training.tracker_dir {section.tracker_dir}: {existing} {cause}: choose another place")
    _Logged.read(_path(config))


@dataclass(frozen=True)
class TrackedStage:
    """A stage whose figures go to the config's trackers; their names begin with `prefix`."""

    config: ExperimentConfig
    prefix: str
    location: str

    @property
    def key(self) -> str:
        """The same text for the same stage, wherever a command is started."""
        return self.location if is_remote(self.location) else os.path.abspath(self.location)


@dataclass
class _Logged:
    """What was logged so far, in `tracker_dir/NAME.json`.

    `stages` holds how far the steps of each stage are moved: one that begins before the end of its axis, as a new
    discriminator does, goes on from there. `logged` is the last step of each kind of points, by prefix.
    """

    path: Path
    stages: dict[str, int] = field(default_factory=dict)
    logged: dict[str, dict[str, int]] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    configured: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Self:
        """What the file at `path` says; nothing if there is none. InputError if it has another form."""
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict) or not all(isinstance(found.get(name), kind) for name, kind in _FORM.items()):
            raise InputError(
                f"training.tracker_dir: {path} does not say what was logged: remove it; points may be logged again"
            )
        return cls(path, **{name: found[name] for name in _FORM})

    def write(self) -> None:
        save_json({name: getattr(self, name) for name in _FORM}, self.path)

    def last(self, prefix: str, kind: str) -> int:
        """The last step of a kind of points, -1 if there is none."""
        return self.logged.get(prefix, {}).get(kind, -1)

    def offset(self, stage: TrackedStage, first_step: int) -> int:
        """How far the steps of a stage that begins at `first_step` are moved, the same whenever it is started again."""
        end = max(self.logged.get(stage.prefix, {}).values(), default=0)
        return self.stages.setdefault(stage.key, max(0, end - first_step))


class Tracking:
    """The open trackers of a stage. Without any, and in all processes but the first, nothing happens.

    A tracker that fails gets nothing more and never stops the training.
    """

    def __init__(self, stage: TrackedStage | None):
        self._stage = stage
        self._runs: dict[Tracker, TrackerRun] = {}
        self._logged = _Logged(Path())
        self._offset = 0

    @contextlib.contextmanager
    def open(self, first_step: int) -> Iterator[Self]:
        """Inside, points are logged; the stage, or the rest of it, begins at optimizer step `first_step`."""
        if self._stage is not None and self._stage.config.training.trackers and distributed.is_first():
            with _warned(f"trackers of {self._stage.prefix}"):
                self._begin(self._stage, first_step)
        try:
            yield self
        finally:
            self._each(lambda run: run.finish())
            self._runs = {}

    def is_due(self, step: int, kind: str = EPOCHS) -> bool:
        """Whether a point of this kind at a step is still to be logged."""
        return bool(self._runs) and self._offset + step > self._logged.last(self._prefix, kind)

    def log(self, values: Mapping[str, Any], step: int, kind: str = EPOCHS) -> None:
        """Log those of the figures that are finite numbers, unless a point of this kind was logged at the step."""
        if not self.is_due(step, kind):
            return
        start = f"{self._prefix}/{STEPS}" if kind == STEPS else self._prefix
        figures = {f"{start}/{name}": float(value) for name, value in values.items() if _is_figure(value)}
        self._each(lambda run: run.log(figures, self._offset + step))
        self._remember(step, kind)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Log the picture at `path`, if there is one, unless one was logged at the step."""
        if self.is_due(step, PICTURES) and path.exists():
            self._each(lambda run: run.picture(f"{self._prefix}/{name}", path, self._offset + step))
            self._remember(step, PICTURES)

    @property
    def _prefix(self) -> str:
        return self._stage.prefix if self._stage is not None else ""

    def _begin(self, stage: TrackedStage, first_step: int) -> None:
        config, section = stage.config, stage.config.training
        self._logged = logged = _Logged.read(_path(config))
        known = stage.key in logged.stages
        self._offset = logged.offset(stage, first_step)
        last = logged.last(stage.prefix, EPOCHS)
        if known and self._offset + first_step < last:
            log.info(
                "trackers: %s is there up to step %d, which is not logged again; remove %s if this is a new training",
                *(stage.prefix, last, logged.path),
            )
        for name in section.trackers:
            with _warned(name):
                run = open_run(
                    name, config.experiment.name, Path(section.tracker_dir), stage.prefix, logged.runs.get(name)
                )
                self._runs[name] = run
                if run.run_id is not None:
                    logged.runs[name] = run.run_id
                if name not in logged.configured:
                    run.configure(_flat(config.model_dump(mode="json")))
                    logged.configured.append(name)
        logged.write()

    def _remember(self, step: int, kind: str) -> None:
        if not self._runs:  # the last of them failed
            return
        self._logged.logged.setdefault(self._prefix, {})[kind] = self._offset + step
        try:
            self._logged.write()
        except (OSError, InputError) as error:
            _warn(f"{self._logged.path}", error)
            self._runs = {}

    def _each(self, act: Callable[[TrackerRun], None]) -> None:
        for name, run in list(self._runs.items()):
            try:
                act(run)
            except Exception as error:
                _warn(name, error)
                del self._runs[name]


def _path(config: ExperimentConfig) -> Path:
    return Path(config.training.tracker_dir).absolute() / f"{config.experiment.name}.json"


@contextlib.contextmanager
def _warned(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a tracker raises
        _warn(what, error)


def _warn(what: str, error: Exception) -> None:
    text = f"{type(error).__name__}: {error}"
    for name in _SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, HIDDEN)
    log.warning("tracker %s failed and gets nothing more from this stage; the training goes on: %s", what, text)


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Settings by dotted key, as values that every tracker takes, without secrets."""
    flat: dict[str, bool | int | float | str] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, bool | int | float) else without_secrets(str(value))
    return flat
