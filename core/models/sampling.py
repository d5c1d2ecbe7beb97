"""Latents generated from seeds, the same in batches of any size."""

import contextlib
import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from core.config.experiment import ExperimentConfig
from core.config.round_sections import SamplerName
from core.models.diffusion import (
    Denoiser,
    build_dpm_solver,
    build_scheduler,
    ddim_timesteps,
    denoiser,
    sample_ddim,
    sample_dpm_solver,
)
from core.networks.unet import UNet
from core.runtime import distributed
from core.runtime.device import memory_format, reduced_dtype
from core.runtime.errors import InputError
from core.runtime.prefetching import prefetch_map
from core.runtime.progress import counting_bar
from core.runtime.seeding import sample_noise

# Latents per batch on a CPU. bfloat16 gains more over fp32 at 64 than at 32, and a sample grid is one batch.
CPU_BATCH = 64
# Most batches that are computed side by side. Their threads share one interpreter, which limits the gain.
_SIDE_BY_SIDE = 4


def require_steps(num_steps: int, config: ExperimentConfig) -> None:
    """InputError if a command asks for more steps than the config's noise schedule has."""
    if num_steps > config.scheduler.num_steps:
        raise InputError(
            f"--num_steps {num_steps}: it must be at most the diffusion config's scheduler.num_steps "
            f"{config.scheduler.num_steps}"
        )


def sampling_denoiser(unet: UNet, config: ExperimentConfig) -> Denoiser:
    """A copy of the UNet in eval mode as a `Denoiser`, in bfloat16 where that is faster.

    `training.use_amp: false` keeps fp32. The chain itself and the conversion of a predicted v to eps stay in fp32.
    """
    device = next(unet.parameters()).device
    dtype = reduced_dtype(device, config.training.use_amp) or torch.float32
    own = copy.deepcopy(unet).eval()
    # Not diffusers' own `to`, which warns without need.
    nn.Module.to(own, dtype=dtype, memory_format=memory_format(device))  # type: ignore[call-overload]  # torch omits it

    def evaluate(xt: Tensor, t: Tensor, return_dict: bool) -> tuple[Tensor]:
        prediction: tuple[Tensor] = own(xt.to(dtype), t, return_dict=return_dict)
        return prediction

    return denoiser(evaluate, build_scheduler(config.scheduler))


def sample_latents(
    unet: UNet,
    config: ExperimentConfig,
    seeds: Sequence[int],
    num_steps: int,
    batch_size: int,
    description: str,
    sampler: SamplerName = "ddim",
) -> Tensor:
    """Latents [len(seeds), C, h, w] on the CPU, one per seed, by a sampler with `num_steps` UNet evaluations.

    On a CPU, latent i has the same bits for every `batch_size` and number of threads. Convolutions of another batch
    size may round differently, so a CPU always computes `CPU_BATCH` latents together, on a power of two of threads.
    Of several processes each computes some of the batches, and all get all latents. Shows a progress bar with
    `description`.
    """
    device = next(unet.parameters()).device
    scheduler = build_scheduler(config.scheduler)
    timesteps = ddim_timesteps(scheduler, num_steps)
    denoise = sampling_denoiser(unet, config)
    width = CPU_BATCH if device.type == "cpu" else batch_size
    starts = distributed.own(range(0, len(seeds), width))
    workers, threads = 0, torch.get_num_threads()
    if device.type == "cpu":
        workers, threads = _split_threads(threads, max(1, len(starts)))

    @torch.no_grad()
    def sample(start: int) -> Tensor:
        torch.set_num_threads(threads)
        wanted = list(seeds[start : start + width])
        padded = wanted + wanted[-1:] * (width - len(wanted))
        noise = sample_noise(padded, config.latent_shape).to(device, memory_format=memory_format(device))
        if sampler == "dpm_solver":
            latents = sample_dpm_solver(denoise, noise, build_dpm_solver(config.scheduler), num_steps)
        else:
            latents = sample_ddim(denoise, noise, scheduler.alphas_cumprod, timesteps)
        return latents[: len(wanted)].cpu().contiguous()

    parts = [torch.empty(0, *config.latent_shape)]
    own = [index for start in starts for index in range(start, min(start + width, len(seeds)))]
    with counting_bar(len(own), description, "latent", leave=False) as shown, _restored_threads():
        for part in prefetch_map(sample, starts, workers):
            parts.append(part)
            shown.update(len(part))
    return distributed.gathered(torch.cat(parts), own, len(seeds))


def _split_threads(threads: int, batches: int) -> tuple[int, int]:
    """(batches to compute side by side, threads of each); 0 batches means one at a time in the caller's thread.

    Maps are small, so several batches with few threads each are faster than one batch with many. All counts are powers
    of two, because 3 or 6 threads split sums at other places than 1, 2, 4 and 8 threads do, and so round differently.
    """
    threads = _power_of_two(threads)
    workers = min(threads, _power_of_two(batches), _SIDE_BY_SIDE)
    return (workers, threads // workers) if workers > 1 else (0, threads)


def _power_of_two(number: int) -> int:
    """The largest power of two up to `number`, which is at least 1."""
    return 1 << (number.bit_length() - 1)


@contextlib.contextmanager
def _restored_threads() -> Iterator[None]:
    """Restores torch's number of threads at the end."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
