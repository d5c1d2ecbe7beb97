"""Latent discriminator: real latents against the model's own bad latents."""

import itertools
import math

import torch
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn
from torch.nn import functional as F

ADAM_BETAS = (0.5, 0.99)
# Approximate R1 penalty (Lin et al., 2025): squared change of the logit under small noise on the latent.
PENALTY_WEIGHT, PENALTY_NOISE = 10.0, 0.05


class LatentDiscriminator(nn.Module):
    """Logit that a latent is real, at a noise level.

    Stride-2 convolutions on the latent; the logit is the mean of a patch logit and a global one, so that both
    local faults and the layout as a whole count. Noise-conditional as in Diffusion-GAN (Wang et al., 2022):
    the latent is q(x0, s), and its noise level scales and shifts every feature map. The level is given as
    alpha_bar, so that one discriminator serves any schedule; alpha_bar = 1 scores a clean latent.
    No normalisation over the batch, so that one latent's logit does not depend on its neighbours.
    """

    def __init__(self, latent_channels: int, latent_size: int, base_channels: int = 64, dropout: float = 0.1):
        super().__init__()
        # Each layer halves the map: the documented four on 32x32, fewer on small latents so that 2x2 remains.
        num_layers = max(1, min(4, int(math.log2(latent_size)) - 1))
        widths = [latent_channels] + [base_channels * 2**i for i in range(num_layers)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise(widths))
        self.level = Timesteps(64, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.embed = nn.Sequential(nn.Linear(64, 128), nn.SiLU())
        self.modulate = nn.ModuleList(nn.Linear(128, 2 * b) for b in widths[1:])
        self.activation = nn.LeakyReLU(0.2)
        self.dropout = nn.Dropout(dropout)
        self.patch = nn.Conv2d(widths[-1], 1, 1)
        self.whole = nn.Linear(widths[-1] * (latent_size // 2**num_layers) ** 2, 1)

    def forward(self, latent: Tensor, alpha_bar: Tensor | None = None) -> Tensor:
        """Logits [B] of latents [B, C, h, w] with signal share `alpha_bar` [B] (clean if left out)."""
        alpha_bar = torch.ones(len(latent), device=latent.device) if alpha_bar is None else alpha_bar
        # The angle of the noise level, 0 clean to 1000 pure noise: uniform in it is uniform in cosine timesteps.
        angle = torch.acos(alpha_bar.sqrt().clamp(max=1)) / (math.pi / 2) * 1000
        embedding = self.embed(self.level(angle).to(latent.dtype))
        x = latent
        for conv, modulate in zip(self.convs, self.modulate, strict=True):
            scale, shift = modulate(embedding)[:, :, None, None].chunk(2, dim=1)
            x = self.activation(conv(x) * (1 + scale) + shift)
        patch = self.patch(x).mean(dim=(1, 2, 3))
        return patch + self.whole(self.dropout(x.flatten(1))).squeeze(1)


def draw_noise_levels(count: int, clean_share: float, rng: torch.Generator) -> Tensor:
    """alpha_bar [count]: 1 for a `clean_share` of them, the rest uniform over a cosine schedule's timesteps."""
    angle = torch.rand(count, generator=rng)
    clean = torch.rand(count, generator=rng) < clean_share
    return torch.where(clean, 1.0, torch.cos(angle * math.pi / 2) ** 2)


def discriminator_loss(
    model: LatentDiscriminator, noised: Tensor, labels: Tensor, alpha_bar: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cross entropy on latents noised to `alpha_bar` [B] plus the approximate R1 penalty, and the logits [B]."""
    shift = torch.randn(noised.shape, generator=rng).to(noised.device)
    logits = model(noised, alpha_bar)
    moved = model(noised + PENALTY_NOISE * shift, alpha_bar)
    penalty = PENALTY_WEIGHT * (moved - logits).square().mean()
    return F.binary_cross_entropy_with_logits(logits, labels) + penalty, logits
