"""The prerequisites of Stage 3: layouts, autoencoder, latents, Stage 1, Stage 2. Those the config lacks are made."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from core.config.experiment import ExperimentConfig
from core.data.manifest import read_rows
from core.data.palette_file import palette_input
from core.generation.encode_layouts import encode_layouts
from core.houses.layout_generator import write_layouts
from core.records.artifacts import RECORD_NAME, prerequisites_location
from core.records.input_files import local_path
from core.records.lease import hold
from core.records.ownership import OwnFiles, require_only_own
from core.records.provenance import difference, provenance_of
from core.records.record_files import read_record
from core.records.record_forms import RecordError
from core.records.stage_run import run_stage
from core.records.workspace import Workspace
from core.runtime.errors import InputError
from core.runtime.processes import together
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection, join
from core.trackers.tracking import require_trackers
from core.training.diffusion_stage import train_prerequisite_stage, with_inputs
from core.training.file_names import checkpoint_name
from core.training.train_autoencoder import BEST_NAME, train_autoencoder

log = logging.getLogger(__name__)

# Fills a workspace from local paths of the inputs; returns metrics.
Work = Callable[[Workspace, Mapping[str, Path]], dict[str, Any]]

STAGES = ("layouts", "autoencoder", "latents", "stage1", "stage2")


@dataclass(frozen=True)
class Prerequisite:
    """One stage: its inputs and settings, the work that makes it, and the config `key` that its `result` file fills.

    If the config has no training section for it, `work` is None and the stage must be finished already. `settings` are
    then without a training, so that a model of any training fits.
    """

    stage: str
    location: str
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    work: Work | None
    key: str
    result: str

    def finished(self, artifacts: ArtifactsSection) -> bool:
        """Whether the stage exists with this provenance; logs a warning if it has another."""
        record = read_record(open_store(self.location, artifacts), RECORD_NAME)
        if record is None:
            return False
        found = difference(record, provenance_of(self.stage, self.inputs, self.settings, artifacts))
        if found is not None:
            log.warning("%s is not used: it was made with %s", self.location, found)
        return found is None

    def filled_in(self, config: ExperimentConfig) -> ExperimentConfig:
        """`config` with the stage's result at `key`."""
        return config.with_values({self.key: join(self.location, self.result)})

    def cannot_be_made(self) -> InputError:
        """The error for an unfinished stage without work."""
        return InputError(
            f"{self.key} is missing, and so is prerequisites.{self.stage} to make it with: set one of them in the "
            "config"
        )


@contextlib.contextmanager
def hold_prerequisites(config: ExperimentConfig, wait: bool = False) -> Iterator[None]:
    """Holds the lease of the prerequisites, which all experiments under the root share, if one has to be made.

    InputError, before anything is written, if a tracker of the config cannot be used.
    """
    if _all_finished(config):
        yield
        return
    require_trackers(config)
    store = open_store(prerequisites_location(config), config.artifacts)
    own_files = OwnFiles(store)
    if not any(own_files.find(f"{stage}/{RECORD_NAME}") for stage in STAGES):
        require_only_own(store, own_files.find, "artifacts.root")
    with hold(prerequisites_location(config), config.artifacts, wait):
        yield


def needs_prerequisites(config: ExperimentConfig) -> bool:
    """Whether a run has prerequisites to make first: the config describes some, or its layouts have no latents yet."""
    if config.prerequisites is not None:
        return True
    return (
        config.dataset.manifest is not None and config.autoencoder.checkpoint is not None and not _has_latents(config)
    )


