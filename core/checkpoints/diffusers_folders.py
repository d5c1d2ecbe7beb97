"""Folders that diffusers' `save_pretrained` writes: a pipeline, or its UNet or autoencoder alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel, VQModel
from pydantic import ValidationError
from torch import Tensor, nn

from core.checkpoints.autoencoder_sizes import AutoencoderSizes
from core.checkpoints.building import checked_for
from core.checkpoints.exported_decoders import DECODER_CLASS, read_exported_decoder
from core.config.model_sections import UNetSection
from core.data.palette import Palette
from core.inputs import state_form as form
from core.inputs.config_keys import first_problem
from core.inputs.locations import Location
from core.inputs.safetensors_files import load_safetensors
from core.inputs.state_form import are_weights
from core.inputs.tensor_files import load_tensors
from core.networks.autoencoder import Autoencoder
from core.networks.diffusers_autoencoder import kl_autoencoder, no_autoencoder, vq_autoencoder
from core.networks.imginav_autoencoder import ImgiNavSizes
from core.networks.imginav_unet import ImgiNavUNet, unet_sizes
from core.records.input_files import MODEL_CONFIGS
from core.runtime.errors import InputError
from core.runtime.files import open_input
from core.storage.store import is_file_name

(_PIPELINE, _CONFIG), _SCHEDULER = MODEL_CONFIGS, "scheduler_config.json"
# The names of weights in a folder, the preferred ones first; `index` files list parts.
_WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
)
_MOST_BYTES = 2**24
# Keys of a config that diffusers itself writes into it.
_PRIVATE = "_"
_PREDICTIONS = ("epsilon", "v_prediction", "sample")
# Class of a UNet of ImgiNav's kind in the pipelines that this project exports.
_IMGINAV_UNET = "LayoutUNet"
_AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}


class FolderDiffusion(NamedTuple):
    """What a folder says of its diffusion model: settings by dotted key of a config, and the weights of its UNet."""

    settings: dict[str, Any]
    weights: dict[str, Tensor]


class FolderAutoencoder(NamedTuple):
    """An autoencoder, frozen, with the sizes of its latents: channels, and how often the sides are halved.

    `sizes` are those of a decoder that this project exported, as a checkpoint names them; None for diffusers' own.
    """

    model: Autoencoder
    latent_channels: int
    halvings: int
    sizes: AutoencoderSizes | ImgiNavSizes | None = None


def is_model_folder(path: Location) -> bool:
    """Whether `path` is a folder of this machine that diffusers wrote."""
    return any(Path(path, name).is_file() for name in MODEL_CONFIGS)


def is_pipeline(folder: Location) -> bool:
    """Whether `folder` is that of a whole pipeline."""
    return Path(folder, _PIPELINE).is_file()


def has_diffusion_model(folder: Path) -> bool:
    """Whether the folder of a model holds a UNet, not an autoencoder or decoder alone."""
    return is_pipeline(folder) or "UNet" in str(_read_json(folder / _CONFIG).get("_class_name"))


def has_exported_decoder(folder: Path) -> bool:
    """Whether the folder of a model holds a decoder that this project exported."""
    return _part(folder, DECODER_CLASS) is not None


def read_diffusion_folder(folder: Path) -> FolderDiffusion:
    """The UNet of a folder and the schedule beside it; InputError, with the reason, for a model that cannot be used."""
    exported = _part(folder, _IMGINAV_UNET)
    if exported is not None:
        return _read_imginav_unet(folder, exported)
    part = _part(folder, "UNet")
    if part is None:
        raise InputError(f"{folder} holds no UNet: give the folder of a pipeline, or that of its UNet2DModel")
    config = _config_of(part, "UNet2DModel")
    if config.get("num_class_embeds") is not None or config.get("class_embed_type") is not None:
        raise InputError(f"{part} is conditioned on classes: only unconditional models can be trained in rounds")
    channels, predicted = config.get("in_channels"), config.get("out_channels")
    if channels != predicted:
        raise InputError(
            f"{part} has in_channels {form.kind_of(channels)} and out_channels {form.kind_of(predicted)}: only models "
            "that predict something of their input's shape can be used"
        )
    settings: dict[str, Any] = {"unet.type": "UNet2DModel", "unet.config": config}
    settings |= {"unet.in_channels": channels, "unet.out_channels": channels}
    weights = _read_weights(part)
    _checked(lambda: UNet2DModel.from_config(config), weights, part)
    return FolderDiffusion(settings | _schedule(folder, part), weights)


def _read_imginav_unet(folder: Path, part: Path) -> FolderDiffusion:
    """A UNet of ImgiNav's kind in a pipeline that this project exported."""
    config = _config_of(part, _IMGINAV_UNET)
    try:
        section = UNetSection(type="Unet", **{name: config.get(name) for name in unet_sizes(UNetSection())})
    except ValidationError as error:
        raise InputError(f"{part}: {first_problem(error, UNetSection)}: export the model again") from None
    weights = _read_weights(part)
    _checked(lambda: ImgiNavUNet(section), weights, part)
    settings = {f"unet.{name}": value for name, value in unet_sizes(section).items()} | {"unet.type": "Unet"}
    return FolderDiffusion(settings | _schedule(folder, part), weights)


