"""Checkpoint files of discriminators."""

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from core.checkpoints.autoencoder_sizes import SavedSize
from core.checkpoints.imginav_checkpoints import is_imginav_discriminator
from core.checkpoints.loading import find_checkpoint, first_problem, frozen_model, load_checkpoint, plain
from core.inputs import state_form as form
from core.inputs.locations import Location
from core.inputs.section import Section
from core.inputs.tensor_files import save_tensors
from core.models.discriminator import LatentDiscriminator
from core.runtime.errors import InputError


class DiscriminatorSizes(Section):
    """The sizes in the config of a discriminator's checkpoint: the arguments of its constructor."""

    latent_channels: SavedSize
    latent_size: SavedSize
    base_channels: SavedSize = 48
    dropout: float = Field(0.1, ge=0, lt=1)


def save_discriminator(model: LatentDiscriminator, config: dict[str, Any], scores: dict[str, Any], path: Path) -> None:
    """Write a discriminator checkpoint; `config` holds the arguments of its constructor."""
    save_tensors({"state_dict": model.state_dict(), "config": config, **scores}, path)


def load_discriminator(path: Location, shape: tuple[int, int, int]) -> LatentDiscriminator:
    """Frozen discriminator of the checkpoint at `path`; InputError if it is for latents of another `shape`."""
    path = find_checkpoint(path)
    checkpoint = load_checkpoint(path, "discriminator checkpoint")
    if is_imginav_discriminator(checkpoint):
        raise InputError(
            f"discriminator {path} is ImgiNav's, which knows no noise level: make one from its latents with "
            "tasks.retrain_discriminator"
        )
    sizes = {key: plain(value) for key, value in checkpoint["config"].items()}
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
            f"discriminator {path} has another architecture ({first_problem(error)}): retrain the discriminator"
        ) from None
    return frozen_model(lambda: LatentDiscriminator(**section.model_dump()), checkpoint["state_dict"], path)
