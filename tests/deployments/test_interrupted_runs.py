"""Runs that are killed, cancelled, raced or silent, on a real server with a real worker."""

import json
import os
import signal
import time
from datetime import timedelta
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.schemas.filters import ArtifactFilter
from prefect.states import AwaitingConcurrencySlot, AwaitingRetry, Cancelling, Running, Suspended

from core.reports.run_status import find_problems
from core.storage.store import ArtifactsSection
from deployments.automations import automations
from flows.round_events import ROUND_COMPLETED
from tests.deployed_experiments import NEXT, TRAINING, rounds_done, run_folder

pytest_plugins = ["tests.prefect_server"]
pytestmark = pytest.mark.timeout(600)
# Long enough to be met at work.
LONG = "rounds.epochs_per_round=10"
ANY_DEPLOYMENTS = {name: UUID(int=0) for name in ("three-rounds", "next-round", "prerequisites")}


def training_stage3(config, number):
    """Whether Stage 3 of the round has kept a state and is not finished."""
    stage = run_folder(config) / f"round-{number:02d}" / "stage3"
    return any(stage.glob("state/[0-9]*.json")) and not (stage / "stage.json").exists()


def three_told(prefect, config):
    """Events of finished rounds once there are three; the process that sends them may outlive its run's final state."""
    told = [event for event in prefect.events(config) if event["event"] == ROUND_COMPLETED]
    return told if len(told) >= 3 else None


def engine_of(config):
    """Process id of the engine that works on the run."""
    return json.loads((run_folder(config) / "lease.json").read_text())["holder"]["pid"]


def test_a_killed_training_is_started_again_and_ends_with_every_round_done_once(prefect, tiny):
    deployment, overrides = TRAINING, ["rounds.count=3", LONG]
    given = ["--param", f"config={tiny}", "--param", f"overrides={json.dumps(overrides)}"]
    started = prefect.command("prefect", "deployment", "run", deployment, *given)
    assert started.returncode == 0, started.stderr
    (first,) = prefect.runs_on(deployment, tiny)
    prefect.until(lambda: training_stage3(tiny, 2), "Stage 3 of round 2 does not begin", every=0.1)
    assert engine_of(tiny) in prefect.engines()
    os.kill(engine_of(tiny), signal.SIGKILL)
    before = len(prefect.worker_log())
    assert training_stage3(tiny, 2)
    assert prefect.finished(first).state.is_crashed()
    second = prefect.until(lambda: prefect.runs_on(deployment, tiny)[1:], "not started again")[0]
    assert first.parameters == {"config": str(tiny), "overrides": overrides}
    assert second.parameters == {**first.parameters, "restarts": 1}
    assert prefect.finished(second).state.is_completed()
    assert rounds_done(tiny) == ["round-01", "round-02", "round-03"]
    assert not find_problems(str(run_folder(tiny)), ArtifactsSection())
    assert len(prefect.runs_on(deployment, tiny)) == 2
    for task in ("continue-stage-3", "report-round"):
        assert prefect.completed_tasks(tiny, task) == 3, task
    # In what the engine wrote: the server may lose a line while it is busy.
    assert "stage3: continuing from epoch" in prefect.worker_log()[before:], "Stage 3 began anew"
    told = [event["payload"]["round"] for event in prefect.until(lambda: three_told(prefect, tiny), "no third event")]
    assert told == [1, 2, 3]
    named = prefect.client.read_flow_run(second.id)
    assert named.name == f"{tiny.stem} · training" and f"experiment:{tiny.stem}" in named.tags
    for number in (1, 2, 3):
        key = f"{tiny.stem}-round-{number:02d}"
        (report,) = prefect.client.read_artifacts(artifact_filter=ArtifactFilter(key={"any_": [key]}))
        assert report.data.count("data:image/png;base64,") == 5 and f"# {tiny.stem} · round {number}" in report.data
    page = (run_folder(tiny) / "report.html").read_text()
    assert "<h2>Round 3</h2>" in page and "http" not in page


