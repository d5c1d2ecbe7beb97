"""Bad latents sampled by several processes at once, on Prefect's Dask task runner."""

import importlib.util
import logging
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from prefect import flow, unmapped

from core.bad_latents import BadLatentsRequest, find_shards
from core.config import ExperimentConfig
from core.errors import InputError
from core.latent_parts import Shard
from core.rounds import Round
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
    if not shards:
        return
    runner = _task_runner(section.dask_address, len(shards))
    with server_for_others():
        sample_bad_latents.with_options(task_runner=runner)(this.config, request, shards)


@flow(name="sample-bad-latents")
def sample_bad_latents(config: ExperimentConfig, request: BadLatentsRequest, shards: Sequence[Shard]) -> None:
    """Sample every shard; the first error of one ends it."""
    sample_shard.map(unmapped(config), unmapped(request), shards).result()


def _task_runner(address: str | None, shards: int) -> "DaskTaskRunner":
    """A runner on the cluster at `address`, or on one of this machine with a process a shard or core."""
    from dask.system import CPU_COUNT
    from prefect_dask import DaskTaskRunner

    if address is not None:
        return DaskTaskRunner(address=address)
    workers = min(shards, CPU_COUNT)
    options = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": 0, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=options)
