"""Which device a run computes on."""

import resource

import torch

from core.runtime.errors import InputError


def pick_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the GPU if there is one. InputError if it is not available."""
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
    """bfloat16 if it is `wanted` and the device multiplies it faster than fp32; None otherwise."""
    if device.type == "cpu":
        # Older versions of torch do not have it.
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        native = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    else:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if wanted and native else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """A context in which matrix products and convolutions use `dtype`, if it is given. Weights keep their own."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def memory_format(device: torch.device) -> torch.memory_format:
    """The layout in memory that makes convolutions fastest: channels last on a GPU, contiguous on a CPU."""
    return torch.contiguous_format if device.type == "cpu" else torch.channels_last


def room_for_data(device: torch.device) -> int:
    """Bytes of GPU memory that data may use: half of the free memory. 0 on a CPU, which has the file cache."""
    return 0 if device.type == "cpu" else torch.cuda.mem_get_info(device)[0] // 2


def needs_gpu(name: str) -> bool:
    """Whether the device called `name` is a GPU on this machine."""
    return pick_device(name).type == "cuda"


def peak_memory(device: torch.device) -> int:
    """The most bytes that the tensors on a GPU have taken so far; on a CPU, that this process has."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
