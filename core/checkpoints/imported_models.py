"""A config completed by the checkpoints that it names: networks and schedule of models that were trained elsewhere."""

import contextlib
import functools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core.checkpoints.checkpoint_palettes import refuse_palette_of_imginav
from core.checkpoints.diffusers_folders import (
    has_diffusion_model,
    has_exported_decoder,
    is_model_folder,
    is_pipeline,
    pipeline_steps,
    read_autoencoder_folder,
    read_diffusion_folder,
)
from core.checkpoints.hub_models import hub_folder, is_hub_name
from core.checkpoints.imginav_checkpoints import (
    is_imginav_autoencoder,
    is_imginav_diffusion,
    read_autoencoder,
    read_diffusion,
)
from core.checkpoints.loading import FREE_SETTINGS, find_checkpoint, load_checkpoint, other_setting, says_itself
from core.config.experiment import ExperimentConfig
from core.config.loading import load_config
from core.data.palette import Palette
from core.data.palette_file import read_palette
from core.inputs import state_form as form
from core.inputs.locations import Location, is_remote
from core.inputs.safetensors_files import SUFFIX
from core.inputs.state_form import with_prefix
from core.records.input_files import is_model, local_path
from core.runtime.errors import InputError
from core.storage.store import ArtifactsSection

log = logging.getLogger(__name__)

_AUTOENCODER = "autoencoder.checkpoint"


class _Imported(NamedTuple):
    """A checkpoint that was made elsewhere: settings by dotted key, and the weights of its decoder, if it holds one.

    `is_exported` says that this project exported it.
    """

    path: str
    settings: dict[str, Any]
    decoder: dict[str, torch.Tensor]
    of_imginav: bool
    is_exported: bool = False


def load_experiment(
    path: Location,
    overrides: Sequence[str] = (),
    artifacts: ArtifactsSection | None = None,
    *,
    diffusion: Sequence[Location | None] = (),
    autoencoder: Location | None = None,
) -> ExperimentConfig:
    """The config of the YAML file at `path`, as `load_config` reads it, with `imported_settings` of its checkpoints.

    `diffusion` are further checkpoints, and `autoencoder` one in place of its own.
    """
    config = load_config(path, overrides, artifacts, lambda draft: imported_settings(draft, diffusion, autoencoder))
    read_palette(config)  # a palette that cannot be used ends a command before it writes anything
    _log_without_effect(config.without_effect)
    return config


# Once in a process, although every task reads the config.
@functools.lru_cache(maxsize=16)
def _log_without_effect(names: tuple[str, ...]) -> None:
    if names:
        log.warning("these settings of a published config have no effect here: %s", ", ".join(names))


def imported_settings(
    config: ExperimentConfig, diffusion: Sequence[Location | None] = (), autoencoder: Location | None = None
) -> dict[str, Any]:
    """The sizes and the schedule of a config's checkpoints, by dotted key, where these are of ImgiNav or diffusers.

    Its checkpoints are those that it names, the further ones of `diffusion`, and `autoencoder` in place of its own.
    Where one is found beside its path, that is among the values; so is the folder of a pipeline as its own autoencoder,
    if the config names none. A
    setting that the config gives itself must be that of the checkpoint, only dropout is free. Raises InputError if it
    is not, for a model that cannot be used, for one of ImgiNav with another palette than its own, and for a diffusion
    checkpoint whose decoder is not that of the autoencoder. Checkpoints that are not there are left out.
    """
    named = _named(config)
    found = {key: model_place(path) for key, path in named.items()}
    values: dict[str, Any] = {key: path for key, path in found.items() if path != named[key]}
    own_autoencoder = found.pop(_AUTOENCODER, None)
    further = [model_place(path) for path in diffusion if path is not None]
    pipeline = next((path for path in [*found.values(), *further] if _brings_autoencoder(path, config)), None)
    if own_autoencoder is None and autoencoder is None and pipeline is not None:
        own_autoencoder = values[_AUTOENCODER] = pipeline
    imported = [model for path in [*found.values(), *further] if (model := _read_diffusion(path, config)) is not None]
    encoder = _read_autoencoder(model_place(autoencoder) if autoencoder else own_autoencoder, config)
    for model in [encoder, *imported] if encoder else imported:
        if model.of_imginav:
            refuse_palette_of_imginav(config, model.path)
        _add_settings(model, config, values)
    for model in imported:
        _require_own_decoder(model, encoder)
    return values


def refused_checkpoints(path: Location, overrides: Sequence[str] = ()) -> tuple[ExperimentConfig | None, list[str]]:
    """A draft of the config at `path`, and why checkpoints that it names are refused: a line each, tried one by one.

    The draft is for a config that `load_experiment` refuses: sizes are not those of the checkpoints. None if the file
    itself is at fault.
    """
    drafts: list[ExperimentConfig] = []

    def keep(draft: ExperimentConfig) -> dict[str, Any]:
        drafts.append(draft)
        return {}

    with contextlib.suppress(InputError):
        load_config(path, overrides, complete=keep)
    return (drafts[0], _refusals(drafts[0])) if drafts else (None, [])


def _refusals(config: ExperimentConfig) -> list[str]:
    lines, encoder, imported = list[str](), None, list[_Imported]()
    for key, named in _named(config).items():
        try:
            if key == _AUTOENCODER:
                encoder = _read_autoencoder(model_place(named), config)
            elif (model := _read_diffusion(model_place(named), config)) is not None:
                imported.append(model)
        except InputError as error:
            lines.append(str(error))
    for model in [encoder, *imported] if encoder else imported:
        try:
            _add_settings(model, config, {})
            _require_own_decoder(model, encoder)
        except InputError as error:
            lines.append(str(error))
    return lines


