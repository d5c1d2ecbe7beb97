"""The deployments on a real server and a real worker: runs, events, schedules, the gate, crashes, cancelling."""

import datetime
import json
import os
import signal
import time
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import ArtifactFilter
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import AwaitingConcurrencySlot, AwaitingRetry, Cancelling, Running, Suspended

from core.config.loading import load_config
from core.rounds.gate_answers import read_decision
from core.rounds.run_status import find_problems
from core.storage.store import ArtifactsSection
from deployments.automations import automations
from flows.round_events import DATA_CHANGED, ROUND_COMPLETED, VIABILITY_SATURATED
from tests import commands
from tests.conftest import own_copy

pytest_plugins = ["tests.prefect_server"]
pytestmark = pytest.mark.timeout(600)
# Long enough to be met at work.
LONG = "rounds.epochs_per_round=20"
NEXT = "adversarial-round/next-round"
ANY_DEPLOYMENTS = {name: UUID(int=0) for name in ("three-rounds", "next-round", "prerequisites")}


@pytest.fixture
def tiny(prepared, tmp_path, request):
    """Config of an experiment of the test's own name, prerequisites made."""
    name = request.node.name.removeprefix("test_")[:30].strip("_").replace("_", "-")
    made = own_copy(prepared, tmp_path)
    config = made.with_name(f"{name}.yaml")
    config.write_text(made.read_text().replace("name: tiny", f"name: {name}"))
    return config


def run_folder(config):
    return config.parent / "artifacts" / config.stem


def training_stage3(config, number):
    """Whether Stage 3 of the round has kept a state and is not finished."""
    stage = run_folder(config) / f"round-{number:02d}" / "stage3"
    return any(stage.glob("state/*.json")) and not (stage / "stage.json").exists()


def rounds_done(config):
    return sorted(path.parent.name for path in run_folder(config).glob("round-*/round.json"))


def three_told(prefect, config):
    """Events of finished rounds once there are three; the process that sends them may outlive its run's final state."""
    told = [event for event in prefect.events(config) if event["event"] == ROUND_COMPLETED]
    return told if len(told) >= 3 else None


def engine_of(config):
    """Process id of the engine that works on the run."""
    return json.loads((run_folder(config) / "lease.json").read_text())["holder"]["pid"]


def announce(prefect, event, config, overrides):
    # In a process of its own: the one of these tests would go on trying to reach this server for events.
    told = commands.run("tests.announced_event", event, config.stem, config, *overrides, PREFECT_API_URL=prefect.url)
    assert told.returncode == 0, told.stderr


def test_a_killed_training_is_started_again_and_ends_with_every_round_done_once(prefect, tiny):
    deployment, overrides = "adversarial-training/three-rounds", ["rounds.count=3", LONG]
    given = ["--param", f"config={tiny}", "--param", f"overrides={json.dumps(overrides)}"]
    started = prefect.command("prefect", "deployment", "run", deployment, *given)
    assert started.returncode == 0, started.stderr
    (first,) = prefect.runs_on(deployment, tiny)
    prefect.until(lambda: training_stage3(tiny, 2), "Stage 3 of round 2 does not begin")
    assert engine_of(tiny) in prefect.engines()
    os.kill(engine_of(tiny), signal.SIGKILL)
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
    again = prefect.runs_tagged(tiny, "round:2")[1:]
    prefect.until(lambda: "stage3: continuing from epoch" in prefect.logs(*again), "Stage 3 began anew")
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
    again = prefect.finished(prefect.start(NEXT, tiny, overrides=overrides), seconds=400)
    assert again.state.is_completed() and rounds_done(tiny) == ["round-01"]
    prefect.until(lambda: "stage3: continuing from epoch" in prefect.logs(again), "it began anew")
    assert prefect.completed_tasks(tiny, "retrain-discriminator") == 2  # the second found it done


def test_two_at_once_do_one_round(prefect, tiny):
    runs = [prefect.start(NEXT, tiny, overrides=[LONG]) for _ in range(2)]
    states = [prefect.finished(run).state for run in runs]
    assert all(state.is_completed() for state in states)
    messages = [state.message for state in states if state.message]
    assert len(messages) == 1 and "nothing is due" in messages[0] and "is being worked on by process" in messages[0]
    assert rounds_done(tiny) == ["round-01"]


def test_events_start_rounds_with_typed_parameters(prefect, tiny):
    """Saturation starts the first, its completion the next, that one's completion none; other data one more."""
    overrides = ["rounds.count=2", "rounds.bad_latents.num_samples=5"]
    with prefect.switched_on("layouts: next round when a round is completed"):
        announce(prefect, VIABILITY_SATURATED, tiny, overrides)
        prefect.until(lambda: len(prefect.runs_on(NEXT, tiny)) == 3, "no round is started")
        last = prefect.finished(prefect.runs_on(NEXT, tiny)[-1])
    assert last.state.message == "nothing is due: all 2 rounds are finished"
    announce(prefect, DATA_CHANGED, tiny, overrides)
    more = prefect.until(lambda: prefect.runs_on(NEXT, tiny)[3:], "no round is started")[0]
    assert prefect.finished(more).state.is_completed()
    assert rounds_done(tiny) == ["round-01", "round-02", "round-03"]
    for run in prefect.runs_on(NEXT, tiny)[:3]:
        assert run.state.is_completed() and run.parameters == {"config": str(tiny), "overrides": overrides}
    assert more.parameters == {"config": str(tiny), "overrides": overrides, "extra": True}


