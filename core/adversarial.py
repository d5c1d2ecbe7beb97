"""What the adversarial term judges, and by what: every form is a function of the UNet, but for the published one."""

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

    `xt` [A, C, h, w] at timesteps `t` [A]; `x0` [A, C, h, w] where their trajectories end; `s` [A] timesteps and
    `eps` [A, C, h, w] noise of the re-noising.
    """

    xt: Tensor
    t: Tensor
    x0: Tensor
    s: Tensor
    eps: Tensor

    def to(self, device: torch.device) -> "AdversarialDraws":
        """The same draws on `device`."""
        return AdversarialDraws(*(value.to(device) for value in self))


class NoisePass(NamedTuple):
    """The noise term's own evaluation: `latent`, its noise `eps` and `x0_pred` [B, C, h, w] at timesteps `t` [B]."""

    latent: Tensor
    eps: Tensor
    t: Tensor
    x0_pred: Tensor


class Judged(NamedTuple):
    """Logits [A] of what is judged, and the weight of each in the loss."""

    logits: Tensor
    weights: Tensor


class Made(NamedTuple):
    """Latents [A, C, h, w] that the model made, with noise of the level `alpha_bar` [A], and each one's weight."""

    latent: Tensor
    alpha_bar: Tensor
    weights: Tensor


AdversarialForm = Callable[[Denoiser, AdversarialDraws, NoisePass], Judged]


@dataclass(frozen=True)
class Renoise:
    """Make q(x0_pred, s) of the one-step x0_pred of a trajectory state, at noise level s >= t / 2.

    Noise at a level comparable to t hides the detail a one-step estimate cannot have, so the discriminator
    sees what it was trained on (DMD2, Yin et al., 2024; Diffusion-GAN, Wang et al., 2022).
    """

    alpha_bars: Tensor

    def __call__(self, denoise: Denoiser, draws: AdversarialDraws, noise_pass: NoisePass | None) -> Made:
        own = predict_x0(draws.xt, denoise(draws.xt, draws.t), self.alpha_bars[draws.t])
        own = own.clamp(-LATENT_RANGE, LATENT_RANGE)
        level = self.alpha_bars[draws.s]
        return Made(add_noise(own, draws.eps, level), level, torch.ones_like(level))


@dataclass(frozen=True)
class X0Prediction:
    """Make the clean x0_pred of noised training latents, those with t below `max_t`; weight alpha_bar.

    No extra UNet evaluation: it reuses the noise term's forward pass.
    """

    alpha_bars: Tensor
    max_t: int

    def __call__(self, denoise: Denoiser, draws: AdversarialDraws, noise_pass: NoisePass | None) -> Made:
        t = noise_pass.t
        lowest = t.argsort(stable=True)[: len(draws.t)]
        weights = self.alpha_bars[t[lowest]] * (t[lowest] <= self.max_t)
        own = noise_pass.x0_pred[lowest].clamp(-LATENT_RANGE, LATENT_RANGE)
        return Made(own, torch.ones_like(weights), weights)


@dataclass(frozen=True)
class DraftK:
    """Make the clean latent reached from a trajectory state in K DDIM steps that carry gradient.

    DRaFT-K (Clark et al., 2024) from a random start: the K steps stride from the state's t down to 0.
    """

    alpha_bars: Tensor
    steps: int

    def __call__(self, denoise: Denoiser, draws: AdversarialDraws, noise_pass: NoisePass | None) -> Made:
        own, now = draws.xt, draws.t
        for remaining in reversed(range(self.steps)):
            eps_pred = denoise(own, now)
            own = predict_x0(own, eps_pred, self.alpha_bars[now])
            if remaining:
                now = draws.t * remaining // self.steps
                own = add_noise(own, eps_pred, self.alpha_bars[now])
        clean = torch.ones_like(self.alpha_bars[now])
        return Made(own.clamp(-LATENT_RANGE, LATENT_RANGE), clean, clean)


Maker = Callable[[Denoiser, AdversarialDraws, NoisePass | None], Made]


@dataclass(frozen=True)
class JudgedByDiscriminator:
    """The discriminator's logits of what the model makes."""

    discriminator: LatentDiscriminator
    make: Maker

    def __call__(self, denoise: Denoiser, draws: AdversarialDraws, noise_pass: NoisePass) -> Judged:
        made = self.make(denoise, draws, noise_pass)
        return Judged(self.discriminator(made.latent, made.alpha_bar), made.weights)


@dataclass(frozen=True)
class DirectDiscriminative:
    """Direct discriminative optimisation (Zheng et al., 2025): the model's likelihood against that of `reference`.

    The logit of a latent is beta (|eps_ref - eps|^2 - |eps_pred - eps|^2), squares summed, at one shared (t, eps);
    training latents are to have a high one, the model's own samples, with weight `alpha`, a low one. No
    discriminator and no chain.
    """

    reference: Denoiser
    alpha_bars: Tensor
    beta: float
    alpha: float

    def __call__(self, denoise: Denoiser, draws: AdversarialDraws, noise_pass: NoisePass) -> Judged:
        count = len(draws.x0)
        x0 = torch.cat([noise_pass.latent[:count], draws.x0])
        eps = torch.cat([noise_pass.eps[:count], draws.eps])
        t = torch.cat([noise_pass.t[:count], draws.s])
        xt = add_noise(x0, eps, self.alpha_bars[t])
        with torch.no_grad():
            expected = (self.reference(xt, t) - eps).square().sum(dim=(1, 2, 3))
        error = (denoise(xt, t) - eps).square().sum(dim=(1, 2, 3))
        margin = self.beta * (expected - error)
        real, own = margin.split([len(margin) - count, count])
        ones = torch.ones_like(margin)
        return Judged(torch.cat([real, -own]), torch.cat([ones[: len(real)], self.alpha * ones[len(real) :]]))


@dataclass(frozen=True)
class Published:
    """The public code's formulation, for comparison only: the discriminator on the training latents themselves.

    They do not depend on the UNet, so the term is a constant and its gradient is zero.
    """

    discriminator: LatentDiscriminator

    def __call__(self, denoise: Denoiser, draws: AdversarialDraws, noise_pass: NoisePass) -> Judged:
        logits = self.discriminator(noise_pass.latent[: len(draws.t)])
        return Judged(logits, torch.ones_like(logits))


def build_maker(section: DiscriminatorSection, alpha_bars: Tensor) -> Maker | None:
    """How the latents that a discriminator judges are made; None for a form that makes none."""
    match section.form:
        case "renoise":
            return Renoise(alpha_bars)
        case "x0_prediction":
            return X0Prediction(alpha_bars, max_t=int(0.4 * len(alpha_bars)))
        case "draft_k":
            return DraftK(alpha_bars, section.draft_steps)
    return None


def build_adversarial_form(
    section: DiscriminatorSection, discriminator: LatentDiscriminator, reference: Denoiser | None, alpha_bars: Tensor
) -> AdversarialForm:
    """The form that `discriminator.form` names; `reference`, what the model was when Stage 3 began, is for ddo."""
    maker = build_maker(section, alpha_bars)
    if maker is not None:
        return JudgedByDiscriminator(discriminator, maker)
    if section.form == "ddo":
        return DirectDiscriminative(reference, alpha_bars, section.ddo_beta, section.ddo_alpha)
    return Published(discriminator)
