"""Which device a run computes on."""

import torch

from core.runtime.errors import InputError


def pick_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the GPU where there is one. InputError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name} is unknown: use auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name} is not supported: use auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {name} is not available on this machine: use auto or cpu")
    return device


def reduced_dtype(device: torch.device, wanted: bool) -> torch.dtype | None:
    """bfloat16 where it is `wanted` and the device multiplies it faster than fp32; None where it does not."""
    if device.type == "cpu":
        able = getattr(torch.cpu, "get_capabilities", dict)()
        native = able.get("avx512_bf16", False) or able.get("amx_bf16", False)
    else:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if wanted and native else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Matrix products and convolutions inside are computed in `dtype`, if there is one; weights stay as they are."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def memory_format(device: torch.device) -> torch.memory_format:
    """How maps lie in memory where convolutions are fastest: channels last on a GPU, not on a CPU with small ones."""
    return torch.contiguous_format if device.type == "cpu" else torch.channels_last


def room_for_data(device: torch.device) -> int:
    """Bytes of a GPU's memory that data may fill: half of what is free. 0 on a CPU, where files are cached anyway."""
    return 0 if device.type == "cpu" else torch.cuda.mem_get_info(device)[0] // 2


def needs_gpu(name: str) -> bool:
    """Whether the device called `name` is a GPU on this machine."""
    return pick_device(name).type == "cuda"
