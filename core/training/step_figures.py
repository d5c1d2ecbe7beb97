"""Figures of optimizer steps, their means, and the throughput; tensors stay on the device until they are needed."""

import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from core.config.training_sections import TrainingSection
from core.runtime.device import peak_memory
from core.trackers.tracking import STEPS, Tracking
from core.training.metrics import MetricsRow, metric_columns

# What a record says of the pace of a training. It differs from one run to the next, so it is in no table.
COST = ("steps_per_second", "peak_memory_gb")


class StepFigures(NamedTuple):
    """What one step gives: the mean of every term over its batch, its learning rate, and the gradient's norm.

    The norm is that before the gradient is clipped.
    """

    losses: dict[str, Tensor]
    learning_rate: float
    gradient_norm: Tensor


class StepMeans:
    """Means over the steps that were added."""

    def __init__(self) -> None:
        self.steps = 0
        self._losses: dict[str, Tensor] = {}
        self._rates, self._norms = 0.0, torch.zeros(())

    def add(self, figures: StepFigures) -> None:
        """Add the figures of a step; nothing waits for the device."""
        self.steps += 1
        for name, value in figures.losses.items():
            self._losses[name] = self._losses.get(name, 0) + value
        self._rates += figures.learning_rate
        self._norms = figures.gradient_norm.detach() + self._norms

    def losses(self) -> dict[str, float]:
        """The mean of every term."""
        return {name: (total / self.steps).item() for name, total in self._losses.items()}

    def rates(self) -> MetricsRow:
        """The mean learning rate, `lr`, and the mean norm of the gradient before it is clipped, `grad_norm`."""
        return {"lr": self._rates / self.steps, "grad_norm": (self._norms / self.steps).item()}


@dataclass(frozen=True)
class Throughput:
    """What training took in this process: optimizer steps, samples, and the seconds of both, without evaluations."""

    steps: int = 0
    samples: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Throughput") -> "Throughput":
        return Throughput(self.steps + other.steps, self.samples + other.samples, self.seconds + other.seconds)

    def rates(self) -> MetricsRow:
        """`steps_per_second` and `samples_per_second`; empty before the first step."""
        if self.steps == 0:
            return {}
        seconds = max(self.seconds, 1e-9)
        return {"steps_per_second": self.steps / seconds, "samples_per_second": self.samples / seconds}

    def memory(self, device: torch.device) -> MetricsRow:
        """`peak_memory_gb`, the most memory so far in GiB."""
        return {"peak_memory_gb": peak_memory(device) / 2**30}

    def cost(self, device: torch.device) -> MetricsRow:
        """What a record says of the pace: `steps_per_second`, if a step was done, and `peak_memory_gb`, rounded."""
        found = {**self.rates(), **self.memory(device)}
        return {name: round(found[name], 3) for name in COST if name in found}


class EpochFigures:
    """The figures of an epoch's steps, which go to trackers every `log_interval` steps while it is trained."""

    def __init__(self, tracking: Tracking, training: TrainingSection):
        self._tracking, self._training = tracking, training
        self._began = time.monotonic()
        self._samples = 0
        self._all, self._recent = StepMeans(), StepMeans()

    def add(self, figures: StepFigures, step: int, samples: int) -> None:
        """Add optimizer step number `step`, counted from 1, on a batch of so many samples."""
        self._samples += samples
        self._all.add(figures)
        if not self._tracking.is_due(step, STEPS):
            return
        # Means over the steps since the last point, or since the epoch began: a training resumes where an epoch begins.
        self._recent.add(figures)
        if step % self._training.log_interval == 0:
            losses = metric_columns("train", self._recent.losses(), self._training.loss.weights)
            self._tracking.log(losses | self._recent.rates(), step, STEPS)
            self._recent = StepMeans()

    def losses(self) -> dict[str, float]:
        """The mean of every term over the epoch."""
        return self._all.losses()

    def rates(self) -> MetricsRow:
        """The means of `lr` and `grad_norm` over the epoch."""
        return self._all.rates()

    def pace(self) -> Throughput:
        """What the epoch took until now; call it after `losses`, which waits for the device."""
        return Throughput(self._all.steps, self._samples, time.monotonic() - self._began)
