"""Latents generated from seeds, whatever the batch they are computed in."""

from collections.abc import Sequence

import torch
from diffusers import UNet2DModel
from torch import Tensor
from tqdm import tqdm

from core.config import ExperimentConfig
from core.diffusion import build_scheduler, ddim_timesteps, denoiser, sample_ddim
from core.seeding import sample_noise


@torch.no_grad()
def sample_latents(
    unet: UNet2DModel,
    config: ExperimentConfig,
    seeds: Sequence[int],
    num_steps: int,
    batch_size: int,
    description: str | None = None,
) -> Tensor:
    """Latents [len(seeds), C, h, w] on the CPU, one a seed, by DDIM with `num_steps` UNet evaluations.

    Shows a progress bar if it has a `description`.
    """
    device = next(unet.parameters()).device
    scheduler = build_scheduler(config.scheduler)
    timesteps = ddim_timesteps(scheduler, num_steps)
    training = unet.training
    unet.eval()
    parts = []
    with tqdm(total=len(seeds), desc=description, unit="latent", disable=None if description else True) as bar:
        for start in range(0, len(seeds), batch_size):
            noise = sample_noise(seeds[start : start + batch_size], config.latent_shape)
            noise = noise.to(device, memory_format=torch.channels_last)
            parts.append(sample_ddim(denoiser(unet), noise, scheduler.alphas_cumprod, timesteps).cpu().contiguous())
            bar.update(len(noise))
    unet.train(training)
    return torch.cat(parts)
