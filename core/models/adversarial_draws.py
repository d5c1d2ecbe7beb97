"""What the forms of the adversarial term draw for a batch: a type for each kind of form, with its shares.

Every type has the `weights` [P] of its P values in the loss, and `total`, what the loss divides by: the sum of the
weights, for a share of the draws the sum over all shares divided by their number. A share that would be empty is one
row of weight 0, so that every model is called.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from core.runtime.batch_shares import Rows, Share


class AdversarialDraws(Protocol):
    """The draws of a form for a whole batch, on the CPU."""

    def part(self, share: Share, device: torch.device) -> Self:
        """One share of the draws, on `device`."""
        ...


@dataclass(frozen=True)
class TrajectoryDraws:
    """States `xt` [A, C, h, w] of the model's own trajectories at timesteps `t` [A]: for renoise and draft_k.

    Renoise adds the noise `eps` [A, C, h, w] at timesteps `s` [A]. `rows` are the rows of the whole that a share holds.
    """

    xt: Tensor
    t: Tensor
    s: Tensor
    eps: Tensor
    weights: Tensor
    total: Tensor
    rows: Rows | None = None

    def part(self, share: Share, device: torch.device) -> "TrajectoryDraws":
        """One share of the draws, on `device`."""
        return _share_of(self, ("xt", "t", "s", "eps"), share, device)


@dataclass(frozen=True)
class BatchDraws:
    """`positions` [P] in the batch of the latents that the discriminator scores: for x0_prediction and published."""

    positions: Tensor
    weights: Tensor
    total: Tensor

    def part(self, share: Share, device: torch.device) -> Self:
        """One share of the draws, on `device`; its positions are those in the same share of the batch."""
        found, positions = share.find(self.positions)
        weights = self.weights[found]
        if not len(found):
            positions, weights = positions.new_zeros(1), weights.new_zeros(1)
        return type(self)(positions.to(device), weights.to(device), (self.total / share.count).to(device))


@dataclass(frozen=True)
class PairDraws:
    """The first latents of the batch, as many samples `x0` [A, C, h, w] of the model, and one noising of both: for ddo.

    `positions` [A] of the latents in the batch. The samples are noised with `eps` [A, C, h, w] at timesteps `s` [A].
    `rows` are the rows of the whole that a share holds.
    """

    positions: Tensor
    x0: Tensor
    s: Tensor
    eps: Tensor
    weights: Tensor
    total: Tensor
    rows: Rows | None = None

    def part(self, share: Share, device: torch.device) -> "PairDraws":
        """One share of the draws, on `device`; its positions are those in the same share of the batch."""
        own = _share_of(self, ("x0", "s", "eps"), share, device)
        assert own.rows is not None
        return replace(own, positions=(own.rows.positions // share.count).to(device))


@dataclass(frozen=True)
class LabelledDraws:
    """Labelled latents `x0` [A, C, h, w] and one noising of them: for negative_aware.

    `viable` [A] is 1 for a viable latent and -1 for another. They are noised with `eps` [A, C, h, w] at timesteps `t`
    [A]. `rows` are the rows of the whole that a share holds.
    """

    x0: Tensor
    viable: Tensor
    t: Tensor
    eps: Tensor
    weights: Tensor
    total: Tensor
    rows: Rows | None = None

    def part(self, share: Share, device: torch.device) -> "LabelledDraws":
        """One share of the draws, on `device`."""
        return _share_of(self, ("x0", "viable", "t", "eps"), share, device)


def lowest_timesteps(t: Tensor, count: int, alpha_bars: Tensor, max_t: float) -> BatchDraws:
    """The `count` latents of the lowest timesteps `t`, with weight alpha_bar up to timestep `max_t` and 0 above it."""
    lowest = t.argsort(stable=True)[:count]
    weights = alpha_bars[t[lowest]] * (t[lowest] <= max_t)
    return BatchDraws(lowest, weights, weights.sum())


Samples = TypeVar("Samples", TrajectoryDraws, PairDraws, LabelledDraws)


def _share_of(draws: Samples, names: Sequence[str], share: Share, device: torch.device) -> Samples:
    """The rows of a share of the draws, on `device`: of the fields `names`, [A, ...] each, and of the weights."""
    rows, weights = share.rows(len(draws.weights)), draws.weights
    if len(rows.positions):
        weights = weights[rows.positions]
    else:
        rows, weights = rows._replace(positions=torch.zeros(1, dtype=torch.long)), weights.new_zeros(1)
    own = {name: getattr(draws, name)[rows.positions].to(device) for name in names}
    total = (draws.total / share.count).to(device)
    return replace(draws, **own, weights=weights.to(device), total=total, rows=rows)
