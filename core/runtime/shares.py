"""Equal parts of a batch, one for each process and accumulation step, that together train as the whole does."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Rows(NamedTuple):
    """Which rows of a whole of `total` rows a tensor holds: their `positions` [n] there."""

    positions: Tensor
    total: int


class Share(NamedTuple):
    """Part `number` of `count`: rows `number`, `number + count`, ... of every whole."""

    number: int = 0
    count: int = 1

    def rows(self, total: int) -> Rows:
        """This share's rows of a whole of `total` rows; of one with fewer rows than shares perhaps none."""
        return Rows(torch.arange(min(self.number, total), total, self.count), total)

    def find(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the `positions` in a whole this share holds, and where those lie in the share."""
        mine = (positions % self.count == self.number).nonzero().squeeze(1)
        return mine, positions[mine] // self.count


_forwarded: ContextVar[Rows | None] = ContextVar("rows", default=None)


@contextlib.contextmanager
def forwarding(rows: Rows | None) -> Iterator[None]:
    """Inside, models are given these rows of a whole, or several such wholes joined; None: everything."""
    token = _forwarded.set(rows)
    try:
        yield
    finally:
        _forwarded.reset(token)


class ShareDropout(nn.Dropout):
    """Dropout that drops of a row what it would drop if the whole batch were there, at the cost of its mask."""

    def forward(self, x: Tensor) -> Tensor:
        rows = _forwarded.get()
        if rows is None or not self.training or self.p == 0:
            return super().forward(x)
        positions, total = rows
        copies = len(x) // len(positions)
        everywhere = torch.cat([positions + copy * total for copy in range(copies)]).to(x.device)
        # Of the same layout in memory as the whole batch's would be: masks are drawn in the order of memory.
        strides = (x[0].numel(), *x.stride()[1:])
        ones = torch.empty_strided((copies * total, *x.shape[1:]), strides, dtype=x.dtype, device=x.device).fill_(1)
        return x * F.dropout(ones, self.p)[everywhere]


def with_share_dropout(module: nn.Module) -> nn.Module:
    """`module` with every dropout in it replaced by a `ShareDropout`."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, ShareDropout(child.p))
    return module


def checkpointed(function: Callable[..., Any], *arguments: Any) -> Any:
    """Result of `function`, whose inner values are not kept for the backward pass but computed again in it."""
    rows = _forwarded.get()

    def with_rows(*inner: Any) -> Any:
        # The backward pass runs outside of the forward's context, on a GPU even in another thread.
        with forwarding(rows):
            return function(*inner)

    return checkpoint(with_rows, *arguments, use_reentrant=False)
