"""The adversarial term: a form draws for a batch what it scores, and computes losses from the UNet's predictions.

The term is their weighted mean. Every form trains the UNet, except for the published one.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from core.models.adversarial_draws import (
    AdversarialDraws,
    BatchDraws,
    LabelledDraws,
    PairDraws,
    TrajectoryDraws,
    lowest_timesteps,
)
from core.models.diffusion import Denoiser, add_noise, predict_x0
from core.models.discriminator import LatentDiscriminator
from core.models.labelled_latents import LabelledPairs, RealLatents
from core.models.losses import adversarial_losses
from core.models.trajectories import Trajectories
from core.runtime.batch_shares import whole_batch_dropout

# Latents have unit variance; a one-step estimate beyond four deviations is an artefact of high noise.
LATENT_RANGE = 4.0
# negative_aware noises labelled latents to timesteps between these shares of them.
_LABELLED_T = (0.05, 0.95)

Draws = TypeVar("Draws", bound=AdversarialDraws)


class NoisePass(NamedTuple):
    """The evaluation of the noise term: `x0`, its noise `eps` and `x0_pred` [B, C, h, w] at timesteps `t` [B]."""

    x0: Tensor
    eps: Tensor
    t: Tensor
    x0_pred: Tensor


class WeightedLosses(NamedTuple):
    """Losses [P], the weight [P] of each in the term, and what the term divides by."""

    losses: Tensor
    weights: Tensor
    total: Tensor


class NoisedSamples(NamedTuple):
    """Samples [P, C, h, w] of the model with noise of the level `alpha_bar` [P]."""

    latent: Tensor
    alpha_bar: Tensor


class AdversarialForm(Protocol[Draws]):
    """One form of the adversarial term."""

    def draw(self, t: Tensor, count: int, held_out: bool, rng: torch.Generator) -> Draws:
        """Everything random about `count` losses of a batch at timesteps `t` [B]; `held_out` for validation."""
        ...

    def __call__(self, denoise: Denoiser, draws: Draws, noise_pass: NoisePass) -> WeightedLosses:
        """The losses whose weighted mean is the term."""
        ...


# A form and its draws belong together: only the form that drew them is called with them.
AnyForm = AdversarialForm[Any]


class SampleFn(Protocol):
    """How the model makes samples from states of its own trajectories, with gradient."""

    def __call__(self, denoise: Denoiser, draws: TrajectoryDraws) -> NoisedSamples:
        """The samples, one for each state."""
        ...


@dataclass(frozen=True)
class Renoise:
    """q(x0_pred, s): the one-step x0_pred of a trajectory state, noised to a level s >= t / 2.

    Noise at a level comparable to t hides the detail that a one-step estimate cannot have, so the discriminator
    sees what it was trained on (DMD2, Yin et al., 2024; Diffusion-GAN, Wang et al., 2022).
    """

    alpha_bars: Tensor

    def __call__(self, denoise: Denoiser, draws: TrajectoryDraws) -> NoisedSamples:
        x0_pred = predict_x0(draws.xt, denoise(draws.xt, draws.t), self.alpha_bars[draws.t])
        alpha_bar = self.alpha_bars[draws.s]
        return NoisedSamples(add_noise(x0_pred.clamp(-LATENT_RANGE, LATENT_RANGE), draws.eps, alpha_bar), alpha_bar)


@dataclass(frozen=True)
class DraftK:
    """The clean latent that K DDIM steps with gradient reach from a trajectory state.

    DRaFT-K (Clark et al., 2024) from a random start: the K steps stride from the state's t down to 0.
    """

    alpha_bars: Tensor
    steps: int

    def __call__(self, denoise: Denoiser, draws: TrajectoryDraws) -> NoisedSamples:
        x, t = draws.xt, draws.t
        for remaining in reversed(range(self.steps)):
            eps_pred = denoise(x, t)
            x = predict_x0(x, eps_pred, self.alpha_bars[t])
            if remaining:
                t = draws.t * remaining // self.steps
                x = add_noise(x, eps_pred, self.alpha_bars[t])
        return NoisedSamples(x.clamp(-LATENT_RANGE, LATENT_RANGE), torch.ones_like(self.alpha_bars[t]))


@dataclass(frozen=True)
class ScoredSamples:
    """The discriminator's logits of samples that the model makes from its own trajectories: renoise and draft_k."""

    discriminator: LatentDiscriminator
    sample_fn: SampleFn
    trajectories: Trajectories
    num_timesteps: int

    def draw(self, t: Tensor, count: int, held_out: bool, rng: torch.Generator) -> TrajectoryDraws:
        """`count` random states, all of weight 1."""
        return self.draw_states(count, held_out, rng)

    def draw_states(self, count: int, held_out: bool, rng: torch.Generator) -> TrajectoryDraws:
        """`draw_states`: the states do not depend on the batch, so `t` is not used."""
        states, weights = self.trajectories.draw(count, self.num_timesteps, held_out, rng), torch.ones(count)
        return TrajectoryDraws(states.xt, states.t, states.s, states.eps, weights, weights.sum())

    def __call__(self, denoise: Denoiser, draws: TrajectoryDraws, noise_pass: NoisePass | None) -> WeightedLosses:
        with whole_batch_dropout(draws.rows):
            samples = self.sample_fn(denoise, draws)
        logits = self.discriminator(samples.latent, samples.alpha_bar)
        return WeightedLosses(adversarial_losses(logits), draws.weights, draws.total)


