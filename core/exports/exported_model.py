"""One model as a folder to give away: a pipeline of diffusers or a checkpoint of ImgiNav, and its card."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.checkpoints.loading import (
    SizedAutoencoder,
    find_checkpoint,
    load_sized_autoencoder,
    saved_settings,
)
from core.checkpoints.strength import FromStart, load_model, model_inputs
from core.config.experiment import ExperimentConfig
from core.data.palette_file import palette_input
from core.exports.diffusers_folder import write_diffusers
from core.exports.hub_upload import push_files
from core.exports.imginav_file import IMGINAV, imginav_name, read_decoder, write_imginav
from core.exports.lineage import trace_lineage
from core.exports.model_card import CardRequest, model_card
from core.inputs.locations import Location
from core.networks.unet import UNet
from core.records.artifacts import RECORD_NAME, ROUND_RECORD
from core.records.input_files import local_path, record_of
from core.records.lease import publishing_store
from core.records.provenance import provenance_of
from core.records.record_files import Record, read_record
from core.records.stage_run import remove_leftovers, run_stage
from core.records.workspace import Workspace, stage_files
from core.runtime.files import Entry, atomic_write, file_entry
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection, join

Form = Literal["diffusers", "imginav"]

CARD_NAME = "README.md"
_STAGE = "model"


@dataclass(frozen=True)
class ExportRequest:
    """What to export: the model of `checkpoint`, in a `form`, to `output_dir`.

    With `from_start` it is one between a start and the checkpoint, or beyond. `round_location` is the address of the
    finished round that made the checkpoint, if one did.
    """

    checkpoint: Location
    output_dir: Location
    form: Form
    from_start: FromStart | None = None
    round_location: str | None = None


@dataclass(frozen=True)
class _Models:
    """What is exported: networks, and for ImgiNav the autoencoder's file with the names of its weights."""

    unet: UNet
    autoencoder: SizedAutoencoder
    theirs: Mapping[str, Any] | None


def export_model(config: ExperimentConfig, request: ExportRequest) -> Record:
    """Record of the folder `request.output_dir` after writing the model to it, now or before.

    It holds the model's EMA weights in the form asked for, and `README.md`, a card made from records. Metrics are the
    `weights` of the UNet and of the decoder.
    Raises InputError, before anything is written, for a checkpoint that is none or does not fit the config, a model
    that the form cannot hold, and a folder that holds other files or another model.
    """
    inputs, settings = _inputs(config, request), _settings(config, request)
    provenance_of(_STAGE, inputs, settings, config.artifacts)  # before a model is loaded
    models, store = None, publishing_store(request.output_dir, config.artifacts)
    if read_record(store, RECORD_NAME) is None:
        models = _load(config, request, inputs)  # here, so that a model that cannot be exported leaves no folder

    def work(workspace: Workspace, paths: Mapping[str, Path]) -> dict[str, Any]:
        loaded = models or _load(config, request, inputs)
        folder = workspace.folder
        if loaded.theirs is None:
            write_diffusers(loaded.unet, loaded.autoencoder, config, settings["steps"], folder)
        else:
            write_imginav(loaded.unet, loaded.theirs, config, folder / imginav_name(config.experiment.name))
        card = _card(config, request, inputs, paths["diffusion"], folder)
        with atomic_write(folder / CARD_NAME) as file:
            file.write(card.encode())
        parts = {"unet": loaded.unet, "decoder": loaded.autoencoder.model.decoder}
        return {name: sum(value.numel() for value in part.parameters()) for name, part in parts.items()}

    record = run_stage(_STAGE, request.output_dir, inputs, settings, work, config.artifacts)
    remove_leftovers(store)
    return record


def push_export(record: Record, folder: Location, artifacts: ArtifactsSection, name: str) -> str:
    """Address of the hub's repository `name` that holds the files of an exported folder, of which this is the record.

    The record itself stays: it names places of this machine. Raises InputError as `push_files` does.
    """
    entries: dict[str, Entry] = record["outputs"]
    return push_files(open_store(folder, artifacts).fetch(entries), entries, name)


def _inputs(config: ExperimentConfig, request: ExportRequest) -> dict[str, Location]:
    inputs = model_inputs(request.checkpoint, request.from_start)
    inputs["autoencoder"] = find_checkpoint(config.required("autoencoder.checkpoint"))
    if request.round_location is not None:
        inputs["round"] = join(request.round_location, ROUND_RECORD)
    return inputs | palette_input(config)


def _settings(config: ExperimentConfig, request: ExportRequest) -> dict[str, Any]:
    model, steps = config.fingerprint(), config.audit_steps
    settings = {"form": request.form, "strength": request.from_start and request.from_start.strength}
    settings |= {name: model[name] for name in ("unet", "scheduler")}
    return settings | {"latent_shape": config.latent_shape, "steps": min(steps, config.scheduler.num_steps)}


def _load(config: ExperimentConfig, request: ExportRequest, inputs: Mapping[str, Location]) -> _Models:
    paths = {name: local_path(place, config.artifacts) for name, place in inputs.items()}
    theirs = read_decoder(config, paths["autoencoder"], inputs["autoencoder"]) if request.form == IMGINAV else None
    unet = load_model(paths, request.from_start, config)
    return _Models(unet, load_sized_autoencoder(paths["autoencoder"], config), theirs)


def _card(
    config: ExperimentConfig, request: ExportRequest, inputs: Mapping[str, Location], checkpoint: Path, folder: Path
) -> str:
    """The card of the model whose files are in `folder`."""
    files = {name: place for name, place in inputs.items() if name != "round"}
    described = provenance_of(_STAGE, files, {}, config.artifacts)["inputs"]
    lineage = trace_lineage(described, request.round_location, config.artifacts)
    stage = record_of(inputs["diffusion"], config.artifacts)
    known = list(lineage.rounds.values())
    settings = known[-1]["settings"] if known else saved_settings(checkpoint, config)
    written = {path.relative_to(folder).as_posix(): file_entry(path) for path in stage_files(folder)}
    name = str(inputs["diffusion"]).rpartition("/")[2]
    strength = None if request.from_start is None else request.from_start.strength
    return model_card(CardRequest(config, request.form, name, strength, lineage, settings, stage, written))
