"""A concurrency limit: one run at a time on a GPU."""

import contextlib

from prefect.concurrency.sync import concurrency

from core.config.experiment import ExperimentConfig
from core.runtime.device import needs_gpu

GPU_LIMIT = "gpu"
# A machine that dies keeps its slot for this long.
_LEASE_SECONDS = 120.0


def gpu_slot(experiment: ExperimentConfig) -> contextlib.AbstractContextManager[None]:
    """A slot of Prefect's concurrency limit `gpu`, after waiting for it; nothing on a CPU, or without such a limit."""
    if not needs_gpu(experiment.training.device):
        return contextlib.nullcontext()
    return concurrency(GPU_LIMIT, occupy=1, lease_duration=_LEASE_SECONDS)
