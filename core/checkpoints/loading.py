"""Checkpoint files, and models built from them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from core.checkpoints.autoencoder_sizes import AutoencoderSizes, build_autoencoder
from core.checkpoints.checkpoint_palettes import PALETTE_KEY, refuse_other_palette, refuse_palette_of_imginav
from core.checkpoints.diffusers_folders import (
    FolderDiffusion,
    is_model_folder,
    read_autoencoder_folder,
    read_diffusion_folder,
)
from core.checkpoints.imginav_checkpoints import (
    ImgiNavDiffusion,
    is_imginav_autoencoder,
    is_imginav_diffusion,
    read_autoencoder,
    read_diffusion,
)
from core.config.experiment import ExperimentConfig
from core.data.palette_file import read_palette
from core.inputs import state_form as form
from core.inputs.listed_digests import require_listed_digest
from core.inputs.locations import Location, is_remote
from core.inputs.safetensors_files import SUFFIX, load_safetensors, save_safetensors
from core.inputs.state_form import are_weights, checked_weights, with_prefix, without_wrappers
from core.inputs.tensor_files import load_tensors
from core.models.diffusion import build_scheduler
from core.networks.autoencoder import Autoencoder
from core.networks.imginav_autoencoder import ImgiNavSizes, imginav_autoencoder
from core.networks.unet import UNet, build_unet, is_network_of
from core.records.input_files import local_path
from core.runtime.errors import InputError

_Model = TypeVar("_Model", bound=nn.Module)

# Settings that a checkpoint names and that may differ from those it was trained with.
FREE_SETTINGS = ("unet.dropout",)


def find_checkpoint(path: Location) -> Location:
    """The checkpoint at `path`, else in or beside the folder `checkpoints`, since published configs differ in this."""
    if is_remote(path):
        return path
    path = Path(path)
    candidates = [path, path.parent / "checkpoints" / path.name, path.parent.parent / path.name]
    return next((candidate for candidate in candidates if candidate.is_file()), path)


def load_checkpoint(path: Location, what: str) -> dict[str, Any]:
    """The dictionary saved at `path`, with `state_dict` and `config`; InputError if it is not a checkpoint.

    A `.safetensors` file holds the weights as tensors and the config as JSON in its metadata. If a SHA256SUMS beside
    the file names it, its digest must be the one there.
    """
    require_listed_digest(path, what)
    checkpoint = _from_safetensors(path, what) if str(path).endswith(SUFFIX) else load_tensors(path, what)
    content: dict[str, Any] = checkpoint if isinstance(checkpoint, dict) else {}
    weights, config = content.get("state_dict"), content.get("config")
    if not isinstance(weights, dict) or not are_weights(weights) or not isinstance(config, dict):
        raise InputError(
            f"{what} {path} is not a checkpoint: it does not hold state_dict and config; give a file of a training "
            "stage"
        )
    if not form.is_plain_tree(config):
        raise InputError(f"{what} {path} has a config with more than text and numbers: give a file of a training stage")
    return content | {"state_dict": without_wrappers(weights)}


def _from_safetensors(path: Location, what: str) -> dict[str, Any]:
    found = load_safetensors(path, what)
    try:
        config = json.loads(found.text["config"])
    except (LookupError, ValueError, RecursionError):
        raise InputError(
            f"{what} {path} is not a checkpoint: its metadata hold no config as JSON; give a file that "
            "tasks.export_base wrote, or one of a training stage"
        ) from None
    return {"state_dict": found.tensors, "config": config}


def export_checkpoint(weights: Mapping[str, Tensor], config: Mapping[str, Any], path: Path) -> None:
    """Write a `.safetensors` checkpoint that `load_checkpoint` reads; `config` must be JSON."""
    save_safetensors(weights, "config", json.dumps(config, sort_keys=True), path)


def saved_settings(path: Location, config: ExperimentConfig) -> dict[str, Any]:
    """The settings in the diffusion checkpoint at `path`; those of `config` for a folder, which holds none."""
    if is_model_folder(path):
        return config.fingerprint()
    settings: dict[str, Any] = load_checkpoint(path, "diffusion checkpoint")["config"]
    return settings


def load_unet(path: Location, config: ExperimentConfig) -> UNet:
    """UNet with the EMA weights of the diffusion checkpoint at `path`; InputError if they do not fit the config."""
    path = find_checkpoint(path)
    if is_model_folder(path):
        return _with_settings(read_diffusion_folder(Path(path)), path, config)
    checkpoint = load_checkpoint(path, "diffusion checkpoint")
    if is_imginav_diffusion(checkpoint):
        return _load_imginav_unet(checkpoint, path, config)
    refuse_other_schedule(checkpoint["config"], config, path)
    weights = checkpoint["state_dict"]
    return _unet_of(with_prefix(weights, "unet_ema.") or with_prefix(weights, "unet."), path, config)


def _load_imginav_unet(checkpoint: Mapping[str, Any], path: Location, config: ExperimentConfig) -> UNet:
    return _with_settings(read_diffusion(checkpoint, path, _is_stage1(path, config)), path, config)


def _is_stage1(path: Location, config: ExperimentConfig) -> bool:
    """Whether the checkpoint at `path`, on this machine, is the Stage 1 that the config names, maybe in a bucket."""
    stage1 = config.diffusion.stage1_checkpoint
    if stage1 is None or str(path) == stage1:
        return stage1 is not None
    return is_remote(stage1) and Path(path) == local_path(stage1, config.artifacts)


def _with_settings(imported: ImgiNavDiffusion | FolderDiffusion, path: Location, config: ExperimentConfig) -> UNet:
    """The UNet of an imported model; InputError if the config has other settings than it."""
    refuse_other_settings(imported.settings, config, path)
    return _unet_of(imported.weights, path, config)


def _unet_of(weights: dict[str, Tensor], path: Location, config: ExperimentConfig) -> UNet:
    """The config's UNet whose parameters are these weights, not copies: they may be most of the memory."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        unet = build_unet(config.unet, config.latent_size)
    unet.load_state_dict(checked_weights(weights, unet, path), assign=True)
    return unet


