"""A model as a folder of diffusers' `DiffusionPipeline`, with the few Python files that its parts need."""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from diffusers import __version__ as diffusers_version
from torch import Tensor

from core.checkpoints.loading import SizedAutoencoder
from core.config.experiment import ExperimentConfig
from core.inputs.safetensors_files import save_safetensors
from core.models.diffusion import build_scheduler
from core.networks.diffusers_autoencoder import DiffusersDecoder
from core.networks.imginav_autoencoder import CLASSES, FLOOR, ImgiNavSizes
from core.networks.imginav_unet import unet_sizes
from core.networks.unet import UNet
from core.runtime.files import atomic_write, save_json

_DIFFUSERS = "diffusers"
# What diffusers calls a model's weights and settings, and a pipeline's parts.
_WEIGHTS, _CONFIG, _INDEX = "diffusion_pytorch_model.safetensors", "config.json", "model_index.json"
# Modules of the folder `diffusers_files` beside this one. diffusers copies those of every folder that is loaded into
# one place, so each has a name of its own.
_PIPELINE, _IMGINAV_UNET = "layout_pipeline", "layout_imginav_unet"
_DECODER, _IMGINAV_DECODER = "layout_decoder", "layout_imginav_decoder"


def write_diffusers(
    unet: UNet, autoencoder: SizedAutoencoder, config: ExperimentConfig, steps: int, folder: Path
) -> None:
    """Write the pipeline of a UNet, the schedule of `config` and a decoder to `folder`; it draws in `steps` steps.

    `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` loads it, with no more than diffusers and torch.
    """
    parts = {"unet": _unet_part(unet, config), **_decoder_part(autoencoder)}
    for name, part in parts.items():
        _write_part(part, folder / name)
    scheduler = _registered(build_scheduler(config.scheduler))
    save_json(_headed("DDIMScheduler", scheduler), folder / "scheduler" / "scheduler_config.json")
    _write_module(_PIPELINE, folder)
    index: dict[str, Any] = {name: [part.module, part.name] for name, part in parts.items()}
    index |= {"scheduler": [_DIFFUSERS, "DDIMScheduler"], "default_steps": steps}
    palette = autoencoder.model.decoder.palette
    index |= {"class_names": list(palette.names), "colours": [list(colour) for colour in palette.colours]}
    save_json(_headed([_PIPELINE, "LayoutPipeline"], index), folder / _INDEX)


class _Part(NamedTuple):
    """A model of the pipeline: its class, as a module and a name in it, its settings and its weights."""

    module: str
    name: str
    settings: Mapping[str, Any]
    weights: Mapping[str, Tensor]


def _unet_part(unet: UNet, config: ExperimentConfig) -> _Part:
    if config.unet.type != "Unet":
        settings = _registered(unet) | {"sample_size": config.latent_size}
        return _Part(_DIFFUSERS, "UNet2DModel", settings, unet.state_dict())
    settings = unet_sizes(config.unet) | {"sample_size": config.latent_size}
    return _Part(_IMGINAV_UNET, "LayoutUNet", settings, unet.state_dict())


def _decoder_part(autoencoder: SizedAutoencoder) -> dict[str, _Part]:
    """What makes layouts of latents, by its name in the pipeline; none for a model of pictures."""
    decoder, sizes = autoencoder.model.decoder, autoencoder.sizes
    if isinstance(sizes, ImgiNavSizes):
        return {"decoder": _Part(_IMGINAV_DECODER, "LayoutDecoder", _imginav_settings(sizes), decoder.state_dict())}
    if sizes is not None:
        settings = {"base_channels": sizes.base_channels, "max_channels": sizes.max_channels}
        settings |= {"latent_channels": sizes.latent_channels, "upsampling_steps": sizes.downsampling_steps}
        settings |= {"num_classes": len(decoder.palette.names)}
        return {"decoder": _Part(_DECODER, "LayoutDecoder", settings, decoder.state_dict())}
    if not isinstance(decoder, DiffusersDecoder):
        return {}
    model = decoder.model
    return {"vae": _Part(_DIFFUSERS, type(model).__name__, _registered(model), model.state_dict())}


def _imginav_settings(sizes: ImgiNavSizes) -> dict[str, Any]:
    rgb_groups, segmentation_groups = sizes.head_groups
    return {
        "latent_channels": sizes.latent_channels,
        "base_channels": sizes.decoder_channels,
        "upsampling_steps": sizes.steps,
        "norm_groups": sizes.decoder_groups,
        "rgb_groups": rgb_groups,
        "segmentation_groups": segmentation_groups,
        "is_normalised": sizes.is_normalised,
        "num_classes": CLASSES,
        "unused_class": FLOOR if sizes.num_classes > CLASSES else None,
    }


def _write_part(part: _Part, folder: Path) -> None:
    save_json(_headed(part.name, part.settings), folder / _CONFIG)
    save_safetensors(part.weights, "format", "pt", folder / _WEIGHTS)
    if part.module != _DIFFUSERS:
        _write_module(part.module, folder)


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
