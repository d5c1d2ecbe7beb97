"""The jobs of Slurm and LSF: at the time limit the training keeps its state, and the job is queued again."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from core.rounds.run import find_runs
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection
from tests.conftest import own_copy

ROOT = Path(__file__).parents[2]


@pytest.fixture
def job(prepared, tmp_path):
    """Starts a script as a scheduler does, in the project's folder; what it runs as, its log and the requests to it."""
    if not (ROOT / ".venv/bin/activate").is_file():
        pytest.skip("the project is not installed in .venv")
    config = own_copy(prepared, tmp_path)
    requests, commands = tmp_path / "requests.txt", tmp_path / "bin"
    commands.mkdir()
    (commands / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {requests}\n')
    (commands / "scontrol").chmod(0o755)
    environment = {"SLURM_JOB_ID": "4711", "CONFIG": str(config), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{commands}{os.pathsep}{os.environ['PATH']}"
    config.write_text(config.read_text().replace("epochs_per_round: 1", "epochs_per_round: 100000"))

    def start(script, *arguments):
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                ["bash", ROOT / "deployments" / script, *arguments],
                cwd=ROOT,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return process, tmp_path / "log", requests, tmp_path / "artifacts" / "tiny"

    return start


def until_stage3_has_a_state(process, log, run):
    for _ in range(1200):
        if list(run.glob("round-01/stage3/state/[0-9]*.json")):
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.mark.parametrize(
    ("script", "number", "to_all"),
    [
        ("slurm.sh", signal.SIGUSR1, False),
        ("lsf.sh", signal.SIGTERM, True),
    ],
)
def test_at_the_time_limit_the_state_is_kept_and_the_job_queued_again(job, tmp_path, script, number, to_all):
    process, log, requests, run = job(script, *([] if script == "lsf.sh" else [str(tmp_path / "tiny.yaml")]))
    until_stage3_has_a_state(process, log, run)
    (os.killpg if to_all else os.kill)(process.pid, number)
    assert process.wait(60) == 143, log.read_text()
    assert (
        log.read_text()
        .rstrip()
        .endswith("interrupted; run the same command again to continue from the last checkpoint")
    )
    assert list(run.glob("round-01/stage3/state/[0-9]*.json"))
    assert (requests.read_text() if requests.exists() else "") == ("" if script == "lsf.sh" else "requeue 4711\n")
    assert [store.uri for store in find_runs(open_store(run.parent, ArtifactsSection()))] == [str(run)]
