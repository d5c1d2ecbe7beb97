"""Equal parts of a batch, one for each process and accumulation step, that together train as the whole batch does."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Rows(NamedTuple):
    """Rows of a larger tensor: their `positions` [n] among its `total` rows."""

    positions: Tensor
    total: int


@dataclass(frozen=True)
class Share:
    """Part `number` of `count` equal parts: rows `number`, `number + count`, `number + 2 * count` and so on."""

    number: int = 0
    count: int = 1

    def rows(self, total: int) -> Rows:
        """The rows of this share in a tensor of `total` rows; none if there are too few rows for all shares."""
        return Rows(torch.arange(min(self.number, total), total, self.count), total)

    def find(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Indices [m] of those `positions` [n] of the whole that are in this share, and their positions [m] in it."""
        found = (positions % self.count == self.number).nonzero().squeeze(1)
        return found, positions[found] // self.count


# Layers of diffusers' UNet pass each other tensors only, so the rows reach dropout through this variable.
_rows: ContextVar[Rows | None] = ContextVar("rows", default=None)


@contextlib.contextmanager
def whole_batch_dropout(rows: Rows | None) -> Iterator[None]:
    """Inside, a `ShareDropout` drops the same values of these `rows` as if the model were given the whole batch.

    A model may be given several batches joined, of each these rows. None: it is given whole batches.
    """
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


class ShareDropout(nn.Dropout):
    """Dropout with the mask of the whole batch, of which it uses the rows that `whole_batch_dropout` names.

    It draws the mask of the whole batch each time.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows = _rows.get()
        if rows is None or not self.training or self.p == 0:
            return self._drop(x)
        positions, total = rows
        batches = len(x) // len(positions)
        in_whole = torch.cat([positions + batch * total for batch in range(batches)]).to(x.device)
        return x * self._drop(self._ones(x, batches * total))[in_whole]

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def _ones(self, x: Tensor, total: int) -> Tensor:
        """What the mask of `total` rows of `x` is drawn on."""
        # The mask is drawn in the order of memory, so it has the memory layout that the whole batch would have.
        strides = (x[0].numel(), *x.stride()[1:])
        return torch.empty_strided((total, *x.shape[1:]), strides, dtype=x.dtype, device=x.device).fill_(1)


class ShareChannelDropout(ShareDropout):
    """`ShareDropout` of whole channels of maps [B, C, h, w], as `nn.Dropout2d` drops them."""

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout2d(x, self.p, self.training)

    def _ones(self, x: Tensor, total: int) -> Tensor:
        return torch.ones((total, x.shape[1], 1, 1), dtype=x.dtype, device=x.device)


def with_share_dropout(module: nn.Module) -> nn.Module:
    """`module` with a `ShareDropout` in place of every dropout layer."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, ShareDropout(child.p))
    return module


def checkpointed(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `function`; the backward pass computes its inner values again instead of keeping them."""
    rows = _rows.get()

    def with_rows(*inner: Any) -> Any:
        # The backward pass runs outside the context of the forward pass, on a GPU even in another thread.
        with whole_batch_dropout(rows):
            return function(*inner)

    return checkpoint(with_rows, *arguments, use_reentrant=False)