def test_a_schedule_starts_the_next_round_with_its_own_parameters(prefect, tiny):
    deployment = prefect.deployment(NEXT)
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=5)
    schedule = IntervalSchedule(interval=datetime.timedelta(minutes=1), anchor_date=soon)
    wanted = DeploymentScheduleCreate(schedule=schedule, active=True, parameters={"config": str(tiny)}, slug="soon")
    (made,) = prefect.client.create_deployment_schedules(deployment, [wanted])
    try:
        run = prefect.until(lambda: prefect.runs_on(NEXT, tiny), "no round is started")[0]
        assert prefect.finished(run).state.is_completed() and rounds_done(tiny) == ["round-01"]
    finally:
        prefect.client.delete_deployment_schedule(deployment, made.id)


def test_a_person_answers_between_rounds(prefect, tiny):
    run = prefect.start("adversarial-training/three-rounds", tiny, overrides=["rounds.gate=manual", "rounds.count=3"])

    def paused():
        return prefect.client.read_flow_run(run.id).state.is_paused()

    prefect.until(paused, "it does not ask")
    assert rounds_done(tiny) == ["round-01"]
    answer = {"answer": "go on", "discriminator_weight": 0.05}
    assert prefect.client.resume_flow_run(run.id, run_input=answer).status.value == "ACCEPT"
    prefect.until(lambda: rounds_done(tiny) == ["round-01", "round-02"] and paused(), "it does not ask again")
    prefect.client.resume_flow_run(run.id, run_input={"answer": "stop"})
    assert prefect.finished(run).state.is_completed()
    assert rounds_done(tiny) == ["round-01", "round-02"]
    weights = [
        load_config(run_folder(tiny) / f"round-0{number}" / "config.yaml").discriminator.weight for number in (1, 2)
    ]
    assert weights == [0.1, 0.05]
    assert read_decision(load_config(tiny), 2)["answer"] == "stop"
    again = prefect.finished(prefect.start(NEXT, tiny, overrides=["rounds.gate=manual"]))
    assert "all 2 rounds are finished" in again.state.message
    more = ["rounds.gate=manual", "rounds.count=3"]
    again = prefect.finished(prefect.start(NEXT, tiny, overrides=more))
    assert again.state.message == "nothing is due: stopped after round 2, as answered"


def test_a_bad_parameter_is_refused_before_anything_starts(prefect, tiny):
    known = len(prefect.runs(NEXT))
    for parameters in ({"extra": "perhaps"}, {"number": "two"}, {"overrides": ["no value"]}):
        with pytest.raises(PrefectHTTPStatusError, match=r"409|422"):
            prefect.start(NEXT, tiny, **parameters)
    with pytest.raises(PrefectHTTPStatusError, match=r"409|422"):
        prefect.start(NEXT, tiny.with_suffix(".txt"))
    for deployment in (NEXT, "adversarial-training/three-rounds", "prerequisites/prerequisites"):
        with pytest.raises(PrefectHTTPStatusError, match="409") as refused:
            prefect.start(deployment, tiny, override=["rounds.count=3"])  # for `overrides`
        assert "'override' was unexpected" in refused.value.response.text
    unknown = ["--param", f"config={tiny}", "--param", "nonsense=1"]
    refused = prefect.command("prefect", "deployment", "run", NEXT, *unknown)
    assert refused.returncode == 1 and "nonsense" in refused.stdout
    assert len(prefect.runs(NEXT)) == known


@flow
def waits():
    """Stands for a run of ours."""


def test_a_run_that_waits_is_not_taken_for_one_whose_machine_is_gone(prefect):
    """A run is silent for long while it is suspended, or waits to be tried again or for a slot."""
    (noticing,) = [wanted for wanted in automations(ANY_DEPLOYMENTS) if "machine is gone" in wanted.name]
    short = noticing.trigger.model_copy(update={"within": datetime.timedelta(seconds=10)})
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


def test_what_a_user_can_mend_is_the_run_s_message(prefect, tiny):
    run = prefect.finished(prefect.start(NEXT, tiny.with_name("nowhere.yaml")))
    assert run.state.is_failed() and "nowhere.yaml does not exist: give" in run.state.message


def test_deploying_without_a_server_ends_in_one_line(prefect):
    done = commands.run("deployments.deploy", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: no Prefect server answers at http://127.0.0.1:9/api")
    assert "run `prefect server start`" in done.stderr


def test_deploying_again_changes_nothing_and_keeps_what_was_switched(prefect):
    deployment = prefect.client.read_deployment_by_name(NEXT)
    (nightly,) = [schedule for schedule in deployment.schedules if schedule.slug == "nightly"]
    assert not nightly.active and nightly.parameters == {"config": "configs/demo.yaml"}
    prefect.client.update_deployment_schedule(deployment.id, nightly.id, active=True)
    try:
        again = prefect.command("deployments.deploy")
        assert again.stdout == f"{prefect.url}: nothing to change\n", again.stderr
        kept = prefect.client.read_deployment_by_name(NEXT).schedules
        assert [schedule.active for schedule in kept if schedule.slug == "nightly"] == [True]
    finally:
        prefect.client.update_deployment_schedule(deployment.id, nightly.id, active=False)


def test_prefect_stores_no_results_of_a_round(prefect, tiny):
    """Prefect has a store of results of its own; artefacts belong in ours."""

    def stored():
        return {path for path in Path(prefect.environment["PREFECT_HOME"], "storage").rglob("*") if path.is_file()}

    assert prefect.finished(prefect.start(NEXT, tiny.with_name("nowhere.yaml"))).state.is_failed()
    errors = stored()
    assert errors  # the error of a failed run is stored: this is where results would be
    assert prefect.finished(prefect.start(NEXT, tiny)).state.is_completed() and rounds_done(tiny) == ["round-01"]
    assert stored() == errors
