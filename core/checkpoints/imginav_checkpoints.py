"""Checkpoints of ImgiNav: recognised, refused if they cannot be used here, and read into settings and weights."""

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from core.inputs import state_form as form
from core.inputs.locations import Location
from core.inputs.state_form import with_prefix
from core.networks.imginav_autoencoder import CLASSES, ImgiNavSizes
from core.runtime.errors import InputError

log = logging.getLogger(__name__)

_PREFIXES = ("unet.", "unet_ema.", "decoder.", "scheduler.")
# Bounds of sizes: no model exceeds them.
_Size = Annotated[int, Field(ge=1, le=2**16, strict=True)]
_Halvings = Annotated[int, Field(ge=1, le=12, strict=True)]
# Files from before schedules were saved clamp beta to this; all others hold their schedule.
_HIGHEST_BETA_BEFORE = 0.999
# The names here of heads of a decoder, by their types.
_HEADS = {"RGBHead": "rgb", "SegmentationHead": "segmentation"}
# As ImgiNav writes pi.
_PI = 3.14159
_MOST_STEPS = 10_000


class _Saved(BaseModel):
    """A part of the config in a checkpoint. It may hold more keys than are used here."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _UNet(_Saved):
    type: Literal["Unet", "DualUNet"] = "Unet"
    in_channels: _Size = 3
    out_channels: _Size = 3
    base_channels: _Size = 64
    depth: _Halvings = 4
    num_res_blocks: int = Field(1, ge=1, le=1024, strict=True)
    time_dim: _Size = 128
    norm_groups: _Size = 8
    dropout: float = Field(0.0, ge=0, lt=1)


class _Scheduler(_Saved):
    type: str = "CosineScheduler"
    num_steps: int = Field(1000, ge=2, le=_MOST_STEPS, strict=True)


class _Head(_Saved):
    type: str
    name: str
    out_channels: int | None = None
    norm_groups: _Size = 8


class _Decoder(_Saved):
    latent_channels: _Size
    base_channels: _Size
    upsampling_steps: _Halvings
    activation: Literal["SiLU"] = "SiLU"
    norm_groups: _Size = 8
    heads: tuple[_Head, ...]


class _Encoder(_Saved):
    in_channels: Literal[3] = 3
    latent_channels: _Size
    base_channels: _Size
    downsampling_steps: _Halvings
    activation: Literal["SiLU"] = "SiLU"
    norm_groups: _Size = 8


_Part = TypeVar("_Part", bound=_Saved)


class ImgiNavDiffusion(NamedTuple):
    """What a diffusion checkpoint of ImgiNav holds.

    `settings` are values by dotted key of a config. `weights` are those of the UNet, which the file has under `prefix`.
    `decoder` are the weights of its decoder, under the names of `imginav_autoencoder`.
    """

    settings: dict[str, Any]
    weights: dict[str, Tensor]
    prefix: str
    decoder: dict[str, Tensor]


def is_imginav_diffusion(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a loaded checkpoint is of ImgiNav's diffusion model, rather than of this project."""
    return _has_key(checkpoint, "unet.time_mlp.") and "dataset" not in checkpoint["config"]