@dataclass(frozen=True)
class X0Prediction:
    """The discriminator's logits of the clean x0_pred of training latents with t up to `max_t`; weight alpha_bar.

    No extra UNet evaluation: it uses that of the noise term.
    """

    discriminator: LatentDiscriminator
    alpha_bars: Tensor
    max_t: int

    def draw(self, t: Tensor, count: int, held_out: bool, rng: torch.Generator) -> BatchDraws:
        """The `count` latents of the lowest timesteps; nothing is random."""
        return lowest_timesteps(t, count, self.alpha_bars.cpu(), self.max_t)

    def __call__(self, denoise: Denoiser, draws: BatchDraws, noise_pass: NoisePass) -> WeightedLosses:
        x0_pred = noise_pass.x0_pred[draws.positions].clamp(-LATENT_RANGE, LATENT_RANGE)
        logits = self.discriminator(x0_pred, torch.ones_like(draws.weights))
        return WeightedLosses(adversarial_losses(logits), draws.weights, draws.total)


@dataclass(frozen=True)
class DirectDiscriminative:
    """Direct discriminative optimisation (Zheng et al., 2025): the model's likelihood against that of `reference`.

    The logit of a latent is beta (|eps_ref - eps|^2 - |eps_pred - eps|^2), squares summed, at one shared (t, eps).
    The term pushes it up for training latents and, with weight `alpha`, down for the model's own samples. There is no
    discriminator and no chain.
    """

    reference: Denoiser
    trajectories: Trajectories
    alpha_bars: Tensor
    beta: float
    alpha: float

    def draw(self, t: Tensor, count: int, held_out: bool, rng: torch.Generator) -> PairDraws:
        """The first `count` latents of the batch and as many random samples, all of weight 1."""
        states, weights = self.trajectories.draw(count, len(self.alpha_bars), held_out, rng), torch.ones(count)
        return PairDraws(torch.arange(count), states.x0, states.s, states.eps, weights, weights.sum())

    def __call__(self, denoise: Denoiser, draws: PairDraws, noise_pass: NoisePass) -> WeightedLosses:
        real = draws.positions
        x0 = torch.cat([noise_pass.x0[real], draws.x0])
        eps = torch.cat([noise_pass.eps[real], draws.eps])
        t = torch.cat([noise_pass.t[real], draws.s])
        xt = add_noise(x0, eps, self.alpha_bars[t])
        with whole_batch_dropout(draws.rows):
            with torch.no_grad():
                reference_error = (self.reference(xt, t) - eps).square().sum(dim=(1, 2, 3))
            error = (denoise(xt, t) - eps).square().sum(dim=(1, 2, 3))
        real_logits, sample_logits = torch.split(self.beta * (reference_error - error), [len(real), len(draws.x0)])
        weights = torch.cat([draws.weights, self.alpha * draws.weights])
        losses = adversarial_losses(torch.cat([real_logits, -sample_logits]))
        return WeightedLosses(losses, weights, draws.total * (1 + self.alpha))


