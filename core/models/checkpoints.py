"""Checkpoint files, and models built from them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from diffusers import UNet2DModel
from pydantic import Field, ValidationError
from torch import Tensor, nn

from core.config.experiment import ExperimentConfig
from core.config.model_sections import AutoencoderSection
from core.inputs import state_form as form
from core.inputs.places import Location, is_remote
from core.inputs.section import Section
from core.inputs.state_form import are_weights, checked_weights, without_wrappers
from core.inputs.tensor_files import load_tensors, save_tensors
from core.models.autoencoder import Autoencoder
from core.models.diffusion import build_unet
from core.models.discriminator import LatentDiscriminator
from core.runtime.errors import InputError

_Model = TypeVar("_Model", bound=nn.Module)

# No model of this project has more channels or larger maps, or halves them more often.
Size = Annotated[int, Field(ge=1, le=2**16, strict=True)]
Halvings = Annotated[int, Field(ge=1, le=16, strict=True)]


def find_checkpoint(path: Location) -> Location:
    """The checkpoint at `path`, or in or beside the `checkpoints` folder, as published configs disagree on it."""
    if is_remote(path):
        return path
    path = Path(path)
    candidates = [path, path.parent / "checkpoints" / path.name, path.parent.parent / path.name]
    return next((candidate for candidate in candidates if candidate.is_file()), path)


def load_checkpoint(path: Path, what: str) -> dict[str, Any]:
    """The dictionary saved at `path`, with `state_dict` and `config`; InputError if it is no checkpoint."""
    checkpoint = load_tensors(path, what)
    parts = [checkpoint.get(name) for name in ("state_dict", "config")] if isinstance(checkpoint, dict) else [None]
    if not all(isinstance(part, dict) for part in parts) or not are_weights(parts[0]):
        raise InputError(
            f"{what} {path} is no checkpoint: it holds no state_dict and config; give a file of a training stage"
        )
    if not form.is_plain_tree(parts[1]):
        raise InputError(f"{what} {path} has a config of more than text and numbers: give a file of a training stage")
    return checkpoint | {"state_dict": without_wrappers(parts[0])}


def load_weights(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Copy `weights` into `module`; InputError names the first key that does not fit, or is not finite."""
    module.load_state_dict(checked_weights(weights, module, path))


def load_unet(path: str | Path, config: ExperimentConfig) -> UNet2DModel:
    """UNet with the EMA weights of the diffusion checkpoint at `path`."""
    path = find_checkpoint(path)
    checkpoint = load_checkpoint(path, "diffusion checkpoint")
    refuse_other_schedule(checkpoint["config"], config, path)
    weights = checkpoint["state_dict"]
    unet = build_unet(config.unet, config.latent_size)
    load_weights(unet, with_prefix(weights, "unet_ema.") or with_prefix(weights, "unet."), path)
    return unet


def refuse_other_schedule(made_with: dict[str, Any], config: ExperimentConfig, path: Path) -> None:
    """InputError if the checkpoint says that its UNet saw other noise, or puts out something else, than the config's.

    Its weights would fit all the same.
    """
    section = made_with.get("scheduler")
    if not isinstance(section, dict):
        return
    for name, now in config.scheduler.model_dump().items():
        if section.get(name, now) != now:
            raise InputError(
                f"checkpoint {path} was trained with scheduler.{name} {form.kind_of(section[name])}, the config's is "
                f"{now}: set scheduler.{name} to that, or give another checkpoint"
            )


def load_autoencoder(path: str | Path, config: ExperimentConfig) -> Autoencoder:
    """Frozen autoencoder of the checkpoint at `path`; InputError if its latents do not fit the config's UNet."""
    path = find_checkpoint(path)
    checkpoint = load_checkpoint(path, "autoencoder checkpoint")
    sizes = {key: _plain(value) for key, value in checkpoint["config"].items() if key != "image_size"}
    try:
        section = AutoencoderSizes.model_validate(sizes)
    except ValidationError as error:
        raise InputError(
            f"autoencoder checkpoint {path} is of another architecture ({_first(error)}): use an "
            "autoencoder's checkpoint"
        ) from None
    wanted = config.autoencoder
    for name in ("latent_channels", "downsampling_steps"):
        if getattr(section, name) != getattr(wanted, name):
            raise InputError(
                f"autoencoder checkpoint {path} has {name} {getattr(section, name)}, the config's "
                f"autoencoder.{name} is {getattr(wanted, name)}: use the checkpoint this config was made for"
            )
    return _built(lambda: build_autoencoder(section), checkpoint["state_dict"], path)


class AutoencoderSizes(Section):
    """What an autoencoder's checkpoint says of its sizes."""

    latent_channels: Size = 16
    base_channels: Size = 32
    downsampling_steps: Halvings = 4
    max_channels: Size = 256


def build_autoencoder(section: AutoencoderSection | AutoencoderSizes) -> Autoencoder:
    """Untrained autoencoder of the configured sizes."""
    return Autoencoder(section.latent_channels, section.base_channels, section.downsampling_steps, section.max_channels)


class DiscriminatorSizes(Section):
    """What a discriminator's checkpoint says of its sizes: its constructor's arguments."""

    latent_channels: Size
    latent_size: Size
    base_channels: Size = 48
    dropout: float = Field(0.1, ge=0, lt=1)


def save_discriminator(model: LatentDiscriminator, config: dict[str, Any], scores: dict[str, Any], path: Path) -> None:
    """Write a discriminator checkpoint; `config` holds its constructor's arguments."""
    save_tensors({"state_dict": model.state_dict(), "config": config, **scores}, path)


def load_discriminator(path: str | Path, shape: tuple[int, int, int]) -> LatentDiscriminator:
    """Frozen discriminator of the checkpoint at `path`; InputError if it was made for other latents."""
    path = find_checkpoint(path)
    checkpoint = load_checkpoint(path, "discriminator checkpoint")
    sizes = {key: _plain(value) for key, value in checkpoint["config"].items()}
    made_for = tuple(sizes.get(name) for name in ("latent_channels", "latent_size"))
    if made_for != shape[:2]:
        named = ", ".join(form.kind_of(size) for size in made_for)
        raise InputError(
            f"discriminator {path} was made for latents of (channels, size) ({named}), the config's are {shape[:2]}: "
            "retrain the discriminator"
        )
    try:
        section = DiscriminatorSizes.model_validate(sizes)
    except ValidationError as error:
        raise InputError(
            f"discriminator {path} is of another architecture ({_first(error)}): retrain the discriminator"
        ) from None
    return _built(lambda: LatentDiscriminator(**section.model_dump()), checkpoint["state_dict"], path)


def _built(build: Callable[[], _Model], weights: dict[str, Tensor], path: Path) -> _Model:
    """The frozen model with these weights; nothing of its sizes is allocated unless the weights have them."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        sketch = build()
    checked = checked_weights(weights, sketch, path)
    model = build()
    model.load_state_dict(checked)
    return model.eval().requires_grad_(False)


def _plain(value: Any) -> Any:
    """A scalar of NumPy as a plain number; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _first(error: ValidationError) -> str:
    """The first thing that is wrong with the sizes of a checkpoint."""
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"])[:40]
    if problem["type"] == "extra_forbidden":
        return f"its config has {name}"
    if problem["type"] == "missing":
        return f"its config names no {name}"
    return f"{name}: {problem['msg'].lower()}, got {form.kind_of(problem['input'])}"


def with_prefix(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those of the weights whose name begins with the prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
