"""The state of a diffusion model in training, and the checkpoint from which the training resumes."""

import copy
import logging
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from core.checkpoints.loading import load_checkpoint, refuse_other_schedule
from core.config.experiment import ExperimentConfig
from core.config.training_sections import OptimizationSection
from core.inputs import state_form as form
from core.inputs.state_form import Source, checked_optimizer, checked_weights, with_prefix
from core.inputs.tensor_files import save_tensors
from core.networks.unet import UNet
from core.records.provenance import KEYS_OF_THE_USER
from core.runtime.device import memory_format
from core.runtime.errors import InputError
from core.training.metrics import MetricsRow
from core.training.online_discriminator import OnlineDiscriminator

log = logging.getLogger(__name__)

# What a resumable checkpoint holds besides the weights.
_PROGRESS = ("optimizer_state", "epoch", "step", "best_val_loss", "adversarial_weight", "start", "training_history")
_START = ("epoch", "viability_score", "noise_loss")
_REMEDY = (
    "put back an unaltered copy, or start from its weights alone (diffusion.stage2_checkpoint) in another "
    "experiment.save_path"
)


class StartFigures(TypedDict):
    """The figures of a Stage 3 before its first epoch, and the epoch it started at."""

    epoch: int
    viability_score: float
    noise_loss: float


@dataclass(frozen=True)
class SavedState:
    """The parts of a checkpoint, each checked and ready to be restored.

    `discriminator` is the sha256 of the weights of the discriminator that the model was trained against, None where the
    checkpoint does not name it. `config` are the settings of the training, as far as the checkpoint holds them.
    """

    path: Path
    unet: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Any]
    epoch: int
    step: int
    best_val_loss: float | None
    adversarial_weight: float | None
    start: StartFigures | None
    history: list[MetricsRow]
    online: dict[str, Any] | None
    discriminator: str | None
    config: dict[str, Any]

    def without_figures(self) -> "SavedState":
        """This state without the figures that later ones are compared with: the resumed training measures them."""
        return replace(self, start=None, best_val_loss=None)

    def without_discriminator(self) -> "SavedState":
        """This state for another discriminator: the model alone, without what depends on the earlier one."""
        return replace(self.without_figures(), adversarial_weight=None, online=None)


