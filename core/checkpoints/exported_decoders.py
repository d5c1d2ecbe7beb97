"""Decoders in the pipelines that this project exports, read back: sizes in their config, weights beside it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from core.checkpoints.autoencoder_sizes import AutoencoderSizes, SavedHalvings, SavedSize, build_autoencoder
from core.checkpoints.building import checked_for
from core.data.palette import Palette
from core.inputs import state_form as form
from core.networks.autoencoder import Autoencoder
from core.networks.imginav_autoencoder import CLASSES, FLOOR, ImgiNavSizes, imginav_autoencoder
from core.runtime.errors import InputError

# Name of the class of each of them.
DECODER_CLASS = "LayoutDecoder"


class ExportedDecoder(NamedTuple):
    """An autoencoder whose encoder may refuse to work, since the export has none; `sizes` as in its own checkpoint."""

    model: Autoencoder
    latent_channels: int
    halvings: int
    sizes: AutoencoderSizes | ImgiNavSizes | None


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _Own(_Config):
    latent_channels: SavedSize
    base_channels: SavedSize
    upsampling_steps: SavedHalvings
    max_channels: SavedSize


class _ImgiNav(_Config):
    latent_channels: SavedSize
    base_channels: SavedSize
    upsampling_steps: Annotated[int, Field(ge=1, le=12, strict=True)]
    norm_groups: SavedSize
    rgb_groups: SavedSize
    segmentation_groups: SavedSize
    is_normalised: bool
    unused_class: int | None


class _NoEncoder(nn.Module):
    """In place of the encoder that a file lacks."""

    def __init__(self, part: Path):
        super().__init__()
        self._part = part

    def forward(self, rgb: Tensor) -> Tensor:
        raise InputError(
            f"{self._part} is a decoder alone, which draws but cannot encode layouts: set autoencoder.checkpoint to "
            "the autoencoder that it is of"
        )


def read_exported_decoder(
    config: Mapping[str, Any], weights: dict[str, Tensor], part: Path, palette: Palette
) -> ExportedDecoder:
    """The decoder in the folder `part` of a pipeline of the palette's classes; InputError if it is damaged."""
    try:
        if "is_normalised" in config:
            return _of_imginav(_ImgiNav.model_validate(config), weights, part)
        return _own(_Own.model_validate(config), weights, part, palette)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name, given = ".".join(map(str, problem["loc"]))[:80], form.kind_of(problem["input"])
        raise InputError(
            f"{part} is no decoder: its config's {name} is {given} ({problem['msg']}): export it again"
        ) from None


def _own(saved: _Own, weights: dict[str, Tensor], part: Path, palette: Palette) -> ExportedDecoder:
    sizes = AutoencoderSizes(
        latent_channels=saved.latent_channels,
        base_channels=saved.base_channels,
        downsampling_steps=saved.upsampling_steps,
        max_channels=saved.max_channels,
    )
    model = _decoder_alone(lambda: build_autoencoder(sizes, palette), weights, part)
    return ExportedDecoder(model, saved.latent_channels, saved.upsampling_steps, sizes)


def _of_imginav(saved: _ImgiNav, weights: dict[str, Tensor], part: Path) -> ExportedDecoder:
    if saved.unused_class not in (None, FLOOR):
        raise InputError(f"{part} leaves out class {saved.unused_class}, which is not floor: export it again")
    sizes = ImgiNavSizes(
        latent_channels=saved.latent_channels,
        steps=saved.upsampling_steps,
        encoder_channels=1,  # of the encoder, which is not there
        encoder_groups=1,
        decoder_channels=saved.base_channels,
        decoder_groups=saved.norm_groups,
        head_groups=(saved.rgb_groups, saved.segmentation_groups),
        num_classes=CLASSES + (saved.unused_class is not None),
        is_normalised=saved.is_normalised,
    )
    model = _decoder_alone(lambda: imginav_autoencoder(sizes), weights, part)
    return ExportedDecoder(model, saved.latent_channels, saved.upsampling_steps, sizes)


def _decoder_alone(build: Callable[[], Autoencoder], weights: dict[str, Tensor], part: Path) -> Autoencoder:
    """The decoder of an autoencoder. Memory is only allocated once the weights are known to fit."""
    fault = "no decoder has the sizes of its config"
    checked = checked_for(lambda: build().decoder, weights, part, fault, "export it again")
    with torch.random.fork_rng(devices=[]):
        decoder = build().decoder
    decoder.load_state_dict(checked)
    return Autoencoder(_NoEncoder(part), decoder)
