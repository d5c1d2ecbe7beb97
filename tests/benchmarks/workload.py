"""A small experiment of a config's sizes, so that what the benchmarks time is the project's own commands."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from core.config.experiment import ExperimentConfig
from core.config.loading import load_config
from core.generation.bad_latents import BadLatentsRequest, generate_bad_latents
from core.runtime.progress import Progress, watched
from core.training.continue_stage3 import continue_stage3
from core.training.prerequisites import STAGES, make_prerequisite, with_prerequisites
from core.training.train_discriminator import DiscriminatorRequest, train_discriminator

# Quick to make: nothing that is timed depends on how good the models are.
_QUICK = (
    "dataset.manifest=null",
    "dataset.filters={}",
    "prerequisites.autoencoder.epochs=1",
    "prerequisites.stage1.epochs=1",
    "prerequisites.stage2.epochs=1",
    "rounds.viability_samples=32",
    "rounds.bad_latents.num_steps=5",
    "rounds.discriminator.epochs=1",
    "discriminator.trajectories={num_samples: 64, states: 4, num_steps: 10}",
    "training.eval_interval=1000",
    "training.sample_interval=1000",
    "training.latest_interval=1000",
)


@dataclass(frozen=True)
class Workload:
    """A config with everything before Stage 3 made below `folder`."""

    config: ExperimentConfig
    folder: Path

    @property
    def latent_files(self) -> list[Path]:
        """Single latents of the discriminator's dataset, real ones first."""
        return sorted((self.folder / "bad").glob("*_latents/*.pt"), key=lambda path: (path.name[0] != "r", path.name))

    def seconds_of_stage3_step(
        self, name: str, epochs: int, overrides: Mapping[str, Any] = MappingProxyType({})
    ) -> float:
        """Seconds a step of Stage 3 with every term, over all epochs but the first."""
        values = {"experiment.save_path": str(self.folder / name), "training.epochs": epochs, **overrides}
        config = self.config.with_values(values)
        train = partial(continue_stage3, config, resume=None, recorded=False)
        return _seconds_a_step(train, config.experiment.name, epochs)

    def seconds_of_discriminator_step(self, name: str, epochs: int) -> float:
        """Seconds a step of the discriminator, over all epochs but the first."""
        real, fake = (self.folder / "bad" / f"{kind}_latents_all.pt" for kind in ("real", "bad"))
        section = self.config.rounds.discriminator
        request = DiscriminatorRequest(str(real), str(fake), str(self.folder / name), epochs, section.batch_size)
        return _seconds_a_step(partial(train_discriminator, request), "discriminator", epochs)


def prepare(config: Path, folder: Path, layouts: int, samples: int, overrides: Sequence[str] = ()) -> Workload:
    """The experiment of a config on so many generated layouts, with so many bad latents, below `folder`."""
    synthetic = f"dataset.synthetic={{count: {layouts}, rooms: [1, 2]}}"
    wanted = load_config(config, [*_QUICK, synthetic, f"artifacts.root={folder / 'artifacts'}", *overrides])
    for stage in STAGES:
        make_prerequisite(stage, wanted)
    wanted = with_prerequisites(wanted)
    given, rounds = wanted.diffusion.stage1_checkpoint, wanted.rounds.bad_latents
    request = BadLatentsRequest(
        wanted.dataset.manifest,
        wanted.autoencoder.checkpoint,
        given,
        str(folder / "bad"),
        samples,
        rounds.batch_size,
        rounds.num_steps,
        real_variants=True,
    )
    generate_bad_latents(wanted, request)
    workload = Workload(wanted, folder)
    workload.seconds_of_discriminator_step("discriminator", 2)
    checkpoint = str(folder / "discriminator" / "discriminator_best.pt")
    return Workload(wanted.with_values({"discriminator.checkpoint": checkpoint}), folder)


def _seconds_a_step(train: Callable[[], Any], stage: str, epochs: int) -> float:
    """Mean over the steps that `train` tells of `stage`, without those of the first of its epochs (two or more)."""
    times: list[float] = []

    def note(progress: Progress) -> None:
        if progress.stage == stage:
            times.append(time.perf_counter())

    with watched(note):
        train()
    first = len(times) // epochs
    return (times[-1] - times[first]) / max(1, len(times) - 1 - first)
