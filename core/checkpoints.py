"""Checkpoint files: what they hold, and models built from them."""

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from diffusers import UNet2DModel
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from core import state_form as form
from core.autoencoder import Autoencoder
from core.config import AutoencoderSection, ExperimentConfig, OptimizationSection
from core.device import memory_format
from core.diffusion import build_unet
from core.discriminator import LatentDiscriminator
from core.errors import InputError
from core.files import load_tensors, save_tensors
from core.online_discriminator import OnlineDiscriminator
from core.section import Section
from core.state_form import Source, are_weights, checked_optimizer, checked_weights, without_wrappers
from core.store import Location, is_remote

log = logging.getLogger(__name__)

_Model = TypeVar("_Model", bound=nn.Module)

# What a checkpoint that can be gone on from holds besides the weights.
_PROGRESS = ("optimizer_state", "epoch", "step", "best_val_loss", "adversarial_weight", "start", "training_history")
_START = ("epoch", "viability_score", "noise_loss")
_REMEDY = (
    "put back an unaltered copy, or start from its weights alone (diffusion.stage2_checkpoint) in another "
    "experiment.save_path"
)
# Nothing of this project has more channels, and no map is halved as often or is as large.
Size = Annotated[int, Field(ge=1, le=2**16, strict=True)]
Halvings = Annotated[int, Field(ge=1, le=16, strict=True)]


@dataclass(frozen=True)
class SavedState:
    """What a checkpoint holds, every part of it in the form that a training takes over.

    `discriminator` is the sha256 of the weights of the one that it was trained against, None where the checkpoint does
    not say; `config` are the settings that it was made with, as far as the checkpoint tells them.
    """

    path: Path
    unet: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Any]
    epoch: int
    step: int
    best_val_loss: float | None
    adversarial_weight: float | None
    start: dict[str, float]
    history: list[dict[str, Any]]
    online: dict[str, Any] | None
    discriminator: str | None
    config: dict[str, Any]

    def measured_anew(self) -> "SavedState":
        """The same without the figures it is compared with: they are measured when the training goes on."""
        return replace(self, start={}, best_val_loss=None)

    def judged_anew(self) -> "SavedState":
        """The same without anything that the discriminator of the time had a part in but the model itself."""
        return replace(self.measured_anew(), adversarial_weight=None, online=None)


@dataclass
class TrainState:
    """A diffusion model in training: everything a resumed run needs, and progress in epochs and steps.

    `discriminator` is the sha256 of the weights of the one that it is trained against, if it is.
    """

    unet: UNet2DModel
    ema: UNet2DModel
    optimizer: Optimizer
    epoch: int = 0
    step: int = 0
    best_val_loss: float | None = None
    adversarial_weight: float | None = None
    start: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    online: OnlineDiscriminator | None = None
    discriminator: str | None = None

    def save(self, path: Path, config: ExperimentConfig, resumable: bool = True) -> None:
        """Write the checkpoint, with the optimizer if it is to be resumed from."""
        save_tensors(self.checkpoint(config, resumable), path)

    def checkpoint(self, config: ExperimentConfig, resumable: bool = True) -> dict[str, Any]:
        """What the checkpoint holds, sharing its tensors with the training."""
        weights = {f"unet.{key}": value for key, value in self.unet.state_dict().items()}
        weights |= {f"unet_ema.{key}": value for key, value in self.ema.state_dict().items()}
        checkpoint = {
            "state_dict": weights,
            "config": config.describing_model(),
            "epoch": self.epoch,
            "step": self.step,
            "best_val_loss": self.best_val_loss,
            "adversarial_weight": self.adversarial_weight,
            "start": self.start,
            "training_history": self.history,
            "discriminator": self.discriminator,
        }
        if resumable:
            checkpoint["optimizer_state"] = self.optimizer.state_dict()
            if self.online is not None:
                checkpoint["online_discriminator"] = self.online.state_dict()
        return checkpoint

    def read(self, path: Path, config: ExperimentConfig) -> SavedState:
        """The checkpoint at `path`, all of it looked at and nothing taken over yet; InputError if it does not fit.

        The state of the online discriminator is read if this training has one and is judged by the same discriminator.
        """
        checkpoint = load_checkpoint(path, "checkpoint")
        missing = next((name for name in _PROGRESS if name not in checkpoint), None)
        if missing is not None:
            raise InputError(f"checkpoint {path} holds no {missing} to go on from: give the _latest.pt file")
        source = Source("checkpoint", path, _REMEDY)
        _refuse_other_schedule(checkpoint["config"], config, path)
        epoch, step = (form.count(checkpoint[name], name, source) for name in ("epoch", "step"))
        discriminator = form.digest(checkpoint.get("discriminator"), "discriminator", source)
        return SavedState(
            path=path,
            unet=checked_weights(_with_prefix(checkpoint["state_dict"], "unet."), self.unet, path),
            ema=checked_weights(_with_prefix(checkpoint["state_dict"], "unet_ema."), self.ema, path),
            optimizer=checked_optimizer(
                checkpoint["optimizer_state"], self.optimizer, self.unet, step, "optimizer_state", source
            ),
            epoch=epoch,
            step=step,
            best_val_loss=_optional(checkpoint["best_val_loss"], "best_val_loss", source),
            adversarial_weight=_optional(checkpoint["adversarial_weight"], "adversarial_weight", source, least=0),
            start=_checked_start(checkpoint["start"], epoch, source),
            history=form.rows(checkpoint["training_history"], epoch, "training_history", source),
            online=self._read_online(checkpoint, discriminator, step, source),
            discriminator=discriminator,
            config=checkpoint["config"],
        )

    def _read_online(
        self, checkpoint: dict[str, Any], discriminator: str | None, steps: int, source: Source
    ) -> dict[str, Any] | None:
        if self.online is None or (discriminator is not None and discriminator != self.discriminator):
            return None
        if "online_discriminator" in checkpoint:
            return self.online.checked(checkpoint["online_discriminator"], steps, source)
        section = checkpoint["config"].get("discriminator")
        if isinstance(section, dict) and section.get("update") == "online":
            raise source.error("online_discriminator", "is missing")
        log.warning("%s: discriminator.update was frozen until now; a copy of the discriminator begins", source.path)
        return None

    def take_over(self, saved: SavedState) -> None:
        """Go on from what `read` gave."""
        self.unet.load_state_dict(saved.unet)
        self.ema.load_state_dict(saved.ema)
        self.optimizer.load_state_dict(saved.optimizer)
        self.epoch, self.step = saved.epoch, saved.step
        self.best_val_loss, self.adversarial_weight = saved.best_val_loss, saved.adversarial_weight
        self.start, self.history = saved.start, saved.history
        if self.online is not None and saved.online is not None:
            self.online.load_state_dict(saved.online)