def refuse_other_settings(settings: Mapping[str, Any], config: ExperimentConfig, path: Location) -> None:
    """InputError if a checkpoint was made with other `settings`, by dotted key, than the config's.

    Those of `FREE_SETTINGS` may differ, and one that the config `says_itself`.
    """
    for key, saved in settings.items():
        section, _, name = key.partition(".")
        now = getattr(getattr(config, section), name)
        if saved != now and key not in FREE_SETTINGS and not says_itself(key, saved, config):
            raise other_setting(path, key, saved, now)


def says_itself(key: str, saved: Any, config: ExperimentConfig) -> bool:
    """Whether `saved` at a dotted key, a network or schedule in full, is what other settings of the config say too."""
    if key == "unet.config":
        return is_network_of(config.unet, saved)
    if key != "scheduler.trained_betas" or config.scheduler.trained_betas is not None:
        return False
    return bool(saved == tuple(build_scheduler(config.scheduler).betas.float().tolist()))


def other_setting(path: Location, key: str, saved: object, now: object) -> InputError:
    """The error for a checkpoint made with `saved` at a dotted `key` of the config, which has `now`."""
    return InputError(
        f"checkpoint {path} has {key} {form.kind_of(saved)}, the config's is {form.kind_of(now)}: remove the key from "
        "the config, which then follows the checkpoint, or give the checkpoint that belongs to it"
    )


def refuse_other_schedule(saved_config: Mapping[str, Any], config: ExperimentConfig, path: Location) -> None:
    """InputError if the UNet of a checkpoint was trained with another noise schedule or prediction than the config's.

    Its weights would fit nevertheless.
    """
    section = saved_config.get("scheduler")
    if not isinstance(section, dict):
        return
    for name, now in config.scheduler.model_dump(mode="json").items():
        if section.get(name, now) != now:
            wanted = form.kind_of(now) if isinstance(now, list) else now
            raise InputError(
                f"checkpoint {path} was trained with scheduler.{name} {form.kind_of(section[name])}, the config's is "
                f"{wanted}: set scheduler.{name} to that, or give another checkpoint"
            )


def load_autoencoder(path: Location, config: ExperimentConfig) -> Autoencoder:
    """Frozen autoencoder of the checkpoint at `path`; InputError if its latents do not fit the config's UNet."""
    return load_sized_autoencoder(path, config).model


def load_sized_autoencoder(path: Location, config: ExperimentConfig) -> "SizedAutoencoder":
    """The autoencoder that `load_autoencoder` loads, with its sizes."""
    path, palette = find_checkpoint(path), read_palette(config)
    if is_model_folder(path):
        folder = read_autoencoder_folder(Path(path), palette)
        _refuse_other_latents(folder.latent_channels, folder.halvings, config, path)
        return SizedAutoencoder(folder.model, folder.sizes)
    checkpoint = load_checkpoint(path, "autoencoder checkpoint")
    if is_imginav_autoencoder(checkpoint):
        refuse_palette_of_imginav(config, path)
        imported, weights = read_autoencoder(checkpoint, path)
        _refuse_other_latents(imported.latent_channels, imported.steps, config, path)
        return SizedAutoencoder(frozen_model(lambda: imginav_autoencoder(imported), weights, path), imported)
    saved = checkpoint["config"]
    refuse_other_palette(saved, config, path)
    sizes = {key: plain(value) for key, value in saved.items() if key not in ("image_size", PALETTE_KEY)}
    try:
        section = AutoencoderSizes.model_validate(sizes)
    except ValidationError as error:
        raise InputError(
            f"autoencoder checkpoint {path} has another architecture ({first_problem(error)}): use an "
            "autoencoder's checkpoint"
        ) from None
    _refuse_other_latents(section.latent_channels, section.downsampling_steps, config, path)
    return SizedAutoencoder(
        frozen_model(lambda: build_autoencoder(section, palette), checkpoint["state_dict"], path), section
    )


def _refuse_other_latents(channels: int, steps: int, config: ExperimentConfig, path: Location) -> None:
    for name, found in (("latent_channels", channels), ("downsampling_steps", steps)):
        wanted = getattr(config.autoencoder, name)
        if found != wanted:
            raise InputError(
                f"autoencoder checkpoint {path} has {name} {found}, the config's autoencoder.{name} is {wanted}: use "
                "the checkpoint that belongs to this config"
            )


class SizedAutoencoder(NamedTuple):
    """An autoencoder, and the sizes that its checkpoint names; None for one of diffusers, which has a config."""

    model: Autoencoder
    sizes: AutoencoderSizes | ImgiNavSizes | None


def frozen_model(build: Callable[[], _Model], weights: dict[str, Tensor], path: Location) -> _Model:
    """The frozen model with these weights. Its memory is only allocated once the weights are known to fit."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        sketch = build()
    checked = checked_weights(weights, sketch, path)
    model = build()
    model.load_state_dict(checked)
    return model.eval().requires_grad_(False)


def plain(value: object) -> object:
    """A NumPy scalar as a plain number; anything else unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def first_problem(error: ValidationError) -> str:
    """The first problem with the sizes in a checkpoint."""
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"])[:40]
    if problem["type"] == "extra_forbidden":
        return f"its config has {name}"
    if problem["type"] == "missing":
        return f"its config does not give {name}"
    return f"{name}: {problem['msg'].lower()}, got {form.kind_of(problem['input'])}"
