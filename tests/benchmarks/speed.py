"""The three computations of a round against what a user would write with stock parts, in one run, in turn.

    python -m tests.benchmarks.speed [--configs configs/scratch.yaml configs/houses.yaml] [--repetitions 5]

Each figure is the median over the repetitions of a ratio of two times measured one after the other. The last column
says how close the project's own time is to the rate at which this machine multiplies large matrices. Prints the
figures and writes them to tests/benchmarks/speed.csv.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from core.models.diffusion import build_scheduler
from core.models.discriminator import LatentDiscriminator, discriminator_loss
from core.models.sampling import CPU_BATCH, sample_latents
from core.networks.unet import build_unet
from core.runtime.device import pick_device, reduced_dtype
from core.runtime.seeding import sample_noise
from tests.benchmarks.results import machine, write_results
from tests.benchmarks.workload import Workload, prepare
from tests.benchmarks.yardsticks import sample_stock, train_discriminator_stock, train_stock

CSV = Path(__file__).with_suffix(".csv")
# DDIM steps that sampling is timed over; the time is proportional to them.
_STEPS = 20
# Latents of each class that the discriminator learns from: an epoch is long beside its validation, as with 5,000.
_SAMPLES = 2000
# Whose eight variants are as many.
_LAYOUTS = 256
# Steps of the stock training of the model.
_STOCK_STEPS = 25


@dataclass(frozen=True)
class Figure:
    """One comparison: seconds of the yardstick and of the project for one unit, their ratio, and what is aimed at."""

    name: str
    unit: str
    stock_seconds: float
    own_seconds: float
    ratio: float
    target: str
    share_of_matrix_rate: float

    def __str__(self) -> str:
        times = f"{1e3 * self.stock_seconds:8.2f} ms stock {1e3 * self.own_seconds:8.2f} ms own a {self.unit}"
        limit = f"{self.share_of_matrix_rate:.0%} of the matrix rate"
        return f"{self.name:<20} {times}  ratio {self.ratio:.2f} ({self.target})  {limit}"


def measure(workload: Workload, repetitions: int, epochs: int = 3) -> Iterator[Figure]:
    """Sampling, Stage 3 and the discriminator of a workload."""
    config = workload.config
    device = pick_device(config.training.device)
    rate = matrix_rate(device, reduced_dtype(device, config.training.use_amp) or torch.float32)
    scheduler = build_scheduler(config.scheduler)
    width = CPU_BATCH if device.type == "cpu" else config.rounds.bad_latents.batch_size
    stock_unet = build_unet(config.unet, config.latent_size).to(device).eval()
    forward = flops(lambda: stock_unet(torch.zeros(1, *config.latent_shape, device=device), 1))
    seeds = list(range(2 * width))

    def stock_sampling() -> float:
        return _seconds(lambda: _sample_all(stock_unet, scheduler, seeds, width, config.latent_shape)) / len(seeds)

    def own_sampling() -> float:
        return _seconds(partial(sample_latents, stock_unet, config, seeds, _STEPS, width, "")) / len(seeds)

    times = _in_turn(repetitions, lambda _: stock_sampling(), lambda _: own_sampling())
    yield _figure("sampling", f"latent of {_STEPS} steps", times, "stock / own, at least 1.5", _STEPS * forward / rate)

    batch = config.training.batch_size

    def stock_training(_: int) -> float:
        unet = build_unet(config.unet, config.latent_size)
        return train_stock(unet, scheduler, workload.latent_files, batch, config.training.learning_rate, _STOCK_STEPS)

    times = _in_turn(
        repetitions, stock_training, lambda number: workload.seconds_of_stage3_step(f"stage3-{number}", epochs)
    )
    # Every step: three passes of the UNet over the batch; the adversarial sub-batch is another share of it.
    work = 3 * forward * batch * (1 + config.discriminator.batch_fraction)
    yield _figure("stage 3, four terms", "step", times, "own / stock, at most 1.6", work / rate, inverse=True)

    half = config.rounds.discriminator.batch_size
    discriminator = partial(LatentDiscriminator, *config.latent_shape[:2])
    labels = [float(path.name.startswith("real")) for path in workload.latent_files]

    def stock_discriminator(_: int) -> float:
        section = config.rounds.discriminator
        model = discriminator().to(device)
        return train_discriminator_stock(
            model, workload.latent_files, labels, section.batch_size, section.learning_rate
        )

    times = _in_turn(
        repetitions,
        stock_discriminator,
        lambda number: workload.seconds_of_discriminator_step(f"discriminator-{number}", epochs),
    )
    model, level = discriminator(), torch.ones(half)
    noised = torch.zeros(half, *config.latent_shape)
    work = 3 * flops(lambda: discriminator_loss(model, noised, level, level, noised))
    yield _figure("discriminator", "step", times, "stock / own, at least 2", work / rate)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product on the device."""
    size = 1024 if device.type == "cpu" else 8192
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    times = [_seconds(lambda: matrix @ matrix) for _ in range(10)]
    return 2 * size**3 / min(times)


def flops(compute: Callable[[], object]) -> int:
    """Floating-point operations that `compute` asks for."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


def _sample_all(unet, scheduler, seeds: Sequence[int], width: int, shape: Sequence[int]) -> None:
    device = next(unet.parameters()).device
    for start in range(0, len(seeds), width):
        sample_stock(unet, scheduler, sample_noise(seeds[start : start + width], shape).to(device), _STEPS)


def _seconds(work: Callable[[], object]) -> float:
    """Seconds of `work`, a GPU's included."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _in_turn(repetitions: int, stock: Callable[[int], float], own: Callable[[int], float]) -> list[tuple[float, float]]:
    """Times of both, one after the other; a first pair warms up."""
    return [(stock(number), own(number)) for number in range(repetitions + 1)][1:]


def _figure(
    name: str, unit: str, times: list[tuple[float, float]], target: str, at_best: float, inverse: bool = False
) -> Figure:
    stock, own = (statistics.median(side) for side in zip(*times, strict=True))
    ratio = statistics.median(b / a if inverse else a / b for a, b in times)
    return Figure(name, unit, stock, own, ratio, target, at_best / own)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.speed", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--configs", type=Path, nargs="+", default=[Path("configs/scratch.yaml"), Path("configs/houses.yaml")]
    )
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for path in options.configs:
        with tempfile.TemporaryDirectory() as folder:
            for figure in measure(prepare(path, Path(folder), _LAYOUTS, samples=_SAMPLES), options.repetitions):
                sys.stdout.write(f"{path.stem:<8} {figure}\n")
                sys.stdout.flush()
                rows.append({"config": path.stem, **vars(figure)})
    write_results(CSV, rows, repetitions=options.repetitions, machine=machine())


if __name__ == "__main__":
    main()
