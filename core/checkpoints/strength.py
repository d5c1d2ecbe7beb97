"""Models between two checkpoints and beyond: of the weights start + strength * (end - start)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from core.checkpoints.loading import find_checkpoint, load_unet
from core.config.experiment import ExperimentConfig
from core.inputs.locations import Location
from core.inputs.section import STRONGEST
from core.networks.unet import UNet
from core.runtime.errors import InputError


@dataclass(frozen=True)
class FromStart:
    """How far a model is from `start` on the way to a checkpoint: 0 is the start, 1 the checkpoint, 1.5 beyond."""

    start: Location
    strength: float


def choose_start(config: ExperimentConfig, start: Location | None, strength: float | None) -> FromStart | None:
    """The start and strength that a command was given; None without a strength.

    Without a start it is the config's Stage 2. InputError if there is none either, or for a start without a strength.
    """
    if strength is None:
        if start is not None:
            raise InputError("--start goes with --strength: give how far to go from it, such as --strength 0.5")
        return None
    start = config.diffusion.stage2_checkpoint if start is None else start
    if start is None:
        raise InputError(
            "--strength needs the model to start from: give --start CHECKPOINT, or set diffusion.stage2_checkpoint"
        )
    return FromStart(find_checkpoint(start), strength)


def model_inputs(checkpoint: Location, from_start: FromStart | None) -> dict[str, Location]:
    """The input files of a stage that takes the model of `checkpoint`, or one between a start and it, by name."""
    start = {} if from_start is None else {"start": find_checkpoint(from_start.start)}
    return {"diffusion": find_checkpoint(checkpoint), **start}


def load_model(paths: Mapping[str, Path], from_start: FromStart | None, config: ExperimentConfig) -> UNet:
    """The UNet of such a stage, from local paths of its `model_inputs`; errors as of `load_unet_from`."""
    if from_start is None:
        return load_unet(paths["diffusion"], config)
    return load_unet_from(paths["start"], paths["diffusion"], from_start.strength, config)


def load_unet_from(start: Location, end: Location, strength: float, config: ExperimentConfig) -> UNet:
    """UNet of the EMA weights start + strength * (end - start) of two diffusion checkpoints.

    It is exactly the start at 0 and the end at 1. Raises InputError for a strength that is not from 0 to 2, if one of
    the checkpoints does not fit the config, and if a weight would not be finite.
    """
    if not (math.isfinite(strength) and 0 <= strength <= STRONGEST):
        raise InputError(f"strength {strength}: it must be from 0 to {STRONGEST:g}")
    unet, other = load_unet(start, config), load_unet(end, config).state_dict()
    weights = {name: torch.lerp(value, other[name], strength) for name, value in unet.state_dict().items()}
    broken = next((name for name, value in weights.items() if not torch.isfinite(value).all()), None)
    if broken is not None:
        raise InputError(
            f"strength {strength} from {start} to {end} gives weights that are not finite, first in {broken}: give a "
            "smaller strength"
        )
    unet.load_state_dict(weights)
    return unet