def sample_size(folder: Path) -> int | None:
    """Side of the square that the UNet of a folder draws, of latents or pictures; None if the folder does not say."""
    part = _part(folder, "UNet", _IMGINAV_UNET)
    size = None if part is None else _read_json(part / _CONFIG).get("sample_size")
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    return size if type(size) is int and size > 0 else None


def pipeline_steps(folder: Path) -> int | None:
    """Steps of the sampler that a pipeline takes if it is not told; None if its index does not say."""
    steps = _read_json(folder / _PIPELINE).get("default_steps") if is_pipeline(folder) else None
    return steps if type(steps) is int and steps > 0 else None


def read_autoencoder_folder(folder: Path, palette: Palette) -> FolderAutoencoder:
    """The autoencoder of a folder; for a pipeline without one, whose model is of pictures, the identity.

    Its classes are those of the palette; InputError if a pipeline that this project exported names others. The decoder
    of such a pipeline may stand alone: its encoder then raises InputError.
    """
    _refuse_other_classes(folder, palette)
    exported = _part(folder, DECODER_CLASS)
    if exported is not None:
        found = read_exported_decoder(_config_of(exported, DECODER_CLASS), _read_weights(exported), exported, palette)
        return FolderAutoencoder(found.model.eval().requires_grad_(False), *found[1:])
    part = _part(folder, "Autoencoder", "VQ")
    if part is None:
        unet = _part(folder, "UNet")
        channels = None if unet is None else _config_of(unet, "UNet2DModel").get("in_channels")
        if channels != 3:
            raise InputError(
                f"{folder} holds no autoencoder, and its model is not of RGB pictures: set autoencoder.checkpoint to "
                "the folder of the AutoencoderKL or VQModel that its latents are from"
            )
        return FolderAutoencoder(no_autoencoder(palette).eval(), 3, 0)
    config = _config_of(part, *_AUTOENCODERS)
    made = _AUTOENCODERS[config.pop("_class_name")]
    if (config.get("in_channels"), config.get("out_channels")) != (3, 3):
        raise InputError(f"{part} is not an autoencoder of RGB pictures: give one with 3 channels in and out")
    weights = _read_weights(part)
    checked = _checked(lambda: made.from_config(config), weights, part)
    model = made.from_config(config)
    model.load_state_dict(checked)
    model.eval().requires_grad_(False)
    widths, channels = config.get("block_out_channels"), config.get("latent_channels")
    if not isinstance(widths, list) or not isinstance(channels, int):
        raise InputError(f"{part}: its {_CONFIG} gives no block_out_channels and latent_channels")
    wrapped = kl_autoencoder(model, palette) if made is AutoencoderKL else vq_autoencoder(model, palette)
    return FolderAutoencoder(wrapped.eval(), channels, len(widths) - 1)


def _refuse_other_classes(folder: Path, palette: Palette) -> None:
    """InputError if a pipeline names the classes and colours of its layouts, and they are not those of the palette."""
    index = _read_json(folder / _PIPELINE) if is_pipeline(folder) else {}
    if "class_names" not in index:
        return
    named = (index["class_names"], index.get("colours"))
    if named != (list(palette.names), [list(colour) for colour in palette.colours]):
        raise InputError(
            f"{folder} draws other classes or colours than the palette has: set dataset.palette to those of its "
            f"{_PIPELINE}, or give another model"
        )


