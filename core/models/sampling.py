"""Latents generated from seeds, whatever the batch they are computed in."""

import contextlib
import copy
from collections.abc import Iterator, Sequence

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from core.config.experiment import ExperimentConfig
from core.models.diffusion import Denoiser, build_scheduler, ddim_timesteps, denoiser, sample_ddim
from core.runtime.device import memory_format, reduced_dtype
from core.runtime.prefetching import prefetch_map
from core.runtime.progress import counting_bar
from core.runtime.seeding import sample_noise

# Latents computed together on a CPU: bfloat16 gains more over fp32 at 64 than at 32, and a sample grid is one batch.
CPU_BATCH = 64
# Batches at a time, at most: what a step costs besides its arithmetic is one interpreter's.
_SIDE_BY_SIDE = 4


def sampling_denoiser(unet: UNet2DModel, config: ExperimentConfig) -> Denoiser:
    """What the UNet computes when it only samples: a copy of it in eval mode, in bfloat16 where that is faster.

    `training.use_amp: false` keeps fp32. The chain itself, and how eps follows from a predicted v, stay in fp32.
    """
    device = next(unet.parameters()).device
    dtype = reduced_dtype(device, config.training.use_amp) or torch.float32
    own = copy.deepcopy(unet).eval()
    nn.Module.to(own, dtype=dtype, memory_format=memory_format(device))  # diffusers' own warns about nothing

    def evaluate(xt: Tensor, t: Tensor, return_dict: bool) -> tuple[Tensor]:
        return own(xt.to(dtype), t, return_dict=return_dict)

    return denoiser(evaluate, build_scheduler(config.scheduler))


def sample_latents(
    unet: UNet2DModel,
    config: ExperimentConfig,
    seeds: Sequence[int],
    num_steps: int,
    batch_size: int,
    description: str,
) -> Tensor:
    """Latents [len(seeds), C, h, w] on the CPU, one a seed, by DDIM with `num_steps` UNet evaluations.

    On a CPU latent i is the same to the bit whatever `batch_size` and the number of threads are: convolutions of
    another batch size may round differently, so `CPU_BATCH` latents are always computed together, on as many threads
    as round alike. Shows a passing bar with `description`.
    """
    device = next(unet.parameters()).device
    scheduler = build_scheduler(config.scheduler)
    timesteps = ddim_timesteps(scheduler, num_steps)
    denoise = sampling_denoiser(unet, config)
    width = CPU_BATCH if device.type == "cpu" else batch_size
    starts = range(0, len(seeds), width)
    workers, threads = 0, torch.get_num_threads()
    if device.type == "cpu":
        workers, threads = _split_threads(threads, len(starts))

    @torch.no_grad()
    def sample(start: int) -> Tensor:
        torch.set_num_threads(threads)
        wanted = list(seeds[start : start + width])
        padded = wanted + wanted[-1:] * (width - len(wanted))
        noise = sample_noise(padded, config.latent_shape).to(device, memory_format=memory_format(device))
        latents = sample_ddim(denoise, noise, scheduler.alphas_cumprod, timesteps)
        return latents[: len(wanted)].cpu().contiguous()

    parts = []
    with counting_bar(len(seeds), description, "latent", leave=False) as shown, _threads_as_before():
        for part in prefetch_map(sample, starts, workers):
            parts.append(part)
            shown.update(len(part))
    return torch.cat(parts)


def _split_threads(threads: int, batches: int) -> tuple[int, int]:
    """How many batches are computed side by side, 0 for one in the caller's thread, and on how many threads each.

    Maps are small: threads of their own serve batches better than sharing one. All counts are powers of two, as 3 or 6
    threads cut sums elsewhere than 1, 2, 4 and 8 do.
    """
    threads = _power_of_two(threads)
    workers = min(threads, _power_of_two(batches), _SIDE_BY_SIDE)
    return (workers, threads // workers) if workers > 1 else (0, threads)


def _power_of_two(number: int) -> int:
    """The largest one up to `number`."""
    return 2 ** (number.bit_length() - 1)


@contextlib.contextmanager
def _threads_as_before() -> Iterator[None]:
    """Afterwards torch computes on as many threads as before."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
