"""What the adversarial term judges, and by what: every form is a function of the UNet, but for the published one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from core.config.discriminator_sections import DiscriminatorSection
from core.models.diffusion import Denoiser, add_noise, predict_x0
from core.models.discriminator import LatentDiscriminator
from core.runtime.shares import Rows, Share

# Latents have unit variance; beyond four deviations a one-step estimate is an artefact of high noise.
LATENT_RANGE = 4.0


class AdversarialDraws(NamedTuple):
    """States of the model's own trajectories and what is drawn for them.

    `xt` [A, C, h, w] at timesteps `t` [A]; `x0` [A, C, h, w] where their trajectories end; `s` [A] timesteps and
    `eps` [A, C, h, w] noise of the re-noising. `positions` [P] of the batch's own latents that a form may judge, and
    `weights` [P] of what is judged, with their sum `total`. `rows` says which of more draws these are, if they are a
    part; `total` is then the sum of all, over the number of parts.
    """

    xt: Tensor
    t: Tensor
    x0: Tensor
    s: Tensor
    eps: Tensor
    positions: Tensor
    weights: Tensor
    total: Tensor
    rows: Rows | None = None

    def to(self, device: torch.device) -> "AdversarialDraws":
        """The same draws on `device`."""
        return AdversarialDraws(*(value.to(device) if isinstance(value, Tensor) else value for value in self))

    def part(self, share: Share) -> "AdversarialDraws":
        """The share of these draws, with those of the positions that lie in the share of the batch.

        A share of none is one row of weight 0, so that every model is given something.
        """
        rows = share.rows(len(self.t))
        if not len(rows.positions):
            rows = rows._replace(positions=torch.zeros(1, dtype=torch.long))
        mine, positions = share.find(self.positions)
        weights = self.weights[mine]
        if not len(mine):
            positions, weights = positions.new_zeros(1), weights.new_zeros(1)
        drawn = (value[rows.positions] for value in (self.xt, self.t, self.x0, self.s, self.eps))
        return AdversarialDraws(*drawn, positions, weights, self.total / share.count, rows)


class NoisePass(NamedTuple):
    """The noise term's own evaluation: `latent`, its noise `eps` and `x0_pred` [B, C, h, w] at timesteps `t` [B]."""

    latent: Tensor
    eps: Tensor
    t: Tensor
    x0_pred: Tensor


class WeightedLogits(NamedTuple):
    """Logits [P] of what is judged, the weight of each in the loss, and what the weights are divided by."""

    logits: Tensor
    weights: Tensor
    total: Tensor


class NoisedSamples(NamedTuple):
    """Latents [P, C, h, w] that the model made, with noise of the level `alpha_bar` [P]."""

    latent: Tensor
    alpha_bar: Tensor


AdversarialForm = Callable[[Denoiser, AdversarialDraws, NoisePass], WeightedLogits]


@dataclass(frozen=True)
class Renoise:
    """Make q(x0_pred, s) of the one-step x0_pred of a trajectory state, at noise level s >= t / 2.

    Noise at a level comparable to t hides the detail a one-step estimate cannot have, so the discriminator
    sees what it was trained on (DMD2, Yin et al., 2024; Diffusion-GAN, Wang et al., 2022).
    """

    alpha_bars: Tensor

    def __call__(self, denoise: Denoiser, draws: AdversarialDraws, noise_pass: NoisePass | None) -> NoisedSamples:
        own = predict_x0(draws.xt, denoise(draws.xt, draws.t), self.alpha_bars[draws.t])
        own = own.clamp(-LATENT_RANGE, LATENT_RANGE)
        level = self.alpha_bars[draws.s]
        return NoisedSamples(add_noise(own, draws.eps, level), level)


