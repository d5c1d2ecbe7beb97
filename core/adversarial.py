"""How the latent that the discriminator judges is formed from the UNet: three forms, one interface."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from core.config import DiscriminatorSection
from core.diffusion import Denoiser, add_noise, predict_x0
from core.discriminator import LatentDiscriminator

# Latents have unit variance; beyond four deviations a one-step estimate is an artefact of high noise.
LATENT_RANGE = 4.0


class AdversarialDraws(NamedTuple):
    """States of the model's own trajectories and what is drawn for them.

    `xt` [A, C, h, w] at timesteps `t` [A]; `s` [A] timesteps and `eps` [A, C, h, w] noise of the re-noising.
    """

    xt: Tensor
    t: Tensor
    s: Tensor
    eps: Tensor

    def to(self, device: torch.device) -> "AdversarialDraws":
        """The same draws on `device`."""
        return AdversarialDraws(*(value.to(device) for value in self))


class Judged(NamedTuple):
    """Discriminator logits [A] of what the model makes, and the weight of each in the loss."""

    logits: Tensor
    weights: Tensor


# (denoiser, draws, x0_pred and t of the noise term's own forward pass) -> judged latents.
AdversarialForm = Callable[[Denoiser, AdversarialDraws, Tensor, Tensor], Judged]


@dataclass(frozen=True)
class Renoise:
    """Judge q(x0_pred, s) for the one-step x0_pred of a trajectory state, at noise level s >= t / 2.

    Noise at a level comparable to t hides the detail a one-step estimate cannot have, so the discriminator
    sees what it was trained on (DMD2, Yin et al., 2024; Diffusion-GAN, Wang et al., 2022).
    """

    discriminator: LatentDiscriminator
    alpha_bars: Tensor

    def __call__(self, denoise: Denoiser, draws: AdversarialDraws, x0_pred: Tensor, t: Tensor) -> Judged:
        own = predict_x0(draws.xt, denoise(draws.xt, draws.t), self.alpha_bars[draws.t])
        own = own.clamp(-LATENT_RANGE, LATENT_RANGE)
        level = self.alpha_bars[draws.s]
        logits = self.discriminator(add_noise(own, draws.eps, level), level)
        return Judged(logits, torch.ones_like(logits))


@dataclass(frozen=True)
class X0Prediction:
    """Judge the clean x0_pred of noised training latents, those with t below `max_t`; weight alpha_bar.

    No extra UNet evaluation: it reuses the noise term's forward pass.
    """

    discriminator: LatentDiscriminator
    alpha_bars: Tensor
    max_t: int

    def __call__(self, denoise: Denoiser, draws: AdversarialDraws, x0_pred: Tensor, t: Tensor) -> Judged:
        lowest = t.argsort(stable=True)[: len(draws.t)]
        weights = self.alpha_bars[t[lowest]] * (t[lowest] <= self.max_t)
        return Judged(self.discriminator(x0_pred[lowest].clamp(-LATENT_RANGE, LATENT_RANGE)), weights)


@dataclass(frozen=True)
class DraftK:
    """Judge the clean latent reached from a trajectory state in K DDIM steps that carry gradient.

    DRaFT-K (Clark et al., 2024) from a random start: the K steps stride from the state's t down to 0.
    """

    discriminator: LatentDiscriminator
    alpha_bars: Tensor
    steps: int

    def __call__(self, denoise: Denoiser, draws: AdversarialDraws, x0_pred: Tensor, t: Tensor) -> Judged:
        own, now = draws.xt, draws.t
        for remaining in reversed(range(self.steps)):
            eps_pred = denoise(own, now)
            own = predict_x0(own, eps_pred, self.alpha_bars[now])
            if remaining:
                now = draws.t * remaining // self.steps
                own = add_noise(own, eps_pred, self.alpha_bars[now])
        logits = self.discriminator(own.clamp(-LATENT_RANGE, LATENT_RANGE))
        return Judged(logits, torch.ones_like(logits))


def build_adversarial_form(
    section: DiscriminatorSection, discriminator: LatentDiscriminator, alpha_bars: Tensor
) -> AdversarialForm:
    """The form that `discriminator.form` names."""
    match section.form:
        case "renoise":
            return Renoise(discriminator, alpha_bars)
        case "x0_prediction":
            return X0Prediction(discriminator, alpha_bars, max_t=int(0.4 * len(alpha_bars)))
        case "draft_k":
            return DraftK(discriminator, alpha_bars, section.draft_steps)
