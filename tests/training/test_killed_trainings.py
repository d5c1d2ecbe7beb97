"""Trainings that are killed, raced and stopped, or whose server is away, end with the same files."""

import contextlib
import fcntl
import functools
import json
import os
import random
import re
import signal
import time

import pytest

from core.config.loading import load_config
from core.records.artifacts import run_location
from core.records.lease import is_free
from core.reports.run_status import find_problems
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection
from tests.killed_training import (
    differences,
    finished_digests,
    prefect_server,
    ready_config,
    start_training,
    train_killed,
    train_undisturbed,
)
from tests.prefect_databases import database_with_tables

pytest_plugins = ["tests.storage_servers"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with prefect_server(database_with_tables(tmp_path_factory)):
        yield


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    """By prepared config: seconds that a training takes when nothing happens, and the digests of its files."""

    @functools.cache
    def trained(prepared):
        folder = tmp_path_factory.mktemp("undisturbed")
        config = ready_config(prepared, folder, str(folder / "artifacts"))
        return train_undisturbed(config), finished_digests(config)

    return trained


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("experiment", "where", "kills"),
    [("prepared", "local", 3), ("prepared", "radosgw", 7), ("prepared_base", "local", 4)],
)
def test_killed_again_and_again_ends_with_the_same_bytes(request, undisturbed, tmp_path, experiment, where, kills):
    prepared, place = request.getfixturevalue(experiment), request.getfixturevalue(f"{where}_place")
    (seconds, expected), rng, spent = undisturbed(prepared), random.Random(7), 0
    while spent < kills:
        root = f"{place.uri}/{spent}"
        config = ready_config(prepared, tmp_path, root, place.artifacts.endpoint_url)
        spent += train_killed(config, kills - spent, seconds, rng)
        assert not differences(expected, finished_digests(config))
        assert not find_problems(root, place.artifacts)


@pytest.mark.timeout(600)
def test_one_of_eight_processes_trains_and_seven_name_it(server, prepared, tmp_path):
    config = ready_config(prepared, tmp_path, str(tmp_path / "artifacts"))
    racing = [start_training(config) for _ in range(8)]
    ended = {process.pid: (*process.communicate(timeout=500), process.returncode) for process in racing}
    winners = [pid for pid, (_, _, status) in ended.items() if status == 0]
    assert len(winners) == 1, ended
    for pid, (_, errors, status) in ended.items():
        if pid != winners[0]:
            assert status == 3, errors
            last = errors.splitlines()[-1]
            assert re.fullmatch(rf"error: .*being worked on by process {winners[0]} on .*--wait.*", last), errors
    assert not find_problems(str(tmp_path / "artifacts"), ArtifactsSection())


def wait_for_lease(run, token):
    """Content of the lease after it is taken for the `token`th time."""
    for _ in range(600):
        with contextlib.suppress(OSError, ValueError):
            lease = json.loads((run / "lease.json").read_text())
            if lease["token"] == token and not lease["released"]:
                return lease
        time.sleep(0.1)
    raise TimeoutError(f"nobody took the lease {token} of {run}")


@pytest.mark.timeout(300)
def test_a_stopped_holder_publishes_nothing_once_another_has_taken_over(server, prepared, tmp_path):
    root, run = tmp_path / "artifacts", tmp_path / "artifacts" / "tiny"
    slow = {"rounds.epochs_per_round": 100000, "artifacts.lease_seconds": 2, "artifacts.state_minutes": 0.02}
    config = ready_config(prepared, tmp_path, str(root), **slow)
    first = start_training(config)
    second = None
    try:
        wait_for_lease(run, 1)
        while not list(run.glob("round-01/stage3/state/*.json")):
            time.sleep(0.1)
        stop_between_changes(first, run)
        while not is_free(open_store(run, ArtifactsSection())):
            time.sleep(0.1)
        second = start_training(config)
        assert wait_for_lease(run, 2)["holder"]["pid"] == second.pid
        stop_between_changes(second, run)
        before = published(run)
        os.killpg(first.pid, signal.SIGCONT)
        _, errors = first.communicate(timeout=60)
        assert first.returncode == 3, errors
        assert f"process {second.pid} on" in errors.splitlines()[-1]
        assert "publishes nothing more" in errors.splitlines()[-1]
        assert published(run) == before
    finally:
        for process in filter(None, (first, second)):
            process.send_signal(signal.SIGKILL)
            process.wait()


def stop_between_changes(process, run):
    """Stop the process while it holds no lock of a folder, because every other process would wait for the lock."""
    while True:
        os.killpg(process.pid, signal.SIGSTOP)
        if not any(is_locked(path) for path in run.rglob(".lock")):
            return
        os.killpg(process.pid, signal.SIGCONT)
        time.sleep(0.05)


def is_locked(path):
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def published(run):
    # A process that is stopped within a write leaves a partial file, and removes it when it goes on.
    files = [path for path in run.rglob("*") if path.is_file() and not re.search(r"\.scratch-|\.partial$", str(path))]
    return {str(path): path.stat().st_mtime_ns for path in files if path.name != ".lock"}


@pytest.mark.timeout(600)
def test_a_training_outlives_an_outage_of_its_server(server, radosgw, radosgw_place, prepared, tmp_path):
    endpoint, short_lease = radosgw_place.artifacts.endpoint_url, {"artifacts.lease_seconds": 5}
    config = ready_config(prepared, tmp_path, radosgw_place.uri, endpoint, **short_lease)
    process = start_training(config)
    run = open_store(run_location(load_config(config)), load_config(config).artifacts)
    while run.read("round-01/bad_latents/stage.json") is None:
        time.sleep(0.2)
    radosgw.kill()
    time.sleep(float(os.environ.get("OUTAGE_SECONDS", "8")))  # longer than the lease
    radosgw.start_gateway()
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert not find_problems(radosgw_place.uri, radosgw_place.artifacts)