@dataclass(frozen=True)
class X0Prediction:
    """Make the clean x0_pred of noised training latents, those with t below `max_t`; weight alpha_bar.

    No extra UNet evaluation: it reuses the noise term's forward pass.
    """

    alpha_bars: Tensor
    max_t: int

    def __call__(self, denoise: Denoiser, draws: AdversarialDraws, noise_pass: NoisePass | None) -> NoisedSamples:
        own = noise_pass.x0_pred[draws.positions].clamp(-LATENT_RANGE, LATENT_RANGE)
        return NoisedSamples(own, torch.ones_like(draws.weights))

    def chosen(self, draws: AdversarialDraws, t: Tensor) -> AdversarialDraws:
        """`draws` that take, of a whole batch at timesteps `t` [B], as many latents as they are, of the lowest t."""
        lowest = t.argsort(stable=True)[: len(draws.t)]
        weights = self.alpha_bars.cpu()[t[lowest]] * (t[lowest] <= self.max_t)
        return draws._replace(positions=lowest, weights=weights, total=weights.sum())


@dataclass(frozen=True)
class DraftK:
    """Make the clean latent reached from a trajectory state in K DDIM steps that carry gradient.

    DRaFT-K (Clark et al., 2024) from a random start: the K steps stride from the state's t down to 0.
    """

    alpha_bars: Tensor
    steps: int

    def __call__(self, denoise: Denoiser, draws: AdversarialDraws, noise_pass: NoisePass | None) -> NoisedSamples:
        own, now = draws.xt, draws.t
        for remaining in reversed(range(self.steps)):
            eps_pred = denoise(own, now)
            own = predict_x0(own, eps_pred, self.alpha_bars[now])
            if remaining:
                now = draws.t * remaining // self.steps
                own = add_noise(own, eps_pred, self.alpha_bars[now])
        return NoisedSamples(own.clamp(-LATENT_RANGE, LATENT_RANGE), torch.ones_like(self.alpha_bars[now]))


SampleFn = Callable[[Denoiser, AdversarialDraws, NoisePass | None], NoisedSamples]


@dataclass(frozen=True)
class JudgedByDiscriminator:
    """The discriminator's logits of what the model makes."""

    discriminator: LatentDiscriminator
    make: SampleFn

    def __call__(self, denoise: Denoiser, draws: AdversarialDraws, noise_pass: NoisePass) -> WeightedLogits:
        made = self.make(denoise, draws, noise_pass)
        return WeightedLogits(self.discriminator(made.latent, made.alpha_bar), draws.weights, draws.total)


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

    def __call__(self, denoise: Denoiser, draws: AdversarialDraws, noise_pass: NoisePass) -> WeightedLogits:
        taken = draws.positions
        x0 = torch.cat([noise_pass.latent[taken], draws.x0])
        eps = torch.cat([noise_pass.eps[taken], draws.eps])
        t = torch.cat([noise_pass.t[taken], draws.s])
        xt = add_noise(x0, eps, self.alpha_bars[t])
        with torch.no_grad():
            expected = (self.reference(xt, t) - eps).square().sum(dim=(1, 2, 3))
        error = (denoise(xt, t) - eps).square().sum(dim=(1, 2, 3))
        margin = self.beta * (expected - error)
        real, own = margin.split([len(taken), len(draws.x0)])
        weights = torch.cat([draws.weights, self.alpha * draws.weights])
        return WeightedLogits(torch.cat([real, -own]), weights, draws.total * (1 + self.alpha))


@dataclass(frozen=True)
class Published:
    """The public code's formulation, for comparison only: the discriminator on the training latents themselves.

    They do not depend on the UNet, so the term is a constant and its gradient is zero.
    """

    discriminator: LatentDiscriminator

    def __call__(self, denoise: Denoiser, draws: AdversarialDraws, noise_pass: NoisePass) -> WeightedLogits:
        logits = self.discriminator(noise_pass.latent[draws.positions])
        return WeightedLogits(logits, draws.weights, draws.total)


def build_sample_fn(section: DiscriminatorSection, alpha_bars: Tensor) -> SampleFn | None:
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
    maker = build_sample_fn(section, alpha_bars)
    if maker is not None:
        return JudgedByDiscriminator(discriminator, maker)
    if section.form == "ddo":
        return DirectDiscriminative(reference, alpha_bars, section.ddo_beta, section.ddo_alpha)
    return Published(discriminator)
