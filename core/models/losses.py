"""The loss terms, as functions of what the models predict."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from core.data.palette import UNLABELLED


def noise_loss(eps_pred: Tensor, eps: Tensor) -> Tensor:
    """Mean squared error of the predicted noise, equation 14 of Ho et al. (2020)."""
    return F.mse_loss(eps_pred, eps)


def segmentation_loss(logits: Tensor, classes: Tensor, weights: Tensor, total: Tensor | None = None) -> Tensor:
    """`weighted_mean` over pictures [m] of the cross entropy of `logits` [m, K, H, W] with `classes` [m, H, W]."""
    per_pixel = F.cross_entropy(logits, classes, ignore_index=UNLABELLED, reduction="none")
    labelled = (classes != UNLABELLED).sum(dim=(1, 2)).clamp(min=1)
    return weighted_mean(per_pixel.sum(dim=(1, 2)) / labelled, weights, total)


def perceptual_loss(distances: Tensor, weights: Tensor, total: Tensor | None = None) -> Tensor:
    """`weighted_mean` of LPIPS distances [m]."""
    return weighted_mean(distances, weights, total)


def adversarial_losses(logits: Tensor) -> Tensor:
    """Non-saturating generator losses [P] of Goodfellow et al. (2014) of logits [P]: -log D = softplus(-logit)."""
    return F.softplus(-logits)


def weighted_mean(values: Tensor, weights: Tensor, total: Tensor | None = None) -> Tensor:
    """Mean of `values` [m] with `weights` [m]; zero, and still differentiable, where every weight is zero.

    `total` stands for the sum of the weights. For part of a batch it is the sum of the whole batch over the number of
    parts.
    """
    total = weights.sum() if total is None else total
    return (values * weights).sum() / total.clamp(min=1e-8)


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Total loss. ValueError for a term without a weight or a weight without a term."""
    if losses.keys() != weights.keys():
        raise ValueError(f"loss terms {sorted(losses)} do not match weights {sorted(weights)}")
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
