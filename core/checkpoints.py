"""Checkpoint files: what they hold, and models built from them."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from pydantic import ValidationError
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from core.autoencoder import Autoencoder
from core.config import AutoencoderSection, ExperimentConfig, OptimizationSection
from core.device import memory_format
from core.diffusion import build_unet
from core.discriminator import LatentDiscriminator
from core.errors import InputError
from core.files import load_tensors, save_tensors
from core.online_discriminator import OnlineDiscriminator
from core.store import Location, is_remote

# What a checkpoint that can be gone on from holds besides the weights.
_PROGRESS = ("optimizer_state", "epoch", "step", "best_val_loss", "adversarial_weight", "start", "training_history")


@dataclass
class TrainState:
    """A diffusion model in training: everything a resumed run needs, and progress in epochs and steps."""

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
        }
        if resumable:
            checkpoint["optimizer_state"] = self.optimizer.state_dict()
            if self.online is not None:
                checkpoint["online_discriminator"] = self.online.state_dict()
        return checkpoint

    def load(self, path: Path) -> None:
        """Take over the full state of the checkpoint at `path`."""
        checkpoint = load_checkpoint(path, "checkpoint")
        missing = next((name for name in _PROGRESS if name not in checkpoint), None)
        if missing is not None:
            raise InputError(f"checkpoint {path} holds no {missing} to go on from: give the _latest.pt file")
        load_weights(self.unet, _with_prefix(checkpoint["state_dict"], "unet."), path)
        load_weights(self.ema, _with_prefix(checkpoint["state_dict"], "unet_ema."), path)
        self.optimizer.load_state_dict(checkpoint["optimizer_state"])
        self.epoch, self.step = checkpoint["epoch"], checkpoint["step"]
        self.best_val_loss = checkpoint["best_val_loss"]
        self.adversarial_weight = checkpoint["adversarial_weight"]
        self.start, self.history = checkpoint["start"], checkpoint["training_history"]
        if self.online is not None and "online_discriminator" in checkpoint:
            self.online.load_state_dict(checkpoint["online_discriminator"])


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
    if not all(isinstance(part, dict) for part in parts) or not _are_weights(parts[0]):
        raise InputError(
            f"{what} {path} is no checkpoint: it holds no state_dict and config; give a file of a training stage"
        )
    return checkpoint


def _are_weights(values: dict[Any, Any]) -> bool:
    return all(isinstance(key, str) and isinstance(value, Tensor) for key, value in values.items())


def load_weights(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Copy `weights` into `module`; InputError names the first key that does not fit."""
    own = module.state_dict()
    mismatch = next((key for key in own if key not in weights or own[key].shape != weights[key].shape), None)
    mismatch = mismatch or next((key for key in weights if key not in own), None)
    if mismatch is None:
        module.load_state_dict(weights)
        return
    there = list(weights[mismatch].shape) if mismatch in weights else "missing"
    here = list(own[mismatch].shape) if mismatch in own else "unknown"
    raise InputError(
        f"checkpoint {path} is of another architecture: {mismatch} is {there} there and {here} in the model; "
        "use the config it was trained with"
    )


def load_unet(path: str | Path, config: ExperimentConfig) -> UNet2DModel:
    """UNet with the EMA weights of the diffusion checkpoint at `path`."""
    path = find_checkpoint(path)
    weights = load_checkpoint(path, "diffusion checkpoint")["state_dict"]
    unet = build_unet(config.unet, config.latent_size)
    load_weights(unet, _with_prefix(weights, "unet_ema.") or _with_prefix(weights, "unet."), path)
    return unet


def load_autoencoder(path: str | Path, config: ExperimentConfig) -> Autoencoder:
    """Frozen autoencoder of the checkpoint at `path`; InputError if its latents do not fit the config's UNet."""
    path = find_checkpoint(path)
    checkpoint = load_checkpoint(path, "autoencoder checkpoint")
    try:
        sizes = {key: value for key, value in checkpoint["config"].items() if key != "image_size"}
        section = AutoencoderSection.model_validate(sizes)
    except ValidationError:
        raise InputError(
            f"autoencoder checkpoint {path} is of another architecture: its config names no sizes; use an "
            "autoencoder's checkpoint"
        ) from None
    wanted = config.autoencoder
    for name in ("latent_channels", "downsampling_steps"):
        if getattr(section, name) != getattr(wanted, name):
            raise InputError(
                f"autoencoder checkpoint {path} has {name} {getattr(section, name)}, the config's "
                f"autoencoder.{name} is {getattr(wanted, name)}: use the checkpoint this config was made for"
            )
    model = build_autoencoder(section)
    load_weights(model, checkpoint["state_dict"], path)
    return model.eval().requires_grad_(False)


def build_autoencoder(section: AutoencoderSection) -> Autoencoder:
    """Untrained autoencoder of the configured sizes."""
    return Autoencoder(section.latent_channels, section.base_channels, section.downsampling_steps, section.max_channels)


def save_discriminator(model: LatentDiscriminator, config: dict[str, Any], scores: dict[str, Any], path: Path) -> None:
    """Write a discriminator checkpoint; `config` holds its constructor's arguments."""
    save_tensors({"state_dict": model.state_dict(), "config": config, **scores}, path)


def load_discriminator(path: str | Path, shape: tuple[int, int, int]) -> LatentDiscriminator:
    """Frozen discriminator of the checkpoint at `path`; InputError if it was made for other latents."""
    path = find_checkpoint(path)
    checkpoint = load_checkpoint(path, "discriminator checkpoint")
    made_for = tuple(checkpoint["config"].get(name) for name in ("latent_channels", "latent_size"))
    if made_for != shape[:2]:
        raise InputError(
            f"discriminator {path} was made for latents of (channels, size) {made_for}, the config's are {shape[:2]}: "
            "retrain the discriminator"
        )
    try:
        model = LatentDiscriminator(**checkpoint["config"])
    except TypeError as error:
        raise InputError(
            f"discriminator {path} is of another architecture ({error}): retrain the discriminator"
        ) from None
    load_weights(model, checkpoint["state_dict"], path)
    return model.eval().requires_grad_(False)


def _with_prefix(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
