"""Bad latents sampled in shards by Dask's workers: what comes out is what one process makes, whoever dies meanwhile."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distributed import LocalCluster
from prefect.context import FlowRunContext
from prefect.futures import as_completed
from prefect.settings import PREFECT_API_URL

import flows.sample_bad_latents as sample_bad_latents_module
from core.config.loading import load_config
from core.generation.bad_latents import find_shards
from core.models.sampling import CPU_BATCH
from core.records.artifacts import RECORD_NAME, round_location, run_location
from core.records.latent_parts import Shard
from core.records.record_files import read_record
from core.reports.run_status import find_problems, read_status
from core.rounds.garbage import find_garbage
from core.rounds.round import ROUND_STAGES, open_round
from core.rounds.run import begin_run
from core.runtime.errors import InputError
from core.storage.opening import open_store
from flows.adversarial_round import adversarial_round
from flows.adversarial_training import adversarial_training
from flows.sample_bad_latents import sample_in_shards
from tasks.generate_bad_latents import generate_bad_latents
from tasks.sample_shard import sample_shard
from tests.conftest import own_copy
from tests.killed_training import ready_config
from tests.prefect_databases import database_with_tables, flows_server
from tests.processes import descendants

pytest_plugins = ["tests.storage_servers"]

SAMPLES = {"rounds.bad_latents.num_samples": 280, "rounds.bad_latents.num_steps": 20}
OVERRIDES = [f"{key}={value}" for key, value in SAMPLES.items()]


@pytest.fixture(scope="module", autouse=True)
def _server(tmp_path_factory):
    with flows_server(database_with_tables(tmp_path_factory)):
        yield


def digests(config, *stages):
    """sha256 of every file that the records of these stages of the first round name."""
    place = open_store(round_location(config, 1), config.artifacts)
    records = {stage: read_record(place.below(stage), RECORD_NAME) for stage in stages}
    return {stage: {name: entry["sha256"] for name, entry in records[stage]["outputs"].items()} for stage in stages}


@pytest.fixture(scope="module")
def expected(prepared, tmp_path_factory):
    """Digests of a round that one process did."""
    config = own_copy(prepared, tmp_path_factory.mktemp("one"))
    adversarial_round(config, 1, OVERRIDES)
    return digests(load_config(config), *ROUND_STAGES)


@pytest.fixture
def this(experiment):
    """The opened first round of an experiment of this test's own."""
    config = load_config(experiment, OVERRIDES)
    begin_run(config)
    return open_round(config, 1)


def parts_below(folder):
    return sorted(Path(folder).rglob("state/parts/*.pt"))


def workers():
    """Process ids of the Dask workers on this machine that this process has started."""
    found = []
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_text()
            if "--multiprocessing-fork" in command:
                found.append(pid)
    return found


def test_a_lost_worker_loses_no_shard(experiment, expected, monkeypatch):
    killed = []

    def kill_a_busy_worker(shards):
        client = FlowRunContext.get().task_runner.client
        while not all(client.processing().values()):  # until every worker has a shard, which takes it seconds
            time.sleep(0.02)
        killed.append(workers()[0])
        os.kill(killed[0], signal.SIGKILL)
        return as_completed(shards)

    monkeypatch.setattr(sample_bad_latents_module, "as_completed", kill_a_busy_worker)
    adversarial_round(experiment, 1, [*OVERRIDES, "rounds.bad_latents.shards=2"])
    assert killed
    assert digests(load_config(experiment), *ROUND_STAGES) == expected
    assert not parts_below(experiment.parent)
    assert not workers()
    assert adversarial_round(experiment, 1, OVERRIDES)["round"] == 1  # in how many shards is no other setting


def test_workers_of_another_cluster_share_nothing_but_the_bucket(prepared, expected, tmp_path, juicefs_place):
    place = juicefs_place
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        settings = {**SAMPLES, "rounds.bad_latents.shards": 3, "artifacts.single_writer": True}
        settings["rounds.bad_latents.dask_address"] = cluster.scheduler_address
        config = load_config(ready_config(prepared, tmp_path, place.uri, place.artifacts.endpoint_url, **settings))
        begin_run(config)
        this = open_round(config, 1)
        sample_in_shards(this)
    assert not find_shards(config, this.bad_latents_request(), 3)
    generate_bad_latents.fn(**this.bad_latents_options())
    assert digests(config, "bad_latents") == {"bad_latents": expected["bad_latents"]}
    assert not find_problems(place.uri, place.artifacts)
    assert not [file.name for file in open_store(place.uri, config.artifacts).files() if "/state/" in file.name]


