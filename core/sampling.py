"""Latents generated from seeds, whatever the batch they are computed in."""

from collections.abc import Sequence

import torch
from diffusers import UNet2DModel
from torch import Tensor

from core.config import ExperimentConfig
from core.diffusion import build_scheduler, ddim_timesteps, denoiser, sample_ddim
from core.progress import bar
from core.seeding import sample_noise

CPU_BATCH = 32


@torch.no_grad()
def sample_latents(
    unet: UNet2DModel,
    config: ExperimentConfig,
    seeds: Sequence[int],
    num_steps: int,
    batch_size: int,
    description: str,
) -> Tensor:
    """Latents [len(seeds), C, h, w] on the CPU, one a seed, by DDIM with `num_steps` UNet evaluations.

    On a CPU latent i is the same to the bit whatever `batch_size` is: convolutions of another batch size may
    round differently, so `CPU_BATCH` latents are always computed together. Shows a passing bar with `description`.
    """
    device = next(unet.parameters()).device
    scheduler = build_scheduler(config.scheduler)
    timesteps = ddim_timesteps(scheduler, num_steps)
    training = unet.training
    unet.eval()
    width = CPU_BATCH if device.type == "cpu" else batch_size
    parts = []
    with bar(total=len(seeds), desc=description, unit="latent", leave=False) as shown:
        for start in range(0, len(seeds), width):
            wanted = list(seeds[start : start + width])
            padded = wanted + wanted[-1:] * (width - len(wanted))
            noise = sample_noise(padded, config.latent_shape).to(device, memory_format=torch.channels_last)
            latents = sample_ddim(denoiser(unet, scheduler), noise, scheduler.alphas_cumprod, timesteps)
            parts.append(latents[: len(wanted)].cpu().contiguous())
            shown.update(len(wanted))
    unet.train(training)
    return torch.cat(parts)