def make_prerequisite(stage: str, config: ExperimentConfig) -> dict[str, Any] | None:
    """Record of a stage, made now or already finished; None if the config provides the result or does not need it.

    The stages before it must be finished. Raises InputError if the artefact root holds the stage with another
    provenance.
    """
    given = config
    for earlier in STAGES[: STAGES.index(stage)]:
        plan = _PLANS[earlier](config)
        config = plan.filled_in(config) if plan else config
    plan = _PLANS[stage](config)
    if plan is None:
        return None
    if plan.work is None and not plan.finished(config.artifacts):
        raise plan.cannot_be_made()
    work = plan.work or _no_work
    with contextlib.nullcontext() if stage == "layouts" else together(given.training, make_prerequisite, stage, given):
        return run_stage(plan.stage, plan.location, plan.inputs, plan.settings, work, given.artifacts)


def with_prerequisites(config: ExperimentConfig) -> ExperimentConfig:
    """`config` with its empty keys filled by the finished prerequisites under its root.

    The search ends at the first prerequisite that is unfinished, was made from another config, or cannot be made from
    this one, since the later ones depend on it. Raises RecordError for a record of another form.
    """
    for stage in STAGES:
        try:
            plan = _PLANS[stage](config)
            if plan is not None and not plan.finished(config.artifacts):
                break
        except RecordError:
            raise
        except InputError:
            break
        config = plan.filled_in(config) if plan else config
    return config


def unfinished(config: ExperimentConfig) -> Iterator[Prerequisite]:
    """The stages, in order, that a run makes first. InputError, after them, for one whose inputs the config lacks.

    A stage is unfinished, too, if a file that it is made from is not there.
    """
    config, made_first = with_prerequisites(config), False
    for stage in STAGES:
        plan = _PLANS[stage](config)
        if plan is None:
            continue
        if not made_first:  # else its inputs do not exist yet
            try:
                made_first = not plan.finished(config.artifacts)
            except RecordError:
                raise
            except InputError:
                made_first = True
        if made_first:
            yield plan
        config = plan.filled_in(config)


def _all_finished(config: ExperimentConfig) -> bool:
    """Whether the config needs no further stage once the finished ones are filled in."""
    config = with_prerequisites(config)
    with contextlib.suppress(InputError):
        return all(_PLANS[stage](config) is None for stage in STAGES)
    return False


def _layouts(config: ExperimentConfig) -> Prerequisite | None:
    """Generated layouts, for a config with `dataset.synthetic` and no manifest."""
    synthetic = config.dataset.synthetic
    if config.dataset.manifest is not None or synthetic is None:
        return None
    location = _location(config, "layouts")

    def work(workspace: Workspace, _: Mapping[str, Path]) -> dict[str, int]:
        def written(count: int) -> None:
            workspace.keep_files(f"{count} of {synthetic.count} layouts")

        write_layouts(workspace.folder, synthetic.count, synthetic.seed, synthetic.rooms, written)
        return {"layouts": synthetic.count}

    return Prerequisite("layouts", location, {}, synthetic.model_dump(), work, "dataset.manifest", "manifest.csv")


def _autoencoder(config: ExperimentConfig) -> Prerequisite | None:
    """The autoencoder, unless the config names its checkpoint."""
    if config.autoencoder.checkpoint is not None:
        return None
    location = _location(config, "autoencoder")
    inputs = {"manifest": config.required("dataset.manifest"), **palette_input(config)}
    settings = _data_settings(config) | {"autoencoder": config.autoencoder.model_dump(exclude={"checkpoint"})}
    work = None
    if config.prerequisites is not None and config.prerequisites.autoencoder is not None:
        settings |= {
            "seed": config.prerequisites.seed,
            "training": config.prerequisites.autoencoder.model_dump(),
        }
        work = _on_local_inputs(train_autoencoder, config)
    return Prerequisite("autoencoder", location, inputs, settings, work, "autoencoder.checkpoint", BEST_NAME)


