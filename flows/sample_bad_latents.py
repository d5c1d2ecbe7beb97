"""Bad latents sampled by several processes at once, on Prefect's Dask task runner."""

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
from core.records.latent_parts import Shard
from core.rounds.rounds import Round
from core.runtime.errors import InputError, UnavailableError
from core.training.bad_latents import BadLatentsRequest, find_shards
from flows.prefect_api import server_for_others
from tasks.sample_shard import sample_shard

if TYPE_CHECKING:
    from prefect_dask import DaskTaskRunner

# Below core's, so that the line goes where those of core go.
log = logging.getLogger("core.flows")

_SECONDS_TO_CONNECT = 20.0


def require_dask(experiment: ExperimentConfig) -> None:
    """InputError if bad latents are to be sampled in shards, and there is no Dask or no such cluster to do it on."""
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
                f"no Dask scheduler answers at {section.dask_address} ({error}): start it, or mend "
                "rounds.bad_latents.dask_address"
            ) from None


def sample_in_shards(this: Round) -> None:
    """Have a round's bad latents sampled by a Dask cluster, as far as they are not there; nothing with one shard."""
    section = this.config.rounds.bad_latents
    if section.shards == 1:
        return
    request = this.bad_latents_request()
    shards = find_shards(this.config, request, section.shards)
    if not shards or (section.dask_address is None and len(shards) == 1):
        return  # the rest is generate-bad-latents' own
    cluster = section.dask_address or "this machine"
    log.info("bad latents: shards to sample on %s: %d", cluster, len(shards))
    runner = _task_runner(section.dask_address, len(shards))
    from distributed import KilledWorker

    try:
        with server_for_others():
            sample_bad_latents.with_options(task_runner=runner)(this.config, request, shards)
    except KilledWorker:
        raise InputError(
            f"bad latents: a shard is given up, as each worker on {cluster} that took it died: see that they have "
            "memory enough, or set fewer rounds.bad_latents.shards"
        ) from None
    except CancelledError:
        raise UnavailableError(f"the Dask cluster on {cluster} is lost: run the same command again") from None


@flow(name="sample-bad-latents")
def sample_bad_latents(config: ExperimentConfig, request: BadLatentsRequest, shards: Sequence[Shard]) -> None:
    """Sample every shard; the first error of one ends it."""
    sampled = sample_shard.map(unmapped(config), unmapped(request), shards)
    for done, shard in enumerate(as_completed(list(sampled)), 1):
        shard.result()
        log.info("bad latents: %d of %d shards are there", done, len(shards))


def _task_runner(address: str | None, shards: int) -> "DaskTaskRunner":
    """A runner on the cluster at `address`, or on one of this machine with a process a shard, at most one a core."""
    import dask.system
    from prefect_dask import DaskTaskRunner

    # They tell of every connection; what went wrong comes back with the task.
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
        "memory_limit": 0,  # a worker that exceeds its share of the machine's would be stopped for good
        "dashboard_address": ":0",
        "preload": "flows.dask_worker",
    }
    return DaskTaskRunner(cluster_kwargs=options)