def is_imginav_autoencoder(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a loaded checkpoint is of ImgiNav's autoencoder, rather than of this project."""
    return isinstance(checkpoint["config"].get("encoder"), dict)


def is_imginav_discriminator(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a loaded checkpoint is of ImgiNav's discriminator."""
    return bool(checkpoint["config"].get("type") == "LatentDiscriminator")


def read_diffusion(checkpoint: Mapping[str, Any], path: Location, is_stage1: bool = False) -> ImgiNavDiffusion:
    """The settings and weights of a diffusion checkpoint; InputError, with the reason, for one that cannot be used.

    ImgiNav's later stages never update the EMA that their files may hold, so it is used only where the file is of
    Stage 1: `is_stage1`, or the file has no history of a training, as only those of Stage 1 do.
    """
    weights: dict[str, Tensor] = checkpoint["state_dict"]
    _require_supported(checkpoint["config"], weights, path)
    unet = _section(_UNet, checkpoint["config"].get("unet", {}), "unet", path)
    if unet.in_channels != unet.out_channels:
        raise InputError(
            f"checkpoint {path} has unet.in_channels {unet.in_channels} and out_channels {unet.out_channels}: only "
            "models that predict noise of the latent's shape can be used"
        )
    betas = _betas(checkpoint, path)
    settings = {f"unet.{name}": value for name, value in unet.model_dump().items()} | {"unet.type": "Unet"}
    settings |= {
        "scheduler.num_steps": len(betas),
        "scheduler.trained_betas": tuple(betas.tolist()),
        "scheduler.prediction_type": "epsilon",
    }
    uses_ema = _has_key(checkpoint, "unet_ema.") and (is_stage1 or "training_history" not in checkpoint)
    prefix = "unet_ema." if uses_ema else "unet."
    decoder = with_prefix(weights, "decoder.")
    if decoder and isinstance(checkpoint["config"].get("decoder"), dict):
        decoder = _renamed_heads(decoder, _section(_Decoder, checkpoint["config"]["decoder"], "decoder", path))
    return ImgiNavDiffusion(settings, with_prefix(weights, prefix), prefix, decoder)


def read_autoencoder(checkpoint: Mapping[str, Any], path: Location) -> tuple[ImgiNavSizes, dict[str, Tensor]]:
    """Sizes and weights of an autoencoder's checkpoint, under the names of `imginav_autoencoder`.

    Raises InputError, with the reason, for one that cannot be used.
    """
    weights: dict[str, Tensor] = checkpoint["state_dict"]
    encoder = _section(_Encoder, checkpoint["config"]["encoder"], "encoder", path)
    decoder = _section(_Decoder, checkpoint["config"].get("decoder", {}), "decoder", path)
    if (encoder.latent_channels, encoder.downsampling_steps) != (decoder.latent_channels, decoder.upsampling_steps):
        raise InputError(
            f"autoencoder checkpoint {path} has an encoder to {encoder.latent_channels} channels at 1/2^"
            f"{encoder.downsampling_steps} and a decoder from {decoder.latent_channels} at 1/2^"
            f"{decoder.upsampling_steps}: give one whose two parts belong together"
        )
    rgb, segmentation = (_head(decoder, kind, path) for kind in ("RGBHead", "SegmentationHead"))
    classes = segmentation.out_channels
    if classes not in (CLASSES, CLASSES + 1):
        raise InputError(
            f"autoencoder checkpoint {path} has {classes} classes; the palette has {CLASSES}, or "
            f"{CLASSES + 1} with floor: give one of these"
        )
    sizes = ImgiNavSizes(
        latent_channels=encoder.latent_channels,
        steps=encoder.downsampling_steps,
        encoder_channels=encoder.base_channels,
        encoder_groups=encoder.norm_groups,
        decoder_channels=decoder.base_channels,
        decoder_groups=decoder.norm_groups,
        head_groups=(rgb.norm_groups, segmentation.norm_groups),
        num_classes=classes,
        is_normalised=_has_key(checkpoint, "encoder.latent_normalizer."),
    )
    last = 6 * sizes.steps + 3
    encoded = {_encoder_name(key, last): value for key, value in with_prefix(weights, "encoder.").items()}
    kept = {f"encoder.{name}": value for name, value in encoded.items() if not name.startswith("logvar_head.")}
    decoded = _renamed_heads(with_prefix(weights, "decoder."), decoder)
    return sizes, kept | {f"decoder.{name}": value for name, value in decoded.items()}


def _encoder_name(key: str, last: int) -> str:
    """A weight's name in the encoder of `imginav_autoencoder`; `last` is the place of the last layer in a sequence."""
    part, _, rest = key.partition(".")
    number, _, kind = rest.partition(".")
    if part == "encoder":
        return f"latent_proj.{kind}" if number == str(last) else f"feature_extractor.{rest}"
    return f"latent_proj.{rest}" if part == "mu_head" else key


def _renamed_heads(weights: Mapping[str, Tensor], decoder: _Decoder) -> dict[str, Tensor]:
    """Weights of a decoder with its heads under the names `rgb` and `segmentation`, without other heads."""
    names = {head.name: _HEADS.get(head.type) for head in decoder.heads}
    found = {}
    for key, value in weights.items():
        part, _, rest = key.partition(".")
        head, _, name = rest.partition(".")
        if part != "heads":
            found[key] = value
        elif (known := names.get(head, head)) is not None:
            found[f"heads.{known}.{name}"] = value
    return found


def _head(decoder: _Decoder, kind: str, path: Location) -> _Head:
    found = next((head for head in decoder.heads if head.type == kind), None)
    if found is None:
        raise InputError(
            f"autoencoder checkpoint {path} has no {kind}: pictures and classes of a layout come from a decoder that "
            "has both heads"
        )
    return found


def _require_supported(config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Location) -> None:
    """InputError, with the reason, for a diffusion model of a kind that cannot be used here."""
    unet = config.get("unet")
    kind = unet.get("type") if isinstance(unet, dict) else None
    if kind == "UnetWithAttention" or any(key.startswith("unet") and ".attention." in key for key in weights):
        raise _refused(path, "has attention in its UNet", "its type UnetWithAttention is not read; give a plain Unet")
    if isinstance(unet, dict) and unet.get("cond_channels", 0) != 0:
        raise _refused(path, f"has unet.cond_channels {form.kind_of(unet['cond_channels'])}", "give one without")
    foreign = next((key for key in weights if not key.startswith(_PREFIXES)), None)
    if foreign is not None:
        raise _refused(
            path, f"holds {foreign[:80]}, so it depends on more than noise", "only unconditional models are read"
        )


def _refused(path: Location, what: str, remedy: str) -> InputError:
    return InputError(f"checkpoint {path} is of ImgiNav and {what}, which the rounds cannot train: {remedy}")


def _section(model: type[_Part], saved: Any, name: str, path: Location) -> _Part:
    try:
        return model.model_validate(saved)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join([name, *(str(part) for part in problem["loc"])])[:80]
        given = form.kind_of(problem["input"])
        if problem["type"] == "missing":
            raise InputError(f"checkpoint {path} cannot be read: its config does not give {key}") from None
        sentence = problem["msg"].replace("Input should", "it should")
        raise InputError(f"checkpoint {path} cannot be read: its config's {key} is {given}; {sentence}") from None


def _betas(checkpoint: Mapping[str, Any], path: Location) -> Tensor:
    """beta_t [T] float32 of the schedule that the model was trained with: the one in the file, where there is one."""
    section = _section(_Scheduler, checkpoint["config"].get("scheduler", {}), "scheduler", path)
    saved = checkpoint["state_dict"].get("scheduler.betas")
    if saved is None:
        log.info("checkpoint %s holds no schedule; it is computed as %s of its time", path, section.type)
        return imginav_betas(section.type, section.num_steps, _HIGHEST_BETA_BEFORE, path)
    fits = saved.ndim == 1 and 2 <= len(saved) <= _MOST_STEPS and form.is_plain(saved)
    if not fits or not ((saved > 0) & (saved < 1)).all():
        raise InputError(
            f"checkpoint {path} cannot be read: its scheduler.betas are {form.kind_of(saved)}, not a row of numbers "
            "between 0 and 1"
        )
    betas: Tensor = saved.float()
    return betas


def imginav_betas(kind: str, steps: int, highest: float, path: Location) -> Tensor:
    """beta_t [steps] float32 of ImgiNav's schedule `kind`, whose cosine is clamped to at most `highest`.

    InputError, which names the checkpoint at `path`, for an unknown kind.
    """
    s = torch.arange(steps + 1, dtype=torch.float32) / steps
    if kind == "LinearScheduler":
        return torch.linspace(1e-4, 0.02, steps)
    if kind == "QuadraticScheduler":
        return torch.linspace(1e-4**0.5, 0.02**0.5, steps) ** 2
    if kind == "CosineScheduler":
        signal = (torch.cos((s + 0.008) / 1.008 * _PI / 2) ** 2).clamp(1e-6, 1)
        return (1 - signal[1:] / signal[:-1]).clamp(1e-4, highest)
    if kind == "SquaredCosineScheduler":
        signal = torch.cos((s + 0.008) / 1.008 * _PI / 2) ** 4
        return (1 - signal[1:] / signal[:-1]).clamp(0, _HIGHEST_BETA_BEFORE)
    if kind == "ExponentialScheduler":
        signal = torch.exp(-10 * torch.arange(steps + 1, dtype=torch.float32) / steps).clamp(1e-6, 1)
        return (1 - signal[1:] / signal[:-1]).clamp(1e-4, _HIGHEST_BETA_BEFORE)
    if kind == "SigmoidScheduler":
        rising = torch.sigmoid(torch.linspace(-6, 6, steps))
        signal = ((rising - rising[0]) / (rising[-1] - rising[0])).flip(0)
        beta = torch.cat([1 - signal[:1], 1 - signal[1:] / signal[:-1]])
        return beta.clamp(0, _HIGHEST_BETA_BEFORE)
    raise InputError(f"checkpoint {path} has a schedule of the unknown kind {kind[:40]}: give one that holds its betas")


def _has_key(checkpoint: Mapping[str, Any], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in checkpoint["state_dict"])
