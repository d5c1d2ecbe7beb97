"""A model as a diffusion checkpoint of ImgiNav: its UNet, the autoencoder's decoder and the schedule in one file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.checkpoints.diffusers_folders import is_model_folder
from core.checkpoints.imginav_checkpoints import is_imginav_autoencoder
from core.checkpoints.loading import load_checkpoint
from core.config.experiment import ExperimentConfig
from core.inputs.locations import Location
from core.inputs.state_form import with_prefix
from core.inputs.tensor_files import save_tensors
from core.models.diffusion import build_scheduler
from core.networks.imginav_unet import unet_sizes
from core.networks.unet import UNet
from core.runtime.errors import InputError

IMGINAV = "imginav"


def imginav_name(experiment: str) -> str:
    """Name of the file of an experiment, as ImgiNav calls its own."""
    return f"{experiment}_checkpoint_best.pt"


def read_decoder(config: ExperimentConfig, autoencoder: Path, shown: Location) -> Mapping[str, Any]:
    """The autoencoder's checkpoint for `write_imginav`; errors call it `shown`.

    InputError if ImgiNav cannot hold a model of this config: its network, prediction or decoder is another.
    """
    if config.unet.type != "Unet":
        raise InputError(
            f"--form {IMGINAV} holds ImgiNav's Unet, and this model is a {config.unet.type}: give --form diffusers"
        )
    if config.scheduler.prediction_type != "epsilon":
        raise InputError(
            f"--form {IMGINAV} holds a model that predicts epsilon, and this one predicts "
            f"{config.scheduler.prediction_type}: give --form diffusers"
        )
    checkpoint = {} if is_model_folder(autoencoder) else load_checkpoint(autoencoder, "autoencoder checkpoint")
    if not checkpoint or not is_imginav_autoencoder(checkpoint):
        raise InputError(
            f"--form {IMGINAV} holds the decoder too, and that of autoencoder {shown} is not ImgiNav's: give --form "
            "diffusers"
        )
    return checkpoint


def write_imginav(unet: UNet, autoencoder: Mapping[str, Any], config: ExperimentConfig, path: Path) -> None:
    """Write the UNet as such a checkpoint to `path`; `autoencoder` is what `read_decoder` gave.

    The decoder's weights have the names that they have there. ImgiNav's Stage 3 keeps no EMA, so `unet.*` are the
    weights to draw with.
    """
    scheduler = build_scheduler(config.scheduler)
    weights = {f"unet.{name}": value for name, value in unet.state_dict().items()}
    decoder = with_prefix(autoencoder["state_dict"], "decoder.")
    weights |= {f"decoder.{name}": value for name, value in decoder.items()}
    weights |= {
        "scheduler.betas": scheduler.betas,
        "scheduler.alphas": scheduler.alphas,
        "scheduler.alpha_bars": scheduler.alphas_cumprod,
    }
    settings = {
        "type": "DiffusionModel",
        "unet": {
            "type": "Unet",
            **unet_sizes(config.unet),
            "cond_channels": 0,
            "fusion_mode": "none",
        },
        "scheduler": {"type": config.scheduler.type, "num_steps": config.scheduler.num_steps},
        "decoder": autoencoder["config"].get("decoder", {}),
    }
    save_tensors({"state_dict": weights, "config": settings}, path)