def _checked(build: Callable[[], nn.Module], weights: dict[str, Tensor], part: Path) -> dict[str, Tensor]:
    """`weights` checked for a model of diffusers; InputError if its config does not give one."""
    return checked_for(build, weights, part, f"diffusers cannot build the model of its {_CONFIG}", "correct it")


def _part(folder: Path, *kinds: str) -> Path | None:
    """The folder in or at `folder` of a model whose class begins with one of `kinds`; None if there is none."""
    if not is_pipeline(folder):
        return folder if str(_read_json(folder / _CONFIG).get("_class_name", "")).startswith(kinds) else None
    for name, made in _read_json(folder / _PIPELINE).items():
        is_model = isinstance(made, list) and len(made) == 2 and isinstance(made[1], str)
        if is_model and made[1].startswith(kinds) and is_file_name(name):
            return folder / name
    return None


def _config_of(part: Path, *classes: str) -> dict[str, Any]:
    """The config of a model, without what diffusers writes about itself; InputError if it is of another class."""
    config = _read_json(part / _CONFIG)
    name = config.get("_class_name")
    if name not in classes:
        raise InputError(
            f"{part} is a {form.kind_of(name)}, and only {' or '.join(classes)} can be used: give such a model"
        )
    kept = {key: value for key, value in config.items() if not key.startswith(_PRIVATE)}
    return kept if len(classes) == 1 else kept | {"_class_name": name}


def _schedule(folder: Path, part: Path) -> dict[str, Any]:
    """The settings of the schedule in a pipeline's folder, or beside a part of one; none if there is no such file."""
    places = [folder / "scheduler", part.parent / "scheduler", part]
    path = next((place / _SCHEDULER for place in places if (place / _SCHEDULER).is_file()), None)
    if path is None:
        return {}
    config = _read_json(path)
    if "beta_schedule" not in config or config.get("prediction_type", "epsilon") not in _PREDICTIONS:
        raise InputError(
            f"{path} is a {form.kind_of(config.get('_class_name'))}, which has no schedule of betas and prediction of "
            f"{', '.join(_PREDICTIONS)}: give a model that was trained with one"
        )
    if config.get("rescale_betas_zero_snr"):
        raise InputError(f"{path} has rescale_betas_zero_snr, so its last step has no signal, which losses divide by")
    known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    try:
        betas = DDIMScheduler(**{name: config[name] for name in known if name in config}).betas
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: diffusers cannot build its schedule ({str(error)[:200]}): correct it") from None
    return {
        "scheduler.num_steps": len(betas),
        "scheduler.trained_betas": tuple(betas.float().tolist()),
        "scheduler.prediction_type": config.get("prediction_type", "epsilon"),
    }


def _read_weights(part: Path) -> dict[str, Tensor]:
    """The weights in the folder of a model, in one file or in several that an index lists."""
    found = next((name for name in _WEIGHTS if (part / name).is_file()), None)
    if found is None:
        raise InputError(f"{part} holds no weights: it needs one of {', '.join(_WEIGHTS)}")
    if not found.endswith(".index.json"):
        return _read_file(part / found)
    listed = _read_json(part / found).get("weight_map")
    if not isinstance(listed, dict) or not all(
        isinstance(name, str) and is_file_name(name) for name in listed.values()
    ):
        raise InputError(f"{part / found} lists no files by weight: save the model again")
    weights: dict[str, Tensor] = {}
    for name in sorted(set(listed.values())):
        if not (part / name).is_file():
            raise InputError(f"{part / found} names {name}, which is not there: copy all files of the folder")
        weights |= _read_file(part / name)
    return weights


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".bin":
        return load_safetensors(path, "weights").tensors
    weights = load_tensors(path, "weights")
    if not are_weights(weights):
        raise InputError(f"weights {path} are not tensors by name: save the model again")
    assert isinstance(weights, dict)
    return weights


def _read_json(path: Path) -> dict[str, Any]:
    with open_input(path, "file") as file:
        text = file.read(_MOST_BYTES)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not form.is_plain_tree(value):
        raise InputError(f"{path} is not a config of diffusers: it holds no JSON object of plain values")
    return value
