"""How time grows with work: a step with parameters, sampling with latents, a training with rounds, each over 16 times.

    python -m tests.benchmarks.growth [--picture docs/growth.png]

Prints the figures, writes them to tests/benchmarks/growth.csv and draws them. The exponent is the slope in a plot of
logarithms: 1 is proportional, and what grows faster than its work is a defect.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn import functional as F

from core.config.experiment import ExperimentConfig
from core.config.loading import load_config
from core.models.sampling import sample_latents
from core.networks.unet import build_unet
from tests.benchmarks.orchestration import prepare, rounds_by_core
from tests.benchmarks.results import machine, write_results

CSV = Path(__file__).with_suffix(".csv")
_WIDTHS = (16, 24, 32, 48, 64, 80)
_LATENTS = (64, 128, 256, 512, 1024)
_ROUNDS = 16

Points = list[tuple[float, float]]


def step_against_parameters(config: ExperimentConfig) -> Points:
    """Millions of parameters, seconds of a training step of the noise loss."""
    points = []
    for width in _WIDTHS:
        wide = config.with_values({"unet.base_channels": width})
        unet = build_unet(wide.unet, wide.latent_size)
        latents = torch.randn(wide.training.batch_size, *wide.latent_shape)
        times = []
        for _ in range(7):
            began = time.perf_counter()
            F.mse_loss(unet(latents, 1).sample, latents).backward()
            times.append(time.perf_counter() - began)
        points.append((sum(p.numel() for p in unet.parameters()) / 1e6, min(times)))
    return points


def seconds_against_latents(config: ExperimentConfig) -> Points:
    """Latents, seconds of sampling them in ten steps."""
    unet = build_unet(config.unet, config.latent_size)
    points = []
    for count in _LATENTS:
        times = []
        for _ in range(3):
            began = time.perf_counter()
            sample_latents(unet, config, list(range(count)), 10, 32, "")
            times.append(time.perf_counter() - began)
        points.append((float(count), min(times)))
    return points


def seconds_against_rounds(folder: Path) -> Points:
    """Rounds, seconds since the first began, of the tests' tiny experiment with its reports."""
    config = prepare(folder)
    experiment = load_config(config, [f"rounds.count={_ROUNDS}"])
    began = time.perf_counter()
    return [(float(number), time.perf_counter() - began) for number in rounds_by_core(experiment)]


def exponent(points: Points) -> float:
    """Slope of log seconds over log work, least squares."""
    work, seconds = np.log(np.array(points)).T
    return float(np.polyfit(work, seconds, 1)[0])


def measure(config: ExperimentConfig) -> Iterator[tuple[str, Points]]:
    """Every curve, by the name of its work."""
    yield "million parameters", step_against_parameters(config)
    yield "latents", seconds_against_latents(config)
    with tempfile.TemporaryDirectory() as folder:
        yield "rounds", seconds_against_rounds(Path(folder))


def draw(curves: dict[str, Points], path: Path) -> None:
    """All curves in one picture, beside lines of proportional growth."""
    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.4), layout="constrained")
    for axis, (name, points) in zip(axes, curves.items(), strict=True):
        work, seconds = np.array(points).T
        axis.loglog(work, seconds, "o-", base=2, label=f"measured, exponent {exponent(points):.2f}")
        axis.loglog(work, seconds[-1] * work / work[-1], "--", color="grey", label="proportional", base=2)
        for labelled in (axis.xaxis, axis.yaxis):
            labelled.set_major_formatter("{x:.4g}")
        axis.set(xlabel=name, ylabel="seconds")
        axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.growth", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/scratch.yaml"))
    parser.add_argument("--picture", type=Path, default=Path("docs/growth.png"))
    options = parser.parse_args()
    curves = {}
    for name, points in measure(load_config(options.config)):
        curves[name] = points
        sys.stdout.write(f"seconds grow with {name} to the power {exponent(points):.2f}\n")
        sys.stdout.flush()
    draw(curves, options.picture)
    points_of = ((name, *point) for name, points in curves.items() for point in points)
    rows = [dict(zip(("work", "amount", "seconds"), point, strict=True)) for point in points_of]
    write_results(CSV, rows, machine=machine())


if __name__ == "__main__":
    main()
