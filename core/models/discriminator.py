"""The latent discriminator, which separates real latents from bad (generated) ones, and its loss."""

import itertools
import math

import torch
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn
from torch.nn import functional as F

from core.runtime.batch_shares import ShareDropout

ADAM_BETAS = (0.5, 0.99)
# Approximate R1 penalty (Lin et al., 2025): the squared change of the logit under small noise on the latent. With a
# weight of 10 the discriminator does not learn small faults, with 0.1 it memorises latents.
PENALTY_WEIGHT, PENALTY_NOISE = 1.0, 0.05


class LatentDiscriminator(nn.Module):
    """Logit that a latent is real, given its noise level.

    There is one convolution and one residual convolution at the latent's own resolution, and at each half of it down to
    4x4. The logit is the sum of the mean patch logit of every resolution and of one logit of the last feature map. The
    first layer keeps the resolution, since halving would blur the small faults of a layout.

    Noise-conditional as in Diffusion-GAN (Wang et al., 2022): the input is a noised latent xt, and its noise level
    scales and shifts every feature map. The level is given as alpha_bar, so that one discriminator serves any schedule;
    alpha_bar = 1 is a clean latent. Nothing is normalised over the batch, so the logit of a latent does not depend on
    the others.
    """

    def __init__(self, latent_channels: int, latent_size: int, base_channels: int = 48, dropout: float = 0.1):
        super().__init__()
        num_levels = max(1, min(4, int(math.log2(latent_size)) - 1))
        widths = [base_channels * 2**i for i in range(num_levels)]
        pairs = itertools.pairwise([latent_channels, *widths])
        self.enter = nn.ModuleList(
            nn.Conv2d(wide_in, wide_out, 3, stride=2 if level else 1, padding=1)
            for level, (wide_in, wide_out) in enumerate(pairs)
        )
        self.residual = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in widths)
        self.patch = nn.ModuleList(nn.Linear(width, 1) for width in widths)
        self.level = Timesteps(64, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.embed = nn.Sequential(nn.Linear(64, 128), nn.SiLU())
        self.modulate = nn.ModuleList(nn.Linear(128, 4 * width) for width in widths)
        self.activation = nn.LeakyReLU(0.2)
        self.dropout = ShareDropout(dropout)
        self.whole = nn.Linear(widths[-1], 1)

    def forward(self, latent: Tensor, alpha_bar: Tensor | None = None) -> Tensor:
        """Logits [B], unbounded, of latents [B, C, h, w] at `alpha_bar` [B]; clean latents without it.

        Several batches with the same noise levels may be concatenated; `alpha_bar` is then that of one batch.
        """
        alpha_bar = torch.ones(len(latent), device=latent.device) if alpha_bar is None else alpha_bar
        # The noise level as an angle, from 0 (clean) to 1000 (pure noise). It is linear in cosine timesteps.
        angle = torch.acos(alpha_bar.sqrt().clamp(max=1)) / (math.pi / 2) * 1000
        embedding = self.embed(self.level(angle).to(latent.dtype))
        batches = len(latent) // max(1, len(alpha_bar))
        x, logits = latent, torch.zeros((len(latent), 1), device=latent.device, dtype=latent.dtype)
        for enter, residual, patch, modulate in zip(self.enter, self.residual, self.patch, self.modulate, strict=True):
            modulation = modulate(embedding)[:, :, None, None].repeat(batches, 1, 1, 1)
            scale, shift, scale_more, shift_more = modulation.chunk(4, dim=1)
            x = self.activation(enter(x) * (1 + scale) + shift)
            x = x + self.activation(residual(x) * (1 + scale_more) + shift_more)
            mean = x.mean(dim=(2, 3))
            logits = logits + patch(mean).to(latent.dtype)  # linear, so it equals the mean of the patches' logits
        logit: Tensor = logits + self.whole(self.dropout(mean)).to(latent.dtype)
        return logit.squeeze(1)


def draw_noise_levels(count: int, clean_share: float, rng: torch.Generator) -> Tensor:
    """alpha_bar [count] on the device of `rng`: 1 with probability `clean_share`, else at a uniform cosine timestep."""
    angle = torch.rand(count, generator=rng, device=rng.device)
    clean = torch.rand(count, generator=rng, device=rng.device) < clean_share
    return torch.where(clean, 1.0, torch.cos(angle * math.pi / 2) ** 2)


def discriminator_loss(
    model: LatentDiscriminator, noised: Tensor, labels: Tensor, alpha_bar: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross entropy plus the approximate R1 penalty, and the logits [B].

    `noised` [B, C, h, w] are latents at `alpha_bar` [B], `labels` [B] are 1 for real ones, and `shift` [B, C, h, w] is
    the standard normal noise of the penalty.
    """
    # One evaluation for both, which is faster with small maps.
    logits, moved = model(torch.cat([noised, noised + PENALTY_NOISE * shift]), alpha_bar).chunk(2)
    penalty = PENALTY_WEIGHT * (moved - logits).square().mean()
    return F.binary_cross_entropy_with_logits(logits, labels) + penalty, logits


class DiscriminatorLoss(nn.Module):
    """`discriminator_loss` as a module with one forward call per step, as DistributedDataParallel needs it."""

    def __init__(self, model: LatentDiscriminator):
        super().__init__()
        self.model = model

    def forward(self, noised: Tensor, labels: Tensor, alpha_bar: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        return discriminator_loss(self.model, noised, labels, alpha_bar, shift)
