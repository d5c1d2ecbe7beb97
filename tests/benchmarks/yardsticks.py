"""What a user would write with stock parts: the loops that the benchmarks compare this project with."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, random_split

from core.models.discriminator import ADAM_BETAS, PENALTY_NOISE, PENALTY_WEIGHT, LatentDiscriminator
from core.training.discriminator_data import VALIDATION_SHARE


class LatentFiles(Dataset):
    """Single `.pt` latents, read whenever they are asked for, each with a label."""

    def __init__(self, files: list[Path], labels: list[float] | None = None):
        self._files, self._labels = files, labels or [0.0] * len(files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        return torch.load(self._files[index], weights_only=True), self._labels[index]


def sample_stock(unet: UNet2DModel, scheduler: DDIMScheduler, noise: Tensor, num_steps: int) -> Tensor:
    """The loop of diffusers' DDIMPipeline, without its pictures."""
    scheduler.set_timesteps(num_steps, device=noise.device)
    sample = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            sample = scheduler.step(unet(sample, t).sample, t, sample).prev_sample
    return sample


def train_stock(
    unet: UNet2DModel, scheduler: DDIMScheduler, files: list[Path], batch_size: int, learning_rate: float, steps: int
) -> float:
    """Seconds a step of diffusers' unconditional training: noise loss only, accelerate, latents from files."""
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    optimizer = torch.optim.AdamW(unet.parameters(), lr=learning_rate, betas=(0.95, 0.999), weight_decay=1e-6)
    loader = _loader(LatentFiles(files), batch_size)
    unet, optimizer, loader = accelerator.prepare(unet, optimizer, loader)
    ema = EMAModel(unet.parameters(), decay=0.999, use_ema_warmup=True)
    ema.to(accelerator.device)

    def step(batch: tuple[Tensor, Tensor]) -> None:
        clean = batch[0]
        noise = torch.randn_like(clean)
        t = torch.randint(scheduler.config.num_train_timesteps, (len(clean),), device=clean.device)
        noisy = scheduler.add_noise(clean, noise, t)
        wanted = scheduler.get_velocity(clean, noise, t) if _predicts_v(scheduler) else noise
        loss = F.mse_loss(unet(noisy, t).sample.float(), wanted)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(unet.parameters())
        loss.detach().item()  # for the log line of every step

    return _seconds_a_step(loader, step, steps)


def train_discriminator_stock(
    model: LatentDiscriminator, files: list[Path], labels: list[float], batch_size: int, learning_rate: float
) -> float:
    """Seconds a step of a plain loop over a DataLoader of files, with the project's loss written down plainly.

    Over one epoch, after three steps to warm up, with the validation at its end.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=ADAM_BETAS)
    training, held_out = random_split(LatentFiles(files, labels), [1 - VALIDATION_SHARE, VALIDATION_SHARE])
    batches, validation = _loader(training, batch_size), DataLoader(held_out, batch_size)

    def step(batch: tuple[Tensor, Tensor]) -> None:
        latents, real = batch[0].to(device), batch[1].to(device).float()
        logits = model(latents)
        moved = model(latents + PENALTY_NOISE * torch.randn_like(latents))
        penalty = PENALTY_WEIGHT * (moved - logits).square().mean()
        loss = F.binary_cross_entropy_with_logits(logits, real) + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item(), ((logits > 0) == (real > 0.5)).float().mean().item()

    @torch.no_grad()
    def validate() -> None:
        model.eval()
        for latents, real in validation:
            logits, real = model(latents.to(device)), real.to(device).float()
            F.binary_cross_entropy_with_logits(logits, real).item(), ((logits > 0) == (real > 0.5)).sum().item()

    model.train()
    for batch in itertools.islice(batches, 3):
        step(batch)
    began = time.perf_counter()
    for batch in batches:
        step(batch)
    validate()
    return (time.perf_counter() - began) / len(batches)


def _loader(data: Dataset, batch_size: int) -> DataLoader:
    """Shuffled whole batches, of everything where that is less."""
    return DataLoader(data, batch_size=min(batch_size, len(data)), shuffle=True, drop_last=True)


def _predicts_v(scheduler: DDIMScheduler) -> bool:
    return scheduler.config.prediction_type == "v_prediction"


def _seconds_a_step(loader: DataLoader, step: Callable[[tuple[Tensor, Tensor]], None], steps: int) -> float:
    """Mean over `steps` steps after three to warm up, reading of their batches included."""
    done, began = -3, 0.0
    while True:
        for batch in loader:
            if done == 0:
                began = time.perf_counter()
            step(batch)
            done += 1
            if done == steps:
                return (time.perf_counter() - began) / steps