def test_what_is_wrong_with_a_shard_is_said_as_without_dask(config, prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())  # saves it starting a server
    checkpoint = torch.load(config.diffusion.stage1_checkpoint, weights_only=True)
    del checkpoint["state_dict"]["unet_ema.conv_in.weight"]
    torch.save(checkpoint, tmp_path / "wrong.pt")
    settings = {**SAMPLES, "diffusion.stage1_checkpoint": str(tmp_path / "wrong.pt"), "rounds.bad_latents.shards": 2}
    path = ready_config(prepared, tmp_path, str(tmp_path / "artifacts"), **settings)
    # Not by tests.commands: a daemon, as those are, may not have the cluster's processes.
    command = [sys.executable, "-m", "flows.adversarial_round", path, "--number", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 2
    with pytest.raises(InputError, match=r"conv_in.weight is missing in the file") as alone:
        generate_bad_latents.fn(**open_round(load_config(path), 1).bad_latents_options())
    assert done.stderr.splitlines() == ["bad latents: shards to sample on this machine: 2", f"error: {alone.value}"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "needs the extra dask, which is not installed: pip install 'adversarial-layouts[dask]', or set it to 1"),
        (["rounds.bad_latents.dask_address=tcp://127.0.0.1:9"], "no Dask scheduler answers at tcp://127.0.0.1:9 ("),
    ],
    ids=["no extra", "no scheduler"],
)
@pytest.mark.parametrize("flow", [adversarial_round, adversarial_training], ids=lambda flow: flow.name)
def test_shards_without_dask_are_refused_before_anything_is_begun(experiment, monkeypatch, flow, overrides, message):
    if not overrides:
        monkeypatch.setitem(sys.modules, "prefect_dask", None)
    with pytest.raises(InputError, match=re.escape(message)):
        flow(experiment, overrides=["rounds.bad_latents.shards=2", *overrides])
    assert not (experiment.parent / "artifacts" / "tiny").exists()


def test_shards_are_equal_and_hold_whole_batches_of_what_is_missing(this):
    request = this.bad_latents_request()
    for count, sizes in {1: [280], 2: [128, 152], 3: [64, 128, 88], 9: [64, 64, 64, 64, 24]}.items():
        shards = find_shards(this.config, request, count)
        assert [shard.last - shard.first for shard in shards] == sizes
        assert all(shard.first % CPU_BATCH == 0 for shard in shards)
        assert [shards[0].first, shards[-1].last] == [0, 280]
    by_48 = find_shards(this.config, replace(request, batch_size=48), 9)
    assert [shard.first for shard in by_48] == [0, 192]


def test_latents_that_are_there_are_not_sampled_again(this, expected):
    """As a worker, then another cut into shards, then one process leave them."""
    request = this.bad_latents_request()
    sample_shard.fn(this.config, request, Shard(64, 128))
    (path,) = parts_below(this.location)
    assert path.name == "bad_latents_000064-000128.pt"
    written = path.stat()
    assert find_shards(this.config, request, 2) == [Shard(0, 192), Shard(192, 280)]
    sample_shard.fn(this.config, request, Shard(0, 192))
    assert [part.stem[-13:] for part in parts_below(this.location)] == [
        "000000-000064",
        "000064-000128",
        "000128-000192",
    ]
    assert path.stat() == written
    status = read_status(run_location(this.config), this.config.artifacts).text
    assert status.endswith("next: round-01 continues from bad_latents: 192 bad latents")
    found = find_garbage(this.config.artifacts.root, 0, this.config.artifacts)
    assert not [file for garbage in found for file in garbage.files]
    with pytest.raises(
        InputError, match=r"state/parts holds a bad latents made with num_steps 20, now it is 5: choose"
    ):
        sample_shard.fn(this.config, replace(request, num_steps=5), Shard(0, 64))
    generate_bad_latents.fn(**this.bad_latents_options())
    assert digests(this.config, "bad_latents") == {"bad_latents": expected["bad_latents"]}
    assert find_shards(this.config, request, 2) == []


def test_a_part_that_is_not_what_its_record_says_is_refused(this):
    sample_shard.fn(this.config, this.bad_latents_request(), Shard(0, 64))
    (path,) = parts_below(this.location)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"bad_latents_000000-000064.pt is altered: recorded with"):
        generate_bad_latents.fn(**this.bad_latents_options())
