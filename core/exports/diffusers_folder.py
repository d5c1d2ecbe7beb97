"""A model as a folder of diffusers' `DiffusionPipeline`, with the few Python files that its parts need."""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from diffusers import __version__ as diffusers_version
from torch import Tensor

from core.config.experiment import ExperimentConfig
from core.data.palette import PALETTE
from core.inputs.safetensors_files import save_safetensors
from core.models.checkpoints import SizedAutoencoder
from core.models.diffusion import build_scheduler
from core.networks.imginav_autoencoder import FLOOR, ImgiNavSizes
from core.networks.imginav_unet import TIME_DIM
from core.networks.unet import UNet
from core.runtime.files import atomic_write, save_json

# What diffusers calls a model's weights and settings, and a pipeline's parts.
_WEIGHTS, _CONFIG, _INDEX = "diffusion_pytorch_model.safetensors", "config.json", "model_index.json"
# Modules of the folder `diffusers_files` beside this one. diffusers copies those of every folder that is loaded into
# one place, so each has a name of its own.
_PIPELINE, _DECODER, _IMGINAV_DECODER, _IMGINAV_UNET = (
    "layout_pipeline",
    "layout_decoder",
    "layout_imginav_decoder",
    "layout_imginav_unet",
)


def write_diffusers(
    unet: UNet, autoencoder: SizedAutoencoder, config: ExperimentConfig, steps: int, folder: Path
) -> None:
    """Write the pipeline of a UNet, the schedule of `config` and a decoder to `folder`; it draws in `steps` steps.

    `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` loads it, with no more than diffusers and torch.
    """
    decoder_module = _IMGINAV_DECODER if isinstance(autoencoder.sizes, ImgiNavSizes) else _DECODER
    parts = {"decoder": [decoder_module, "LayoutDecoder"], "scheduler": ["diffusers", "DDIMScheduler"]}
    if config.unet.type == "Unet":
        parts["unet"] = [_IMGINAV_UNET, "LayoutUNet"]
        unet_settings = _imginav_unet_settings(config)
    else:
        parts["unet"] = ["diffusers", "UNet2DModel"]
        unet_settings = _registered(unet)
    _write_part(unet.state_dict(), parts["unet"], unet_settings, folder / "unet")
    _write_part(
        autoencoder.model.decoder.state_dict(), parts["decoder"], _decoder_settings(autoencoder), folder / "decoder"
    )
    scheduler = _registered(build_scheduler(config.scheduler))
    save_json(_headed("DDIMScheduler", scheduler), folder / "scheduler" / "scheduler_config.json")
    _write_module(_PIPELINE, folder)
    save_json(_headed([_PIPELINE, "LayoutPipeline"], {"default_steps": steps, **parts}), folder / _INDEX)


def _write_part(weights: Mapping[str, Tensor], kind: list[str], settings: Mapping[str, Any], folder: Path) -> None:
    """Write a model of the class `kind`, a module and a name in it, to its folder of the pipeline."""
    module, name = kind
    save_json(_headed(name, settings), folder / _CONFIG)
    save_safetensors(weights, "format", "pt", folder / _WEIGHTS)
    if module != "diffusers":
        _write_module(module, folder)


def _write_module(name: str, folder: Path) -> None:
    source = resources.files(__package__).joinpath("diffusers_files", f"{name}.py")
    with atomic_write(folder / f"{name}.py") as file:
        file.write(source.read_bytes())


def _headed(class_name: str | list[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"_class_name": class_name, "_diffusers_version": diffusers_version, **settings}


def _registered(part: Any) -> dict[str, Any]:
    """The settings of a part of diffusers, without those that it marks as its own."""
    settings: dict[str, Any] = json.loads(part.to_json_string())
    return {name: value for name, value in settings.items() if not name.startswith("_")}


def _imginav_unet_settings(config: ExperimentConfig) -> dict[str, Any]:
    section = config.unet
    names = ("in_channels", "out_channels", "base_channels", "depth", "num_res_blocks", "norm_groups", "dropout")
    settings = {name: getattr(section, name) for name in names}
    return settings | {"sample_size": config.latent_size, "time_dim": section.time_dim or TIME_DIM}


def _decoder_settings(autoencoder: SizedAutoencoder) -> dict[str, Any]:
    sizes = autoencoder.sizes
    palette = {"class_names": list(PALETTE), "colours": [list(colour) for colour in PALETTE.values()]}
    if not isinstance(sizes, ImgiNavSizes):
        return {
            "latent_channels": sizes.latent_channels,
            "base_channels": sizes.base_channels,
            "upsampling_steps": sizes.downsampling_steps,
            "max_channels": sizes.max_channels,
            **palette,
        }
    rgb_groups, segmentation_groups = sizes.head_groups
    return {
        "latent_channels": sizes.latent_channels,
        "base_channels": sizes.decoder_channels,
        "upsampling_steps": sizes.steps,
        "norm_groups": sizes.decoder_groups,
        "rgb_groups": rgb_groups,
        "segmentation_groups": segmentation_groups,
        "is_normalised": sizes.is_normalised,
        "unused_class": FLOOR if sizes.num_classes > len(PALETTE) else None,
        **palette,
    }
