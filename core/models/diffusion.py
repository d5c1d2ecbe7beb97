"""The noise schedule and the DDIM sampler.

Notation: `x0` clean latent, `xt` latent at timestep t, `eps` noise, `alpha_bar` cumulative share of the signal.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from core.config.model_sections import SchedulerSection
from core.networks.unet import UNet
from core.runtime.errors import InputError

# (xt [B, C, h, w], t [B]) -> eps_pred [B, C, h, w].
Denoiser = Callable[[Tensor, Tensor], Tensor]

# The cosine schedule is Nichol & Dhariwal (2021) with beta clamped to 0.999; the linear one is Ho et al. (2020).
_BETA_SCHEDULES = {"CosineScheduler": "squaredcos_cap_v2", "LinearScheduler": "linear"}


def build_scheduler(section: SchedulerSection) -> DDIMScheduler:
    """diffusers' scheduler with the configured schedule, without clipping; the last step ends at the clean latent."""
    return DDIMScheduler(
        **_schedule(section),
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type=section.prediction_type,
    )


def _schedule(section: SchedulerSection) -> dict[str, Any]:
    """The arguments of a scheduler of diffusers that give it the configured schedule."""
    betas = section.trained_betas
    return {
        "num_train_timesteps": section.num_steps,
        "beta_schedule": _BETA_SCHEDULES[section.type],
        "trained_betas": None if betas is None else np.array(betas, dtype=np.float32),
    }


def denoiser(unet: UNet | Callable[..., tuple[Tensor]], scheduler: DDIMScheduler) -> Denoiser:
    """The UNet as a `Denoiser`, which returns eps_pred in fp32 whether the UNet predicts eps, v or x0.

    From v = sqrt(ab) eps - sqrt(1 - ab) x0 (Salimans & Ho, 2022) follows eps_pred = sqrt(ab) v + sqrt(1 - ab) xt. At
    high noise, the error of x0 is then as small as that of v. With a prediction of eps it is 1 / sqrt(ab) times larger.
    From x0 follows eps_pred = (xt - sqrt(ab) x0) / sqrt(1 - ab).
    """
    prediction_type = scheduler.config.prediction_type
    if prediction_type == "epsilon":
        return lambda xt, t: unet(xt, t, return_dict=False)[0].float()

    def denoise(xt: Tensor, t: Tensor) -> Tensor:
        alpha_bar = scheduler.alphas_cumprod.to(xt.device)[t][:, None, None, None]
        signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        predicted = unet(xt, t, return_dict=False)[0].float()
        if prediction_type == "sample":
            eps_pred: Tensor = (xt - signal * predicted) / noise
            return eps_pred
        eps_pred = signal * predicted + noise * xt
        return eps_pred

    return denoise


def add_noise(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """xt = sqrt(ab) x0 + sqrt(1 - ab) eps ~ q(xt | x0), equation 4 of Ho et al. (2020); `alpha_bar` [B]."""
    alpha_bar = alpha_bar[:, None, None, None]
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps


def predict_x0(xt: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """x0 from xt and eps, the inverse of `add_noise`; `alpha_bar` [B]."""
    alpha_bar = alpha_bar[:, None, None, None]
    return (xt - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()


class DDIMState(NamedTuple):
    """State of a sampling chain before evaluation number `position`: `xt` [B, C, h, w] at timestep `t`."""

    position: int
    t: int
    xt: Tensor


def ddim_timesteps(scheduler: DDIMScheduler, num_steps: int) -> list[int]:
    """`num_steps` timesteps by diffusers' leading spacing, noisiest first; InputError if the schedule has fewer."""
    if num_steps > len(scheduler.betas):
        raise InputError(
            f"num_steps {num_steps} of the sampler: it must be at most scheduler.num_steps {len(scheduler.betas)}"
        )
    scheduler.set_timesteps(num_steps)
    timesteps: list[int] = scheduler.timesteps.tolist()
    return timesteps


def ddim_chain(denoise: Denoiser, xt: Tensor, alpha_bars: Tensor, timesteps: list[int]) -> Iterator[DDIMState]:
    """Every state of deterministic DDIM, equation 12 of Song et al. (2021); the clean latent (t = -1) is the last.

    An update is linear in xt and eps, so it is one fused operation, with coefficients computed in float64.
    """
    alpha_bars = alpha_bars.double().cpu()
    for position, t in enumerate(timesteps):
        yield DDIMState(position, t, xt)
        eps = denoise(xt, torch.full((len(xt),), t, device=xt.device))
        alpha_bar = alpha_bars[t]
        previous = alpha_bars[timesteps[position + 1]] if position + 1 < len(timesteps) else torch.ones(())
        scale = (previous / alpha_bar).sqrt()
        xt = torch.add(xt * scale.item(), eps, alpha=((1 - previous).sqrt() - scale * (1 - alpha_bar).sqrt()).item())
    yield DDIMState(len(timesteps), -1, xt)


def sample_ddim(denoise: Denoiser, noise: Tensor, alpha_bars: Tensor, timesteps: list[int]) -> Tensor:
    """Clean latents [B, C, h, w] from `noise` by DDIM. Gradients flow unless the caller disables them."""
    *_, last = ddim_chain(denoise, noise, alpha_bars, timesteps)
    return last.xt


def build_dpm_solver(section: SchedulerSection) -> DPMSolverMultistepScheduler:
    """diffusers' DPM-Solver++(2M) (Lu et al., 2022) for predictions of eps, on the configured schedule.

    A cosine schedule ends at pure noise, whose log-SNR is infinite: diffusers advises to clip it at -5.1.
    """
    return DPMSolverMultistepScheduler(
        **_schedule(section),
        prediction_type="epsilon",
        algorithm_type="dpmsolver++",
        solver_order=2,
        lambda_min_clipped=-5.1,
    )


def sample_dpm_solver(denoise: Denoiser, noise: Tensor, solver: DPMSolverMultistepScheduler, num_steps: int) -> Tensor:
    """Clean latents [B, C, h, w] from `noise` by `num_steps` steps of `solver`, which is left at their end."""
    solver.set_timesteps(num_steps)
    xt = noise
    for t in solver.timesteps.tolist():
        eps = denoise(xt, torch.full((len(xt),), t, device=xt.device))
        xt = solver.step(eps, t, xt, return_dict=False)[0]
    return xt
