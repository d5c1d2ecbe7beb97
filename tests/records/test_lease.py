"""Who may take the lease of a run: each step of the protocol, with a second process played by a second registry."""

import json
import os
import threading
import time

import pytest

from core.records.artifacts import LEASE_NAME
from core.records.lease import ProcessLeases, is_free, lease_state, publishing_store
from core.records.lease_holder import this_process
from core.runtime.errors import LeaseError
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection

ARTIFACTS = ArtifactsSection(lease_seconds=1)


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def write_lease(run, token=7, age=0.0, **holder):
    """A lease of another holder, last renewed `age` seconds ago."""
    path = run / LEASE_NAME
    run.mkdir(exist_ok=True)
    content = {"holder": {"host": "elsewhere", "pid": 1} | holder, "seconds": 1, "nonce": f"nonce {time.monotonic()}"}
    path.write_text(json.dumps(content | {"token": token, "renewal": 0, "released": False}))
    os.utime(path, (time.time() - age,) * 2)


def token_in(run):
    return json.loads((run / LEASE_NAME).read_text())["token"]


def test_a_free_lease_is_taken_with_a_higher_token(run):
    for token in (1, 2):
        with ProcessLeases().hold(run, ARTIFACTS) as lease:
            assert lease.token == token == token_in(run)
            assert not is_free(open_store(run, ARTIFACTS))
        assert is_free(open_store(run, ARTIFACTS)) and lease_state(open_store(run, ARTIFACTS)) == "nobody"


def test_a_running_holder_on_this_machine_is_not_disturbed(run):
    refused = pytest.raises(LeaseError, match=f"by process {os.getpid()} on")
    with ProcessLeases().hold(run, ARTIFACTS), refused, ProcessLeases().hold(run, ARTIFACTS):
        pass


def test_waiting_ends_when_the_holder_gives_the_lease_back(run):
    first, second = ProcessLeases(), ProcessLeases()
    with first.hold(run, ARTIFACTS):
        tokens = []

        def wait():
            with second.hold(run, ARTIFACTS, wait=True) as lease:
                tokens.append(lease.token)

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.6)
        assert not tokens
    waiting.join(timeout=30)
    assert tokens == [2]


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_at_once(run):
    write_lease(run, token=7, **this_process() | {"started": "another process of this number"})
    with ProcessLeases().hold(run, ARTIFACTS) as lease:
        assert lease.token == 8


def test_a_holder_elsewhere_that_was_silent_for_too_long_is_replaced(run):
    write_lease(run, token=7, age=3)
    assert lease_state(open_store(run, ARTIFACTS)) == "nobody (lapsed: process 1 on elsewhere is gone)"
    with ProcessLeases().hold(run, ARTIFACTS) as lease:
        assert lease.token == 8


def test_a_holder_elsewhere_that_falls_silent_is_replaced_after_its_time(run):
    write_lease(run, token=7)
    began = time.monotonic()
    with ProcessLeases().hold(run, ARTIFACTS) as lease:
        assert lease.token == 8
    assert time.monotonic() - began > 1


def test_a_holder_elsewhere_that_renews_is_not_replaced(run):
    write_lease(run)
    stop = threading.Event()

    def renew():
        while not stop.wait(0.2):
            (run / "new").mkdir(parents=True, exist_ok=True)
            write_lease(run / "new")
            os.replace(run / "new" / LEASE_NAME, run / LEASE_NAME)

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        with pytest.raises(LeaseError, match="by process 1 on elsewhere"), ProcessLeases().hold(run, ARTIFACTS):
            pass
    finally:
        stop.set()
        renewing.join()
    assert token_in(run) == 7


def test_only_what_lies_in_the_run_is_covered_by_its_lease(run):
    leases = ProcessLeases()
    assert leases.find(run) is None
    with leases.hold(run, ARTIFACTS) as lease, leases.hold(run, ARTIFACTS) as again:
        assert again is lease
        assert leases.find(run) is leases.find(run / "round-01" / "stage3") is lease
        assert leases.find(f"{run}2") is None
    assert leases.find(run) is None


def test_without_a_lease_a_store_is_written_to_freely(run):
    assert publishing_store(run, ARTIFACTS).create("a", b"a")