@dataclass(frozen=True)
class NegativeAware:
    """Negative-aware fine-tuning (DiffusionNFT, Zheng et al., 2025, arXiv 2509.16117), without a discriminator.

    With the prediction p_old of `reference`, which drew the labelled latents, and p of the model, the loss of a viable
    latent is |(1 - b) p_old + b p - target|^2, and of another |(1 + b) p_old - b p - target|^2, where b is `beta`: the
    first moves the model towards the latent, the second away from it. Squares are averaged over the latent. What is
    compared is what the UNet predicts: v, whose error is that of eps over sqrt(alpha_bar), or eps. The `real` latents
    stand in for a share of the viable ones.
    """

    reference: Denoiser
    pairs: LabelledPairs
    alpha_bars: Tensor
    beta: float
    predicts_v: bool
    real: RealLatents | None = None

    def draw(self, t: Tensor, count: int, held_out: bool, rng: torch.Generator) -> LabelledDraws:
        """`count` latents in pairs of a viable and another, at timesteps from 0.05 T to 0.95 T, all of weight 1."""
        labelled, timesteps = self.pairs.labelled, len(self.alpha_bars)
        rows = torch.stack(self.pairs.draw(-(-count // 2), held_out, rng), dim=1).flatten()[:count]
        x0 = labelled.latents[rows].float()
        viable = torch.where(labelled.viable[rows], 1.0, -1.0)
        if self.real is not None:
            stand_ins = self.real.draw(int((viable > 0).sum()), held_out, rng)
            x0[(viable > 0).nonzero().squeeze(1)[: len(stand_ins)]] = stand_ins
        low, high = (int(share * timesteps) for share in _LABELLED_T)
        s = torch.randint(low, max(high, low + 1), (count,), generator=rng)
        weights = torch.ones(count)
        return LabelledDraws(x0, viable, s, torch.randn(x0.shape, generator=rng), weights, weights.sum())

    def __call__(self, denoise: Denoiser, draws: LabelledDraws, noise_pass: NoisePass | None) -> WeightedLosses:
        alpha_bar = self.alpha_bars[draws.t]
        xt = add_noise(draws.x0, draws.eps, alpha_bar)
        with whole_batch_dropout(draws.rows):
            with torch.no_grad():
                eps_old = self.reference(xt, draws.t)
            eps_pred = denoise(xt, draws.t)
        implicit = eps_old + self.beta * draws.viable[:, None, None, None] * (eps_pred - eps_old)
        losses = (implicit - draws.eps).square().mean(dim=(1, 2, 3))
        return WeightedLosses(losses / alpha_bar if self.predicts_v else losses, draws.weights, draws.total)


@dataclass(frozen=True)
class Published:
    """The form of the public code, for comparison only: the discriminator's logits of the training latents themselves.

    They do not depend on the UNet, so the term is a constant and its gradient is zero.
    """

    discriminator: LatentDiscriminator

    def draw(self, t: Tensor, count: int, held_out: bool, rng: torch.Generator) -> BatchDraws:
        """The first `count` latents of the batch, all of weight 1; nothing is random."""
        weights = torch.ones(count)
        return BatchDraws(torch.arange(count), weights, weights.sum())

    def __call__(self, denoise: Denoiser, draws: BatchDraws, noise_pass: NoisePass) -> WeightedLosses:
        logits = self.discriminator(noise_pass.x0[draws.positions])
        return WeightedLosses(adversarial_losses(logits), draws.weights, draws.total)
