"""The four loss terms and the one path from a batch to them, for training and validation alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from core.data.layouts import Pictures
from core.data.palette import UNLABELLED
from core.models.adversarial import AdversarialDraws, AdversarialForm, NoisePass
from core.models.autoencoder import Decoder
from core.models.diffusion import add_noise, denoiser, predict_x0
from core.models.perceptual import Perceptual
from core.runtime.shares import Rows, forwarding


class SemanticDraws(NamedTuple):
    """The low-noise part of a batch that is decoded: positions in it, pictures and their weights [m].

    `total` is what the weights of the whole batch sum to, over the number of parts it is in.
    """

    positions: Tensor
    pictures: Pictures
    weights: Tensor
    total: Tensor


class Batch(NamedTuple):
    """Everything one evaluation of the loss depends on besides the models; no randomness is left.

    `latent`, `eps` [B, C, h, w]; `t` [B] long. `rows` says which of a larger batch these are, if they are a part:
    then the mean of a loss over all parts is the loss of the whole.
    """

    latent: Tensor
    eps: Tensor
    t: Tensor
    semantic: SemanticDraws | None = None
    adversarial: AdversarialDraws | None = None
    rows: Rows | None = None


@dataclass(frozen=True)
class LossModels:
    """What the loss needs besides the UNet; nothing here is ever trained."""

    scheduler: DDIMScheduler
    decoder: Decoder | None = None
    perceptual: Perceptual | None = None
    adversarial: AdversarialForm | None = None


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


def adversarial_loss(fake_logits: Tensor, weights: Tensor, total: Tensor | None = None) -> Tensor:
    """Non-saturating generator loss of Goodfellow et al. (2014): `weighted_mean` of -log D = softplus(-logit)."""
    return weighted_mean(F.softplus(-fake_logits), weights, total)


def weighted_mean(values: Tensor, weights: Tensor, total: Tensor | None = None) -> Tensor:
    """Mean of `values` [m] with `weights` [m], whose sum may be given; zero where every weight is zero.

    Still differentiable then. For part of a batch the sum is the whole's over the number of parts.
    """
    total = weights.sum() if total is None else total
    return (values * weights).sum() / total.clamp(min=1e-8)


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Total loss. A term without a weight, or a weight without a term, is an error."""
    if losses.keys() != weights.keys():
        raise ValueError(f"loss terms {sorted(losses)} do not match weights {sorted(weights)}")
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def diffusion_losses(unet: UNet2DModel, frozen: LossModels, batch: Batch) -> dict[str, Tensor]:
    """Every term the batch carries draws for, unweighted; each is a function of the UNet's prediction."""
    denoise = denoiser(unet, frozen.scheduler)
    alpha_bar = frozen.scheduler.alphas_cumprod[batch.t]
    xt = add_noise(batch.latent, batch.eps, alpha_bar)
    with forwarding(batch.rows):
        eps_pred = denoise(xt, batch.t)
    losses = {"noise": noise_loss(eps_pred, batch.eps)}
    if batch.semantic is not None:
        low, pictures, weights, total = batch.semantic
        x0_pred = predict_x0(xt[low], eps_pred[low], alpha_bar[low])
        decoded = frozen.decoder(x0_pred)
        losses["segmentation"] = segmentation_loss(decoded.logits, pictures.classes, weights, total)
        losses["perceptual"] = perceptual_loss(frozen.perceptual(decoded.rgb, pictures.rgb), weights, total)
    if batch.adversarial is not None:
        x0_pred = predict_x0(xt, eps_pred, alpha_bar)
        noise_pass = NoisePass(batch.latent, batch.eps, batch.t, x0_pred)
        with forwarding(batch.adversarial.rows):
            judged = frozen.adversarial(denoise, batch.adversarial, noise_pass)
        losses["adversarial"] = adversarial_loss(judged.logits, judged.weights, judged.total)
    return losses


class LossesOfUNet(nn.Module):
    """`diffusion_losses` as the single forward call a step that processes can share."""

    def __init__(self, unet: UNet2DModel, frozen: LossModels):
        super().__init__()
        self.unet, self._frozen = unet, frozen

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return diffusion_losses(self.unet, self._frozen, batch)
