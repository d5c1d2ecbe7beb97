"""Which device a run computes on."""

import torch

from core.errors import InputError


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


def needs_gpu(name: str) -> bool:
    """Whether the device called `name` is a GPU on this machine."""
    return pick_device(name).type == "cuda"