@dataclass
class TrainState:
    """A diffusion model in training: everything that a resumed training needs.

    `discriminator` is the sha256 of the weights of the discriminator that it is trained against, if there is one.
    """

    unet: UNet
    ema: UNet
    optimizer: Optimizer
    epoch: int = 0
    step: int = 0
    best_val_loss: float | None = None
    adversarial_weight: float | None = None
    start: StartFigures | None = None
    history: list[MetricsRow] = field(default_factory=list)
    online: OnlineDiscriminator | None = None
    discriminator: str | None = None

    def save(self, path: Path, config: ExperimentConfig, resumable: bool = True) -> None:
        """Write the checkpoint to `path`, with the optimizer if it is to be resumable."""
        save_tensors(self.checkpoint(config, resumable), path)

    def checkpoint(self, config: ExperimentConfig, resumable: bool = True) -> dict[str, Any]:
        """The content of the checkpoint; its tensors are those of the training, not copies."""
        weights = {f"unet.{key}": value for key, value in self.unet.state_dict().items()}
        weights |= {f"unet_ema.{key}": value for key, value in self.ema.state_dict().items()}
        checkpoint: dict[str, Any] = {
            "state_dict": weights,
            "config": config.fingerprint(),
            "epoch": self.epoch,
            "step": self.step,
            "best_val_loss": self.best_val_loss,
            "adversarial_weight": self.adversarial_weight,
            "start": self.start or {},
            "training_history": self.history,
            "discriminator": self.discriminator,
        }
        if resumable:
            checkpoint["optimizer_state"] = self.optimizer.state_dict()
            if self.online is not None:
                checkpoint["online_discriminator"] = self.online.state_dict()
        return checkpoint

    def read(self, path: Path, config: ExperimentConfig) -> SavedState:
        """The checkpoint at `path`, all of it checked and nothing restored yet; InputError if it does not fit.

        The state of the online discriminator is read if this training has one and the discriminator is the same.
        """
        checkpoint = load_checkpoint(path, "checkpoint")
        missing = next((name for name in _PROGRESS if name not in checkpoint), None)
        if missing is not None:
            raise InputError(f"checkpoint {path} holds no {missing} to resume from: give the _latest.pt file")
        source = Source("checkpoint", path, _REMEDY)
        refuse_other_schedule(checkpoint["config"], config, path)
        epoch, step = (form.count(checkpoint[name], name, source) for name in ("epoch", "step"))
        discriminator = form.digest(checkpoint.get("discriminator"), "discriminator", source)
        return SavedState(
            path=path,
            unet=checked_weights(with_prefix(checkpoint["state_dict"], "unet."), self.unet, path),
            ema=checked_weights(with_prefix(checkpoint["state_dict"], "unet_ema."), self.ema, path),
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
        log.warning(
            "%s: discriminator.update was frozen until now; online training starts with a copy of the discriminator",
            source.path,
        )
        return None

    def restore(self, saved: SavedState) -> None:
        """Continue from the state that `read` returned."""
        self.unet.load_state_dict(saved.unet)
        self.ema.load_state_dict(saved.ema)
        self.optimizer.load_state_dict(saved.optimizer)
        self.epoch, self.step = saved.epoch, saved.step
        self.best_val_loss, self.adversarial_weight = saved.best_val_loss, saved.adversarial_weight
        self.start, self.history = saved.start, saved.history
        if self.online is not None and saved.online is not None:
            self.online.load_state_dict(saved.online)


# Settings that the figures of a checkpoint depend on, besides its weights.
_MEASURES = (
    "autoencoder",
    "dataset",
    "discriminator.batch_fraction",
    "discriminator.ddo_alpha",
    "discriminator.ddo_beta",
    "discriminator.draft_steps",
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


def changed_measure(saved_settings: dict[str, Any], config: ExperimentConfig) -> str | None:
    """The first setting that makes figures of a checkpoint with `saved_settings` incomparable with the config's."""
    now = config.fingerprint()
    return next((key for key in _MEASURES if not _agree(key, _at(saved_settings, key), _at(now, key))), None)


# Stands for a setting without a value: an older checkpoint has fewer, and settings without effect are left out.
_UNNAMED = object()


def _at(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = settings.get(part, _UNNAMED) if isinstance(settings, dict) else _UNNAMED
    return settings


def _agree(key: str, before: Any, now: Any) -> bool:
    """Whether two settings are equal, as far as both the checkpoint and the config have them."""
    if isinstance(before, dict) and isinstance(now, dict) and key not in KEYS_OF_THE_USER:
        return all(_agree(f"{key}.{part}", before[part], now[part]) for part in now.keys() & before.keys())
    return before is _UNNAMED or now is _UNNAMED or before == now


def _optional(value: Any, name: str, source: Source, least: float = -math.inf) -> float | None:
    return None if value is None else form.number(value, name, source, least)


def _checked_start(value: Any, epoch: int, source: Source) -> StartFigures | None:
    """The figures that a training started with; None where the checkpoint has none."""
    if isinstance(value, dict) and not value:
        return None
    start = form.mapping(value, _START, "start", source)
    return {
        "epoch": form.count(start["epoch"], "start.epoch", source, most=epoch),
        "viability_score": form.number(start["viability_score"], "start.viability_score", source, 0, 1),
        "noise_loss": form.number(start["noise_loss"], "start.noise_loss", source, 0),
    }


def new_train_state(unet: UNet, section: OptimizationSection, device: torch.device) -> TrainState:
    """State before the first step: the EMA equals the UNet, and the optimizer is new."""
    unet = unet.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]  # torch omits it
    ema = copy.deepcopy(unet).eval().requires_grad_(False)
    optimizer = AdamW(
        unet.parameters(),
        lr=section.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=section.weight_decay,
        fused=True,
    )
    return TrainState(unet, ema, optimizer)