def _latents(config: ExperimentConfig) -> Prerequisite | None:
    """Encoded layouts, unless the manifest has latents, of an autoencoder that the user named."""
    own_autoencoder = join(_location(config, "autoencoder"), BEST_NAME)
    autoencoder = config.required("autoencoder.checkpoint")
    if autoencoder != own_autoencoder and _has_latents(config):
        return None
    location = _location(config, "latents")
    if config.dataset.manifest == join(location, "manifest.csv"):
        return None
    inputs = {"manifest": config.required("dataset.manifest"), "autoencoder": autoencoder, **palette_input(config)}
    work = _on_local_inputs(encode_layouts, config)
    return Prerequisite("latents", location, inputs, _data_settings(config), work, "dataset.manifest", "manifest.csv")


def _stage1(config: ExperimentConfig) -> Prerequisite | None:
    """Stage 1, unless the config names a checkpoint of it, or nothing starts from one.

    Stage 2 does, and the bad latents of a first round that labels all generated latents as bad.
    """
    named = config.diffusion
    wanted = named.stage2_checkpoint is None or config.rounds.viability.labels == "generated"
    return _diffusion_stage(1, config) if wanted and named.stage1_checkpoint is None else None


def _stage2(config: ExperimentConfig) -> Prerequisite | None:
    """Stage 2, unless the config names a checkpoint of it or is for Stage 1 only."""
    wanted = config.diffusion.stage2_checkpoint is None and config.experiment.phase != "diffusion_stage1"
    return _diffusion_stage(2, config) if wanted else None


def _diffusion_stage(number: int, config: ExperimentConfig) -> Prerequisite:
    stage = f"stage{number}"
    inputs = {
        "manifest": config.required("dataset.manifest"),
        "autoencoder": config.required("autoencoder.checkpoint"),
        **palette_input(config),
    }
    if number == 2:
        inputs["stage1"] = config.required("diffusion.stage1_checkpoint")
    model = config.fingerprint()
    settings = {name: model[name] for name in ("unet", "scheduler")}
    training, work = config.stage_training(number), None
    if training is not None:
        settings["training"] = config.fingerprint(training)["training"]
        work = _on_local_inputs(partial(train_prerequisite_stage, number, training), config)
    result = checkpoint_name(stage, "best")
    location = _location(config, stage)
    return Prerequisite(stage, location, inputs, settings, work, f"diffusion.{stage}_checkpoint", result)


_PLANS: dict[str, Callable[[ExperimentConfig], Prerequisite | None]] = {
    "layouts": _layouts,
    "autoencoder": _autoencoder,
    "latents": _latents,
    "stage1": _stage1,
    "stage2": _stage2,
}


def _no_work(workspace: Workspace, paths: Mapping[str, Path]) -> dict[str, Any]:
    """The work of a stage that must be finished already, so that `run_stage` only returns its record."""
    raise InputError(f"{workspace.folder}: the finished stage was removed meanwhile: run the command again")


def _location(config: ExperimentConfig, stage: str) -> str:
    return join(prerequisites_location(config), stage)


def _on_local_inputs(train: Callable[[ExperimentConfig, Workspace], dict[str, Any]], config: ExperimentConfig) -> Work:
    """The work of a stage: `train`, with the config's inputs replaced by their local paths."""
    return lambda workspace, paths: train(with_inputs(config, paths), workspace)


def _data_settings(config: ExperimentConfig) -> dict[str, Any]:
    """Settings of the dataset that an autoencoder or latent depends on; the manifest itself is an input."""
    return {
        "dataset": config.dataset.model_dump(mode="json", include={"outputs", "filters", "image_size", "augment"}),
        "split": config.training.model_dump(include={"train_split", "split_seed"}),
    }


def _has_latents(config: ExperimentConfig) -> bool:
    """Whether the manifest names a latent for any layout. False if it is unreadable, which its reader reports later."""
    path = local_path(config.required("dataset.manifest"), config.artifacts)
    try:
        rows = read_rows(path, config.dataset)
    except InputError:
        return False
    column = config.dataset.outputs.latent
    return column in rows.columns and bool(rows[column].notna().any())