def test_a_run_that_crashed_again_and_again_is_not_tried_for_ever(prefect, tiny):
    run = prefect.finished(prefect.start(NEXT, tiny, restarts=6))
    assert run.state.is_failed()
    prefect.until(lambda: "crashed 6 times in a row and is not restarted" in prefect.logs(run), "no reason is given")
    assert not rounds_done(tiny)


def test_a_running_stage_shows_progress_and_a_cancelled_one_goes_on_where_it_was(prefect, tiny):
    overrides = ["rounds.epochs_per_round=60"]
    run = prefect.start(NEXT, tiny, overrides=overrides)

    def shown():
        artifacts = prefect.client.read_artifacts(artifact_filter=ArtifactFilter(key={"any_": ["continue-stage-3"]}))
        return [a for a in artifacts if a.type == "progress" and f"{tiny.stem}:" in (a.description or "")]

    artifact = prefect.until(shown, "no progress is shown")[0]
    assert 0 <= float(artifact.data) <= 100 and "a second" in artifact.description
    prefect.until(lambda: "epoch" in shown()[0].description, "progress stands still")
    pid = engine_of(tiny)
    prefect.client.set_flow_run_state(run.id, Cancelling())
    prefect.until(lambda: not os.path.exists(f"/proc/{pid}"), "the engine goes on")
    assert prefect.finished(run).state.is_cancelled()
    assert training_stage3(tiny, 1)
    done = prefect.command("flows.adversarial_round", tiny, "--set", *overrides)
    assert done.returncode == 0, done.stderr
    again = prefect.begun(tiny)[-1]
    assert again.state.is_completed() and rounds_done(tiny) == ["round-01"]
    prefect.until(lambda: "stage3: continuing from epoch" in prefect.logs(again), "it began anew")
    assert prefect.completed_tasks(tiny, "retrain-discriminator") == 2  # the second found it done


def test_two_at_once_do_one_round(prefect, tiny):
    for command in [prefect.begin("flows.adversarial_round", tiny, "--set", LONG) for _ in range(2)]:
        _, errors = command.communicate(timeout=300)
        assert command.returncode == 0, errors
    states = [run.state for run in prefect.begun(tiny)]
    assert len(states) == 2 and all(state.is_completed() for state in states)
    messages = [state.message for state in states if state.message]
    assert len(messages) == 1 and "nothing is due" in messages[0] and "is being worked on by process" in messages[0]
    assert rounds_done(tiny) == ["round-01"]


@flow
def waits():
    """Stands for a run of ours."""


def test_a_run_that_waits_is_not_taken_for_one_whose_machine_is_gone(prefect):
    """A run is silent for long while it is suspended, or waits to be tried again or for a slot."""
    (noticing,) = [wanted for wanted in automations(ANY_DEPLOYMENTS) if "machine is gone" in wanted.name]
    short = noticing.trigger.model_copy(update={"within": timedelta(seconds=10)})
    wanted = ["Suspended", "AwaitingRetry", "AwaitingConcurrencySlot"]
    with prefect.automation(noticing.model_copy(update={"name": "in ten seconds", "trigger": short})):
        # On SQLite a busy server drops an event now and then. A wrong automation is wrong every time.
        assert any(_names_after_a_silence(prefect) == wanted for _ in range(3))


def _names_after_a_silence(prefect):
    """States of three waiting runs after the server noticed the silence of two others, before and after theirs."""
    dies, later, *waiting = [prefect.client.create_flow_run(waits, tags=["layouts"], state=Running()) for _ in range(5)]
    for run in (*waiting, dies):
        prefect.emit("prefect.flow-run.heartbeat", run)
        time.sleep(0.5)  # events that come at once are the ones that are dropped
    for run, state in zip(waiting, (Suspended(), AwaitingRetry(), AwaitingConcurrencySlot()), strict=True):
        prefect.client.set_flow_run_state(run.id, state, force=True)
        time.sleep(1)
    assert prefect.finished(dies).state.is_crashed()
    # By the time that a run which went silent later is noticed, the server has looked at the waiting ones again.
    prefect.emit("prefect.flow-run.heartbeat", later)
    assert prefect.finished(later).state.is_crashed()
    return [prefect.client.read_flow_run(run.id).state.name for run in waiting]
