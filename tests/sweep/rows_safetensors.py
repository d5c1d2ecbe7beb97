"""Checkpoints as safetensors files that are damaged, odd, or not what a SHA256SUMS beside them says."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save

from core.checkpoints.loading import load_autoencoder, load_checkpoint, load_unet
from tests.sweep.ground import Ground, Row

TITLE = "Checkpoints as safetensors"

_NAME = "given.safetensors"
Weights = dict[str, torch.Tensor]


def _unet(ground: Ground) -> tuple[Weights, dict[str, Any]]:
    made = load_checkpoint(ground.config.diffusion.stage2_checkpoint, "checkpoint")
    weights = {name: value for name, value in made["state_dict"].items() if name.startswith("unet_ema.")}
    return weights, {"scheduler": made["config"]["scheduler"]}


def _autoencoder(ground: Ground) -> tuple[Weights, dict[str, Any]]:
    made = load_checkpoint(ground.config.autoencoder.checkpoint, "checkpoint")
    return {name: value.contiguous() for name, value in made["state_dict"].items()}, made["config"]


def _gives(
    load: Callable[..., Any] = load_unet,
    weights: Callable[[Weights], Weights] = lambda weights: weights,
    metadata: Callable[[dict[str, Any]], dict[str, str] | None] = lambda config: {"config": json.dumps(config)},
    data: Callable[[bytes], bytes] = lambda data: data,
    listed: str | None = None,
) -> Callable[[Ground], Any]:
    """Load a checkpoint of the tiny model after these changes; `listed` is the line of its SHA256SUMS."""

    def give(ground: Ground) -> Any:
        tensors, config = (_unet if load is load_unet else _autoencoder)(ground)
        content = data(save(weights(tensors), metadata(config)))
        path = ground.file(_NAME, content)
        if listed is not None:
            ground.file("SHA256SUMS", listed.format(sha256=hashlib.sha256(content).hexdigest()))
        return load(path, ground.config)

    return give


def _with(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: change(weights[name])}


_BIAS = "unet_ema.conv_in.bias"
_NONE = "0" * 64
ROWS = [
    *(
        Row("UNet", given, _gives(data=data), (_NAME, *words))
        for given, data, words in [
            ("half of the file", lambda d: d[: len(d) // 2], ("a damaged safetensors file: replace it",)),
            ("a file with more bytes than its header says", lambda d: d + b"\0", ("a damaged safetensors file",)),
            ("a header longer than the file", lambda d: (2**40).to_bytes(8, "little") + d[8:], ("damaged",)),
            ("an empty file", lambda d: b"", ("not a safetensors file", "empty")),
            ("text", lambda d: b"hello world, hello world\n", ("damaged or not a safetensors file: replace it",)),
            ("a web page", lambda d: b"<!doctype html><p>", ("a web page", "download the file itself")),
            ("a pointer of Git LFS", lambda d: b"version https://git-lfs.github.com/spec/v1\n", ("git lfs pull",)),
        ]
    ),
    *(
        Row("UNet", given, _gives(weights=weights), (_NAME, *words))
        for given, weights, words in [
            ("weights that are NaN", _with(_BIAS, lambda w: w * torch.nan), ("conv_in.bias", "not finite")),
            ("a weight of another shape", _with(_BIAS, lambda w: w[:3]), ("conv_in.bias is [3] in the file and [16]",)),
            ("weights of whole numbers", _with(_BIAS, lambda w: w.long()), ("conv_in.bias", "int64")),
            ("complex weights", _with(_BIAS, lambda w: torch.complex(w, w)), ("refused", "complex64", "conv_in.bias")),
            ("weights in 8 bits", _with(_BIAS, lambda w: w.to(torch.float8_e4m3fn)), ("refused", "float8_e4m3fn")),
            ("no weights", lambda w: {}, ("another architecture", "missing")),
        ]
    ),
    *(
        Row("UNet", given, _gives(metadata=metadata), (_NAME, *words))
        for given, metadata, words in [
            ("no metadata", lambda c: None, ("metadata hold no config", "tasks.export_base")),
            ("metadata of another program", lambda c: {"format": "pt"}, ("metadata hold no config",)),
            ("a config that is not JSON", lambda c: {"config": "{"}, ("metadata hold no config",)),
            ("a config that is nested too deeply", lambda c: {"config": "[" * 10**5}, ("metadata hold no config",)),
            ("a config that is a list", lambda c: {"config": "[]"}, ("is not a checkpoint",)),
            (
                "trained on other noise levels",
                lambda c: {"config": json.dumps({"scheduler": c["scheduler"] | {"num_steps": 1000}})},
                ("scheduler.num_steps", "100"),
            ),
        ]
    ),
    Row(
        "autoencoder",
        "of other latents",
        _gives(load_autoencoder, metadata=lambda c: {"config": json.dumps(c | {"latent_channels": 8})}),
        (_NAME, "latent_channels 8", "autoencoder.latent_channels is 4"),
    ),
    Row(
        "UNet",
        "another file than SHA256SUMS lists",
        _gives(listed=f"{_NONE}  {_NAME}\n"),
        (_NAME, "SHA256SUMS lists", "changed or damaged", "git checkout", "make it again"),
    ),
    Row(
        "UNet",
        "half of a file that SHA256SUMS lists",
        _gives(data=lambda d: d[: len(d) // 2], listed=f"{_NONE} *{_NAME}\n"),
        (_NAME, "SHA256SUMS lists", "git checkout"),
    ),
    *(
        Row("UNet", given, _gives(listed=listed), meaning=meaning)
        for given, listed, meaning in [
            ("the file that SHA256SUMS lists", f"{{sha256}}  {_NAME}\n", "the model"),
            ("a SHA256SUMS with line ends of Windows", f"{{sha256}}  {_NAME}\r\n", "the model"),
            ("a SHA256SUMS of other files", f"{_NONE}  other-{_NAME}\n", "the model"),
            ("a SHA256SUMS that is something else", "hello\0\n", "the model"),
        ]
    ),
    Row("UNet", "weights in half precision", _gives(weights=_with(_BIAS, lambda w: w.half())), meaning="converted"),
    Row("autoencoder", "as it was exported", _gives(load_autoencoder), meaning="the model"),
]
