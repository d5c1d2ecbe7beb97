"""The documented sizes on a GPU: what a round costs there, against stock loops and against the card's matrix rate.

    python -m tests.benchmarks.gpu [--toy]

UNet 128 of depth 4 on 16x32x32 latents, on layouts that it generates itself; no network, under ten minutes. 5,000
latents of 100 steps and 50 epochs of the discriminator on 10,000 latents are run whole; 25 epochs of Stage 3 on 50,000
latents are computed from the time of a step. `--toy` runs the same on a CPU at a toy size, to see that it runs. Prints
the figures and writes them to tests/benchmarks/gpu.csv (not with `--toy`).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from core.inputs.tensor_files import save_tensors
from core.models.sampling import sample_latents
from core.networks.unet import build_unet
from core.runtime.device import pick_device, reduced_dtype
from core.training.train_discriminator import DiscriminatorRequest, train_discriminator
from tests.benchmarks.results import machine, write_results
from tests.benchmarks.speed import flops, matrix_rate, measure
from tests.benchmarks.workload import Workload, prepare

CSV = Path(__file__).with_suffix(".csv")

Note = Callable[[str, float, str], None]


@dataclass(frozen=True)
class Scale:
    """Which config, how many layouts it is prepared on, and how much of each computation is run."""

    config: Path
    overrides: tuple[str, ...]
    layouts: int
    samples: int
    sampling_steps: int
    discriminator_latents: int
    discriminator_epochs: int
    stage3_latents: int = 50_000
    stage3_epochs: int = 25


DOCUMENTED = Scale(
    Path("configs/stage3/stage3_unet128_d4.yaml"),
    ("dataset.augment=true", "training.batch_size=256", "rounds.bad_latents.batch_size=1000", "training.device=cuda"),
    layouts=256,
    samples=5000,
    sampling_steps=100,
    discriminator_latents=10_000,
    discriminator_epochs=50,
)
TOY = Scale(
    Path("configs/scratch.yaml"),
    ("unet.base_channels=16", "training.device=cpu"),
    layouts=16,
    samples=64,
    sampling_steps=4,
    discriminator_latents=64,
    discriminator_epochs=2,
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="a toy size on the CPU")
    options = parser.parse_args()
    if not options.toy and not torch.cuda.is_available():
        parser.error("there is no GPU here: run it where one is, or with --toy")
    scale = TOY if options.toy else DOCUMENTED
    rows: list[tuple[str, float, str]] = []

    def note(name: str, value: float, unit: str) -> None:
        rows.append((name, value, unit))
        sys.stdout.write(f"{name}: {value:.4g} {unit}\n")
        sys.stdout.flush()

    with tempfile.TemporaryDirectory() as folder:
        workload = prepare(scale.config, Path(folder), scale.layouts, samples=scale.layouts, overrides=scale.overrides)
        device = pick_device(workload.config.training.device)
        for figure in measure(workload, repetitions=1 if options.toy else 3):
            note(f"{figure.name}: {figure.target}", figure.ratio, "ratio")
            note(f"{figure.name}: share of the matrix rate", figure.share_of_matrix_rate, "")
            if figure.name.startswith("stage 3"):
                steps = scale.stage3_epochs * scale.stage3_latents / workload.config.training.batch_size
                wanted = f"{scale.stage3_epochs} Stage 3 epochs of {scale.stage3_latents} latents, target 600"
                note(wanted, steps * figure.own_seconds, "s (from the time of a step)")
        _sampling(workload, scale, note)
        _discriminator(workload, scale, note)
        if device.type == "cuda":
            note("peak memory", torch.cuda.max_memory_allocated(device) / 1e9, "GB")
    if not options.toy:
        titled = [dict(zip(("figure", "value", "unit"), row, strict=True)) for row in rows]
        write_results(CSV, titled, machine=machine(device))


def _sampling(workload: Workload, scale: Scale, note: Note) -> None:
    """The whole generation of a round's bad latents, and how close it is to the matrix rate."""
    config = workload.config
    device = pick_device(config.training.device)
    unet = build_unet(config.unet, config.latent_size).to(device)
    forward = flops(lambda: unet(torch.zeros(1, *config.latent_shape, device=device), 1))
    sample = partial(sample_latents, unet, config)
    width = config.rounds.bad_latents.batch_size
    sample(list(range(width)), 2, width, "warm-up")
    began = time.perf_counter()
    sample(list(range(scale.samples)), scale.sampling_steps, width, "latents")
    seconds = time.perf_counter() - began
    rate = matrix_rate(device, reduced_dtype(device, True) or torch.float32)
    note(f"{scale.samples} latents of {scale.sampling_steps} steps, target 60", seconds, "s")
    note("the same: share of the matrix rate", scale.samples * scale.sampling_steps * forward / rate / seconds, "")


def _discriminator(workload: Workload, scale: Scale, note: Note) -> None:
    """The whole training of a round's discriminator."""
    folder, half = workload.folder, scale.discriminator_latents // 2
    pools = []
    for kind, shift in (("real", 0.0), ("fake", 0.1)):
        path = folder / f"{kind}.pt"
        save_tensors(torch.randn(half, *workload.config.latent_shape) + shift, path)
        pools.append(str(path))
    request = DiscriminatorRequest(
        *pools, str(folder / "whole"), scale.discriminator_epochs, device=workload.config.training.device
    )
    began = time.perf_counter()
    train_discriminator(request)
    seconds = time.perf_counter() - began
    wanted = f"discriminator, {scale.discriminator_epochs} epochs of {scale.discriminator_latents} latents, target 30"
    note(wanted, seconds, "s")


if __name__ == "__main__":
    main()
