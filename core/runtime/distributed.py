"""The processes that torchrun started together: which this one is, and what they tell each other.

One process by itself is the first of one: nothing here then does or changes anything.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from core.runtime.device import pick_device
from core.runtime.errors import InputError

Value = TypeVar("Value")

# Others wait while the first makes trajectories or uploads; where one dies, torchrun ends the rest within a second.
_PATIENCE = timedelta(days=1)


def launched() -> int:
    """How many processes torchrun started together; 1 without it."""
    return _launched_as("WORLD_SIZE", 1)


def is_first() -> bool:
    """Whether this process is the one that writes, logs and reports."""
    return _launched_as("RANK", 0) == 0


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Work together with the other processes inside, on the device called `device`.

    Processes on GPUs talk over NCCL, on CPUs over Gloo.
    """
    if launched() == 1 or distributed.is_initialized():
        yield
        return
    here = own_device(device)
    backend = "gloo"
    if here.type == "cuda":
        torch.cuda.set_device(here)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    yield
    # Not after an error: others may still wait for this one, and torchrun ends them when it leaves.
    distributed.destroy_process_group()


def own_device(name: str) -> torch.device:
    """The device called `name`; among several processes on GPUs each has its own. InputError if there are too few."""
    device = pick_device(name)
    if device.type == "cpu" or launched() == 1:
        return device
    if device.index is not None:
        raise InputError(f"device {name} is one GPU for {launched()} processes: use auto or cuda")
    local, there = _launched_as("LOCAL_RANK", 0), torch.cuda.device_count()
    if local >= there:
        raise InputError(f"--nproc_per_node: a process a GPU, and this machine has {there}: start {there}")
    return torch.device("cuda", local)


def rank() -> int:
    """Number of this process among those that joined, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """How many processes joined."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def require_joined(what: str) -> None:
    """InputError if torchrun started several processes for `what`, which is done by one."""
    if launched() > size():
        raise InputError(f"{what} is made by one process: start it without torchrun")


def require_divisible(count: int, what: str, remedy: str) -> None:
    """InputError if `count`, of `what`, cannot be dealt to the processes in equal parts."""
    if count % size():
        raise InputError(f"{what} {count} does not divide by {size()} processes: {remedy}")


def from_first(value: Value) -> Value:
    """The first process's `value`; the others wait for it and give any. InputError if it has ended with an error."""
    if size() == 1:
        return value
    told = [value]
    try:
        distributed.broadcast_object_list(told, src=0)
    except RuntimeError:  # of Gloo and NCCL, where the connection is closed
        if is_first():
            raise
        raise InputError("the first process has ended: the line that it wrote says why") from None
    return told[0]


def summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sum over all processes of each tensor, without gradient; the others' have the same shapes."""
    if size() == 1:
        return list(tensors)
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def averaged(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mean over all processes of each tensor, as `summed`."""
    return [total / size() for total in summed(tensors)]


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace every parameter's gradient by its mean over all processes."""
    for parameter, gradient in zip(parameters, averaged([p.grad for p in parameters]), strict=True):
        parameter.grad = gradient


def own(items: Sequence[Value]) -> Sequence[Value]:
    """Every `size()`-th of the items, from number `rank()` on: those that fall to this process."""
    return items[rank() :: size()]


def gathered(rows: Tensor, count: int) -> Tensor:
    """The `count` rows of which every process gives its `own`, in order; all get the same."""
    if size() == 1:
        return rows
    whole = rows.new_zeros(count, *rows.shape[1:])
    whole[rank() :: size()] = rows
    distributed.all_reduce(whole)
    return whole


def replicated(module: nn.Module) -> nn.Module:
    """`module` with gradients that are means over all processes; to be called once a step."""
    if size() == 1:
        return module
    return DistributedDataParallel(module, gradient_as_bucket_view=True)


def accumulating(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Inside, gradients of what `replicated` gave are summed here and not yet averaged."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else contextlib.nullcontext()


def _launched_as(name: str, alone: int) -> int:
    # Other launchers set names like RANK too, for purposes of their own.
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else alone