# What the figures of a checkpoint depend on besides its weights: what they are measured on, with, and how.
_MEASURES = (
    "autoencoder",
    "dataset",
    "discriminator.batch_fraction",
    "discriminator.form",
    "discriminator.trajectories",
    "discriminator.weight",
    "rounds.bad_latents.num_steps",
    "rounds.viability_samples",
    "training.batch_size",
    "training.loss",
    "training.seed",
    "training.split_seed",
    "training.train_split",
)


def measured_otherwise(made_with: dict[str, Any], config: ExperimentConfig) -> str | None:
    """The first setting in which the figures of a checkpoint with these settings do not compare with the config's."""
    now = config.describing_model()
    used = [key for key in _MEASURES if _at(now, key) is not None]
    return next((key for key in used if not _agree(_at(made_with, key), _at(now, key))), None)


def _at(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = settings.get(part) if isinstance(settings, dict) else None
    return settings


def _agree(before: Any, now: Any) -> bool:
    """Whether two settings are equal, as far as an older checkpoint names them."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(_agree(before[key], now[key]) for key in now.keys() & before.keys())
    return before is None or before == now


def _optional(value: Any, name: str, source: Source, least: float = -math.inf) -> float | None:
    return None if value is None else form.number(value, name, source, least)


def _checked_start(value: Any, epoch: int, source: Source) -> dict[str, float]:
    """The figures that a training began with, {} where they were not measured."""
    if isinstance(value, dict) and not value:
        return {}
    start = form.mapping(value, _START, "start", source)
    return {
        "epoch": form.count(start["epoch"], "start.epoch", source, most=epoch),
        "viability_score": form.number(start["viability_score"], "start.viability_score", source, 0, 1),
        "noise_loss": form.number(start["noise_loss"], "start.noise_loss", source, 0),
    }


def new_train_state(unet: UNet2DModel, section: OptimizationSection, device: torch.device) -> TrainState:
    """State before the first step: EMA equal to the UNet, a fresh optimizer."""
    unet = unet.to(device, memory_format=memory_format(device))
    ema = copy.deepcopy(unet).eval().requires_grad_(False)
    optimizer = AdamW(
        unet.parameters(),
        lr=section.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=section.weight_decay,
        fused=True,
    )
    return TrainState(unet, ema, optimizer)


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
    _refuse_other_schedule(checkpoint["config"], config, path)
    weights = checkpoint["state_dict"]
    unet = build_unet(config.unet, config.latent_size)
    load_weights(unet, _with_prefix(weights, "unet_ema.") or _with_prefix(weights, "unet."), path)
    return unet


def _refuse_other_schedule(made_with: dict[str, Any], config: ExperimentConfig, path: Path) -> None:
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


def _with_prefix(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
