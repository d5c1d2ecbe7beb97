"""The processes that work together, started by torchrun or by `core.runtime.processes`, and what they exchange.

A process alone has rank 0, and the functions here do nothing.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented, but not exported
from torch.nn.parallel import DistributedDataParallel

from core.runtime.device import pick_device
from core.runtime.errors import InputError

Value = TypeVar("Value")

# The others wait while the first makes trajectories or uploads. If one dies, torchrun ends the rest within a second.
_PATIENCE = timedelta(days=1)


def launched() -> int:
    """How many processes torchrun started together; 1 without it."""
    return _launched_as("WORLD_SIZE", 1)


def is_first() -> bool:
    """Whether this process is the one that writes files, logs and reports."""
    return _launched_as("RANK", 0) == 0


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Inside, this process exchanges tensors with the others, on the device called `device`.

    Processes use NCCL on GPUs and Gloo on CPUs.
    """
    if launched() == 1 or is_joined():
        yield
        return
    distributed.init_process_group(_backend(_launched_as("LOCAL_RANK", 0), device), timeout=_PATIENCE)
    yield
    # Not after an error: others may still wait for this process, and torchrun ends them when it exits.
    leave()


def meeting_point(count: int, port: int | None = None) -> TCPStore:
    """Where `count` processes of this machine find each other; the first opens it, the others give its `port`."""
    return TCPStore("127.0.0.1", port or 0, count, is_master=port is None, wait_for_workers=False)


def join(store: TCPStore, rank: int, count: int, device: str) -> None:
    """Join `count` processes of this machine as number `rank` of them; they find each other by `store`."""
    distributed.init_process_group(_backend(rank, device), timeout=_PATIENCE, store=store, rank=rank, world_size=count)


def leave() -> None:
    """Exchange nothing more with the others."""
    if is_joined():
        distributed.destroy_process_group()


def abandon() -> None:
    """Make this process's exchanges with the others fail, because one of them has ended.

    Gloo notices by itself that a connection is closed. NCCL would wait.
    """
    if is_joined() and "nccl" in distributed.get_backend_config():
        distributed.distributed_c10d._abort_process_group()


def is_joined() -> bool:
    """Whether this process has joined others."""
    return distributed.is_initialized()


def _backend(local_rank: int, device: str) -> str:
    """What the processes on the device called `device` exchange tensors with; a GPU becomes this process's own."""
    here = _device_of(local_rank, pick_device(device), device)
    if here.type == "cpu":
        return "gloo"
    torch.cuda.set_device(here)
    return "cpu:gloo,cuda:nccl"


def own_device(name: str) -> torch.device:
    """The device called `name`. Of several processes on GPUs each has its own GPU; InputError if there are too few."""
    device = pick_device(name)
    return device if max(launched(), size()) == 1 else _device_of(_launched_as("LOCAL_RANK", 0), device, name)


def _device_of(local: int, device: torch.device, name: str) -> torch.device:
    """The device of process number `local` of several on this machine, of those that `name` means."""
    if device.type == "cpu":
        return device
    if device.index is not None:
        raise InputError(f"device {name} is one GPU for several processes: use auto or cuda")
    available = torch.cuda.device_count()
    if local >= available:
        raise InputError(
            f"--nproc_per_node: each process needs a GPU, and this machine has {available}: start {available}"
        )
    return torch.device("cuda", local)


def rank() -> int:
    """Number of this process among those that joined, from 0."""
    return distributed.get_rank() if is_joined() else 0


def size() -> int:
    """How many processes joined."""
    return distributed.get_world_size() if is_joined() else 1


def require_joined(what: str) -> None:
    """InputError if torchrun started several processes for `what`, which runs in one."""
    if launched() > size():
        raise InputError(f"{what} runs in one process: start it without torchrun")


def require_divisible(count: int, what: str, remedy: str) -> None:
    """InputError if `count` of `what` cannot be divided into equal parts for the processes."""
    if count % size():
        raise InputError(f"{what} {count} cannot be divided by {size()} processes: {remedy}")


def from_first(value: Value) -> Value:
    """The first process's `value`; the others pass any value and wait. InputError if the first ended with an error."""
    if size() == 1:
        return value
    message = [value]
    try:
        distributed.broadcast_object_list(message, src=0)
    except RuntimeError:  # from Gloo or NCCL: the connection is closed
        if is_first():
            raise
        raise InputError("the first process has ended: see the error that it wrote") from None
    return message[0]


def summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sum over all processes of each tensor, without gradients. Shapes must be equal in all processes."""
    if size() == 1:
        return list(tensors)
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def averaged(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mean over all processes of each tensor, as `summed`."""
    return [total / size() for total in summed(tensors)]


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace every parameter's gradient by its mean over all processes."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for parameter, gradient in zip(parameters, averaged(gradients), strict=True):
        parameter.grad = gradient


def own(items: Sequence[Value]) -> Sequence[Value]:
    """The items of this process: every `size()`-th, starting at `rank()`."""
    return items[rank() :: size()]


def gathered(rows: Tensor, positions: Sequence[int], count: int) -> Tensor:
    """All `count` rows in order, in every process; each process passes some of them and their positions."""
    if size() == 1:
        return rows
    all_rows = rows.new_zeros(count, *rows.shape[1:])
    all_rows[list(positions)] = rows
    distributed.all_reduce(all_rows)
    return all_rows


def weighted(mean: Tensor, weight: Tensor) -> Tensor:
    """This process's `mean` scaled so that the average over all processes is the mean of all, by their weights."""
    if size() == 1:
        return mean
    return mean * weight / averaged([weight])[0]


def wait_for_all() -> None:
    """Return once every process has called this."""
    summed([torch.zeros(1)])


def replicated(module: nn.Module) -> nn.Module:
    """`module` with gradients that are averaged over all processes. Call the result once per step."""
    if size() == 1:
        return module
    return DistributedDataParallel(module, gradient_as_bucket_view=True)


def accumulating(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Inside, gradients of a `replicated` module are summed in this process and not yet averaged."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else contextlib.nullcontext()


def _launched_as(name: str, alone: int) -> int:
    # Other launchers set variables like RANK too, with other meanings.
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else alone
