"""How fast and in how much memory this machine trains and samples a config's models, by trying a few steps."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.config.experiment import ExperimentConfig
from core.models.diffusion import build_scheduler, ddim_timesteps, sample_ddim
from core.models.discriminator import LatentDiscriminator
from core.models.sampling import sampling_denoiser
from core.networks.unet import UNet
from core.runtime.device import autocast, memory_format, peak_memory, reduced_dtype
from core.runtime.errors import InputError
from core.runtime.seeding import generator

# Latents, and steps of the sampler, that are tried.
TRIED, TRIED_STEPS = 8, 5
# A batch is tried whole if it takes no longer; else a few of its latents are, and count for all.
_MOST_SECONDS = 10.0


@dataclass(frozen=True)
class Pace:
    """Seconds of parts of a round: of the UNet on one latent, of a step of Stage 3, of a step of the discriminator.

    `step_latents` is how many latents the step was tried with, of `batch` that one has. `peak_bytes` is the most memory
    that the process, or on a GPU its tensors, have taken so far: two copies of the UNet, its gradients and moments, and
    the activations of `step_latents` latents.
    """

    evaluation: float
    step: float
    discriminator_step: float
    step_latents: int
    batch: int
    peak_bytes: int


def draw_few(unet: UNet, config: ExperimentConfig) -> tuple[Tensor, float]:
    """`TRIED` latents [N, C, h, w] on the CPU, drawn in few steps of DDIM; seconds of the UNet on one latent."""
    device = next(unet.parameters()).device
    scheduler = build_scheduler(config.scheduler)
    timesteps = ddim_timesteps(scheduler, min(TRIED_STEPS, config.scheduler.num_steps))
    noise = torch.randn((TRIED, *config.latent_shape), generator=generator(config.training.seed, "tried noise"))
    noise, denoise = noise.to(device, memory_format=memory_format(device)), sampling_denoiser(unet, config)
    with torch.no_grad():
        denoise(noise, torch.full((TRIED,), timesteps[0], device=device))  # the first call chooses algorithms
        began = time.perf_counter()
        latents = sample_ddim(denoise, noise, scheduler.alphas_cumprod, timesteps).cpu()
    return latents, (time.perf_counter() - began) / (TRIED * len(timesteps))


def measure_pace(unet: UNet, config: ExperimentConfig, evaluation: float) -> Pace:
    """The pace of training `unet`, of which copies are trained; `evaluation` are the seconds that `draw_few` found.

    Raises InputError if the memory of the GPU is too small.
    """
    device = next(unet.parameters()).device
    section = config.training
    batch = -(-section.batch_size // section.accumulation_steps)
    trained = copy.deepcopy(unet).train().requires_grad_(True)

    def noise_step(count: int) -> Tensor:
        x = torch.randn((count, *config.latent_shape), device=device)
        t = torch.zeros(count, dtype=torch.long, device=device)
        with autocast(device, reduced_dtype(device, section.use_amp)):
            return F.mse_loss(trained(x, t, return_dict=False)[0].float(), x)

    judged = LatentDiscriminator(config.autoencoder.latent_channels, config.latent_size).to(device)
    # A batch, and the same again with a little noise, for the penalty on gradients.
    judged_count = 2 * config.rounds.discriminator.batch_size

    def discriminator_step(count: int) -> Tensor:
        logits: Tensor = judged(torch.randn((count, *config.latent_shape), device=device))
        return logits.square().mean()

    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
            step, tried = _seconds(noise_step, trained, batch, device)
            discriminator, _ = _seconds(discriminator_step, judged, judged_count, device)
    except torch.OutOfMemoryError:
        raise InputError(
            f"training.batch_size {section.batch_size}: a step does not fit into the memory of {device}: raise "
            "training.accumulation_steps, or set unet.gradient_checkpointing: true"
        ) from None
    return Pace(evaluation, step * section.accumulation_steps, discriminator, tried, batch, peak_memory(device))


def _seconds(loss: Callable[[int], Tensor], model: nn.Module, batch: int, device: torch.device) -> tuple[float, int]:
    """Seconds of an optimizer step on a batch, and how many of its latents were tried."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def step(count: int) -> float:
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss(count).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    tried = min(TRIED, batch)
    step(tried)  # the first step allocates, and chooses algorithms
    seconds = step(tried)
    if tried == batch or seconds * batch / tried > _MOST_SECONDS:
        return seconds * batch / tried, tried
    return min(step(batch), step(batch)), batch
