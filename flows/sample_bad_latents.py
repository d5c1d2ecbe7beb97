"""Bad latents sampled by several processes at once, on Prefect's Dask task runner.

Prefect's ProcessPoolTaskRunner (tried at 3.8.8) gives fewer guarantees on one machine. A killed worker ends all
shards with BrokenProcessPool, where Dask restarts the worker and gives its shard to another. An interrupted command
leaves the pool's workers running. And a worker's number of threads can only be set before it imports torch, where the
pool has no place to set it.
"""

import importlib.util
import logging
import socket
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from prefect import flow, unmapped
from prefect.futures import as_completed

from core.config.experiment import ExperimentConfig
from core.generation.bad_latents import BadLatentsRequest, find_shards
from core.records.latent_parts import Shard
from core.rounds.round import Round
from core.runtime.errors import InputError, UnavailableError
from flows.prefect_api import server_for_others
from tasks.sample_shard import sample_shard

if TYPE_CHECKING:
    from prefect_dask.task_runners import DaskTaskRunner

# A child of the logger `core`, so that its lines are part of a run's logs too.
log = logging.getLogger("core.flows")

_SECONDS_TO_CONNECT = 20.0


def require_dask(experiment: ExperimentConfig) -> None:
    """InputError if the config asks for shards, and Dask is not installed or its scheduler does not answer."""
    section = experiment.rounds.bad_latents
    if section.shards == 1:
        return
    if importlib.util.find_spec("prefect_dask") is None:
        raise InputError(
            f"rounds.bad_latents.shards {section.shards} needs the extra dask, which is not installed: "
            "pip install 'adversarial-layouts[dask]', or set it to 1"
        )
    if section.dask_address is not None:
        scheduler = urlsplit(section.dask_address)
        try:
            socket.create_connection((scheduler.hostname, scheduler.port), _SECONDS_TO_CONNECT).close()
        except OSError as error:
            raise InputError(
                f"no Dask scheduler answers at {section.dask_address} ({error}): start it, or correct "
                "rounds.bad_latents.dask_address"
            ) from None


def sample_in_shards(this: Round) -> None:
    """Sample the missing bad latents of a round on a Dask cluster; does nothing with one shard."""
    section = this.config.rounds.bad_latents
    if section.shards == 1:
        return
    request = this.bad_latents_request()
    shards = find_shards(this.config, request, section.shards)
    if not shards or (section.dask_address is None and len(shards) == 1):
        return  # generate-bad-latents samples them itself
    cluster = section.dask_address or "this machine"
    log.info("bad latents: shards to sample on %s: %d", cluster, len(shards))
    runner = _task_runner(section.dask_address, len(shards))
    from distributed import KilledWorker

    try:
        with server_for_others():
            sample_bad_latents.with_options(task_runner=runner)(this.config, request, shards)
    except KilledWorker:
        raise InputError(
            f"bad latents: a shard was given up, because every worker on {cluster} that took it died: give them more "
            "memory, or set fewer rounds.bad_latents.shards"
        ) from None
    except CancelledError:
        raise UnavailableError(f"the Dask cluster on {cluster} is lost: run the same command again") from None


@flow(name="sample-bad-latents")
def sample_bad_latents(config: ExperimentConfig, request: BadLatentsRequest, shards: Sequence[Shard]) -> None:
    """Sample every shard; the first error of a shard ends the flow."""
    sampled = sample_shard.map(unmapped(config), unmapped(request), shards)
    for done, shard in enumerate(as_completed(list(sampled)), 1):
        shard.result()
        log.info("bad latents: %d of %d shards are sampled", done, len(shards))


def _task_runner(address: str | None, shards: int) -> "DaskTaskRunner":
    """A runner on the cluster at `address`, or on a new local one: a process per shard, at most one per core."""
    import dask.system
    from prefect_dask.task_runners import DaskTaskRunner

    # They log every connection; errors come back with the task.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if address is not None:
        return DaskTaskRunner(address=address)
    workers = min(shards, dask.system.CPU_COUNT)
    threads = dask.system.CPU_COUNT // workers
    environment = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "DASK_LOGGING__DISTRIBUTED": "critical",
    }
    dask.config.set({f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in environment.items()})
    options = {
        "n_workers": workers,
        "threads_per_worker": 1,
        "memory_limit": 0,  # otherwise a worker that uses more than its share of the memory is stopped
        "dashboard_address": ":0",
        "preload": "flows.dask_worker",
    }
    return DaskTaskRunner(cluster_kwargs=options)