def model_place(path: Location) -> str:
    """Where a checkpoint is: at its path or beside it, or in the cache of the Hugging Face hub."""
    found = str(find_checkpoint(path))
    return hub_folder(found) if is_hub_name(found) else found


def _brings_autoencoder(path: str, config: ExperimentConfig) -> bool:
    """Whether the folder at `path` is a pipeline whose autoencoder is the config's, if that names none.

    One that this project exported has a decoder alone, which is enough to draw; a config that makes an autoencoder has
    the whole of it.
    """
    if is_remote(path) and not is_model(path, config.artifacts):
        return False
    if not is_pipeline(folder := local_path(path, config.artifacts)):
        return False
    return not (has_exported_decoder(folder) and config.prerequisites and config.prerequisites.autoencoder)


def _named(config: ExperimentConfig) -> dict[str, str]:
    """The checkpoints that a config names, by dotted key."""
    named = {f"diffusion.{name}": path for name, path in dict(config.diffusion).items()}
    named[_AUTOENCODER] = config.autoencoder.checkpoint
    return {key: path for key, path in named.items() if path is not None}


def _read_diffusion(path: str, config: ExperimentConfig) -> _Imported | None:
    """What the diffusion checkpoint at `path` says, if it was made elsewhere; None too if there is no such file."""
    file = _file(path, config)
    return file and _imported_diffusion(*file, path, is_stage1=path == config.diffusion.stage1_checkpoint)


def _read_autoencoder(path: str | None, config: ExperimentConfig) -> _Imported | None:
    file = None if path is None else _file(path, config)
    return file and _imported_autoencoder(*file, str(path), read_palette(config))


def _file(path: str, config: ExperimentConfig) -> tuple[Path, int, int] | None:
    """The file or folder at `path` on this machine, its size and its time.

    None if it is not there, or of a kind of file that only this project writes.
    """
    if path.endswith(SUFFIX) or not (is_remote(path) or Path(path).is_file() or is_model_folder(path)):
        return None
    local = local_path(path, config.artifacts)
    found = [file.stat() for file in (local.rglob("*") if local.is_dir() else [local]) if file.is_file()]
    return local, sum(file.st_size for file in found), max(file.st_mtime_ns for file in found)


# Every flow and task reads its config, and with it the checkpoints, which may be large; so each version is read once.
@functools.lru_cache(maxsize=16)
def _imported_diffusion(file: Path, size: int, changed: int, path: str, is_stage1: bool) -> _Imported | None:
    if file.is_dir():
        if not has_diffusion_model(file):
            return None
        return _Imported(path, read_diffusion_folder(file).settings, {}, False, pipeline_steps(file) is not None)
    checkpoint = load_checkpoint(file, "diffusion checkpoint")
    if not is_imginav_diffusion(checkpoint):
        return None
    found = read_diffusion(checkpoint, path, is_stage1)
    betas = found.settings["scheduler.trained_betas"]
    log.info(
        "checkpoint %s: ImgiNav's Unet, %d of its %d tensors (%s*), %d weights; alpha_bar from %.6f to %.6f",
        path,
        len(found.weights),
        len(checkpoint["state_dict"]),
        found.prefix,
        sum(value.numel() for value in found.weights.values()),
        1 - betas[0],
        math.prod(1 - beta for beta in betas),
    )
    return _Imported(path, found.settings, found.decoder, True)


@functools.lru_cache(maxsize=4)
def _imported_autoencoder(file: Path, size: int, changed: int, path: str, palette: Palette) -> _Imported | None:
    if file.is_dir():
        folder = read_autoencoder_folder(file, palette)
        return _Imported(path, _latent_sizes(folder.latent_channels, folder.halvings), {}, False)
    checkpoint = load_checkpoint(file, "autoencoder checkpoint")
    if not is_imginav_autoencoder(checkpoint):
        return None
    sizes, weights = read_autoencoder(checkpoint, path)
    decoder = with_prefix(weights, "decoder.")
    return _Imported(path, _latent_sizes(sizes.latent_channels, sizes.steps), decoder, True)


def _latent_sizes(channels: int, halvings: int) -> dict[str, Any]:
    return {"autoencoder.latent_channels": channels, "autoencoder.downsampling_steps": halvings}


def _add_settings(imported: _Imported, config: ExperimentConfig, values: dict[str, Any]) -> None:
    """Add the settings of a checkpoint to `values`; InputError if the config, or `values`, has another one."""
    for key, saved in imported.settings.items():
        section, _, name = key.partition(".")
        given = getattr(config, section)
        if imported.is_exported and says_itself(key, saved, config):
            continue
        if name in given.model_fields_set:
            if getattr(given, name) != saved and key not in FREE_SETTINGS:
                raise other_setting(imported.path, key, saved, getattr(given, name))
        elif values.setdefault(key, saved) != saved and key not in FREE_SETTINGS:
            raise InputError(
                f"checkpoint {imported.path} has {key} {form.kind_of(saved)}, another that the config names has "
                f"{form.kind_of(values[key])}: give checkpoints of one model"
            )


def _require_own_decoder(imported: _Imported, autoencoder: _Imported | None) -> None:
    """InputError if a diffusion checkpoint holds a decoder, and it is not that of the autoencoder."""
    if autoencoder is None or not imported.decoder:
        return
    ours = autoencoder.decoder
    same = ours.keys() == imported.decoder.keys() and all(
        torch.equal(value, ours[name]) for name, value in imported.decoder.items()
    )
    if not same:
        raise InputError(
            f"checkpoint {imported.path} was trained with another decoder than that of {autoencoder.path}: set "
            f"{_AUTOENCODER} to the autoencoder whose latents it was trained on"
        )
