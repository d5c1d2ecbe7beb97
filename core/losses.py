"""The four loss terms and the one path from a batch to them, for training and validation alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor
from torch.nn import functional as F

from core.adversarial import AdversarialDraws, AdversarialForm, NoisePass
from core.autoencoder import Decoder
from core.diffusion import add_noise, denoiser, predict_x0
from core.layouts import Pictures
from core.palette import UNLABELLED
from core.perceptual import Perceptual


class SemanticDraws(NamedTuple):
    """The low-noise part of a batch that is decoded: positions in it, pictures and their weights [m]."""

    positions: Tensor
    pictures: Pictures
    weights: Tensor


class Batch(NamedTuple):
    """Everything one evaluation of the loss depends on besides the models; no randomness is left.

    `latent`, `eps` [B, C, h, w]; `t` [B] long.
    """

    latent: Tensor
    eps: Tensor
    t: Tensor
    semantic: SemanticDraws | None = None
    adversarial: AdversarialDraws | None = None


@dataclass(frozen=True)
class Frozen:
    """What the loss needs besides the UNet; nothing here is ever trained."""

    scheduler: DDIMScheduler
    decoder: Decoder | None = None
    perceptual: Perceptual | None = None
    adversarial: AdversarialForm | None = None


def noise_loss(eps_pred: Tensor, eps: Tensor) -> Tensor:
    """Mean squared error of the predicted noise, equation 14 of Ho et al. (2020)."""
    return F.mse_loss(eps_pred, eps)


def segmentation_loss(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over pictures [m] of the cross entropy of `logits` [m, K, H, W] with `classes` [m, H, W]."""
    per_pixel = F.cross_entropy(logits, classes, ignore_index=UNLABELLED, reduction="none")
    labelled = (classes != UNLABELLED).sum(dim=(1, 2)).clamp(min=1)
    return weighted_mean(per_pixel.sum(dim=(1, 2)) / labelled, weights)


def perceptual_loss(distances: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of LPIPS distances [m]."""
    return weighted_mean(distances, weights)


def adversarial_loss(fake_logits: Tensor, weights: Tensor) -> Tensor:
    """Non-saturating generator loss of Goodfellow et al. (2014): weighted mean of -log D = softplus(-logit)."""
    return weighted_mean(F.softplus(-fake_logits), weights)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of `values` [m] with `weights` [m]; zero, still differentiable, where every weight is zero."""
    return (values * weights).sum() / weights.sum().clamp(min=1e-8)


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Total loss. A term without a weight, or a weight without a term, is an error."""
    if losses.keys() != weights.keys():
        raise ValueError(f"loss terms {sorted(losses)} do not match weights {sorted(weights)}")
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def diffusion_losses(unet: UNet2DModel, frozen: Frozen, batch: Batch) -> dict[str, Tensor]:
    """Every term the batch carries draws for, unweighted; each is a function of the UNet's prediction."""
    denoise = denoiser(unet, frozen.scheduler)
    alpha_bar = frozen.scheduler.alphas_cumprod[batch.t]
    xt = add_noise(batch.latent, batch.eps, alpha_bar)
    eps_pred = denoise(xt, batch.t)
    losses = {"noise": noise_loss(eps_pred, batch.eps)}
    if batch.semantic is not None:
        low, pictures, weights = batch.semantic
        x0_pred = predict_x0(xt[low], eps_pred[low], alpha_bar[low])
        decoded = frozen.decoder(x0_pred)
        losses["segmentation"] = segmentation_loss(decoded.logits, pictures.classes, weights)
        losses["perceptual"] = perceptual_loss(frozen.perceptual(decoded.rgb, pictures.rgb), weights)
    if batch.adversarial is not None:
        x0_pred = predict_x0(xt, eps_pred, alpha_bar)
        noise_pass = NoisePass(batch.latent, batch.eps, batch.t, x0_pred)
        judged = frozen.adversarial(denoise, batch.adversarial, noise_pass)
        losses["adversarial"] = adversarial_loss(judged.logits, judged.weights)
    return losses
