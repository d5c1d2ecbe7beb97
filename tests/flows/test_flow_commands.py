"""The flows as commands that start a Prefect server of their own, or find none: interrupted, and refused."""

import os
import re
import signal
from pathlib import Path

import pytest

from core.checkpoints.loading import load_checkpoint
from tests.commands import Command, run
from tests.prefect_databases import copy_database, database_with_tables
from tests.processes import descendants
from tests.untrained import write_discriminator


@pytest.fixture(scope="module", autouse=True)
def _tables_of_temporary_servers(tmp_path_factory):
    database = Path(os.environ["PREFECT_HOME"], "prefect.db")
    if not database.exists():
        copy_database(database_with_tables(tmp_path_factory), database)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """Checkpoint of an untrained discriminator, for a Stage 3 without the stages before it."""
    return write_discriminator(tmp_path_factory.mktemp("judge") / "discriminator.pt")


def test_a_server_that_is_gone_ends_in_one_line(prepared, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    done = run("flows.adversarial_training", prepared)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no Prefect server answers at http://127.0.0.1:9/api") and "config unset" in line


def test_a_gate_without_anybody_to_ask_is_refused_at_once(experiment):
    done = run("flows.adversarial_training", experiment, "--set", "rounds.gate=manual")
    assert done.returncode == 2
    assert "rounds.gate is manual, and there is no Prefect server to ask on" in done.stderr
    assert not (experiment.parent / "artifacts" / "tiny").exists()


@pytest.mark.parametrize(
    ("module", "number", "send"),
    [
        ("flows.adversarial_training", signal.SIGINT, os.killpg),  # as a terminal does
        ("flows.adversarial_training", signal.SIGTERM, os.kill),  # as a container does
        ("flows.adversarial_training", signal.SIGTERM, os.killpg),  # as `timeout` and schedulers do
        ("tasks.continue_stage3", signal.SIGINT, os.killpg),
        ("tasks.continue_stage3", signal.SIGHUP, os.kill),  # of a terminal that was closed
    ],
)
def test_an_interruption_leaves_a_resumable_state_one_line_and_no_process(experiment, judge, module, number, send):
    settings = ["rounds.epochs_per_round=100000", "training.epochs=100000", f"discriminator.checkpoint={judge}"]
    process = Command(module, experiment, *[part for value in settings for part in ("--set", value)])
    process.wait_for("tiny epoch 2/")
    started = descendants(process.pid)
    assert bool(started) == module.startswith("flows")
    send(process.pid, number)
    _, _, errors = process.communicate(timeout=60)[1].partition("tiny epoch 2/")
    assert process.returncode == 128 + number
    assert not [pid for pid in started if os.path.exists(f"/proc/{pid}")]
    _, *epochs, last = errors.splitlines()
    assert last == "interrupted; run the same command again to continue from the last checkpoint"
    assert all(re.match(r"tiny epoch \d+/100000 ", line) for line in epochs)
    artifacts = experiment.parent / "artifacts"
    latest = next((artifacts / "tiny").rglob("tiny_checkpoint_latest.pt"))
    assert load_checkpoint(latest, "checkpoint")["epoch"] >= 2
    assert not list(artifacts.rglob("*.partial"))
