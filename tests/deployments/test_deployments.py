"""The deployments on a real server and a real worker: parameters, events, schedules, the gate, deploying again."""

import contextlib
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.exceptions import PrefectHTTPStatusError

from core.config.loading import load_config
from core.records.lease import lease_state
from core.rounds.gate_answers import read_decision
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection
from flows.round_events import ALARM, DATA_CHANGED, RUN_FAILED, RUN_FINISHED, VIABILITY_SATURATED
from flows.suspension import RUN_LEFT
from tests import commands
from tests.deployed_experiments import NEXT, TRAINING, rounds_done, run_folder
from tests.web_servers import answering

pytest_plugins = ["tests.prefect_server"]
pytestmark = pytest.mark.timeout(600)
DEPLOY = "deployments.deploy"
# What a user does in the UI.
MAKE_BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock as Block
Block(name="notify", url=sys.argv[1], json_data={"subject": "{{subject}}", "body": "{{body}}"}).save("notify")
"""


@pytest.fixture(scope="module")
def failed(prefect, tmp_path_factory):
    """A run that ended because its config does not exist."""
    return prefect.finished(prefect.start(NEXT, tmp_path_factory.mktemp("failed") / "nowhere.yaml"))


def announce(prefect, event, config, overrides):
    # In a process of its own: the one of these tests would go on trying to reach this server for events.
    told = commands.run("tests.announced_event", event, config.stem, config, *overrides, PREFECT_API_URL=prefect.url)
    assert told.returncode == 0, told.stderr


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
    # Later than the server's next look at its schedules, because the time after that is a minute away.
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=12)
    schedule = IntervalSchedule(interval=datetime.timedelta(minutes=1), anchor_date=soon)
    wanted = DeploymentScheduleCreate(schedule=schedule, active=True, parameters={"config": str(tiny)}, slug="soon")
    (made,) = prefect.client.create_deployment_schedules(deployment, [wanted])
    try:
        run = prefect.until(lambda: prefect.runs_on(NEXT, tiny), "no round is started")[0]
        assert prefect.finished(run).state.is_completed() and rounds_done(tiny) == ["round-01"]
    finally:
        prefect.client.delete_deployment_schedule(deployment, made.id)


def message_of_next_round(prefect, config, *overrides):
    """Message of the final state of a run of the next round that a command makes."""
    done = prefect.command("flows.adversarial_round", config, *(part for one in overrides for part in ("--set", one)))
    assert done.returncode == 0, done.stderr
    return prefect.begun(config)[-1].state.message


def test_a_person_answers_between_rounds(prefect, tiny):
    run = prefect.start(TRAINING, tiny, overrides=["rounds.gate=manual", "rounds.count=3"])

    def left():
        """Whether it waits without a process."""
        return prefect.client.read_flow_run(run.id).state.name == "Suspended" and not prefect.engines()

    prefect.until(left, "it does not ask, or keeps its process")
    assert rounds_done(tiny) == ["round-01"]
    assert lease_state(open_store(run_folder(tiny), ArtifactsSection())) == "nobody"
    # Otherwise the server would wait for another heartbeat, and take the run for one whose machine is gone.
    prefect.until(lambda: prefect.signs_of_life(run)[-1:] == [RUN_LEFT], "a heartbeat is its last event")
    answer = {"answer": "go on", "discriminator_weight": 0.05}
    assert prefect.client.resume_flow_run(run.id, run_input=answer).status.value == "ACCEPT"
    prefect.until(lambda: rounds_done(tiny) == ["round-01", "round-02"] and left(), "it does not ask again")
    prefect.client.resume_flow_run(run.id, run_input={"answer": "stop"})
    assert prefect.finished(run).state.is_completed()
    assert rounds_done(tiny) == ["round-01", "round-02"]
    weights = [
        load_config(run_folder(tiny) / f"round-0{number}" / "config.yaml").discriminator.weight for number in (1, 2)
    ]
    assert weights == [0.1, 0.05]
    assert read_decision(load_config(tiny), 2)["answer"] == "stop"
    assert "all 2 rounds are finished" in message_of_next_round(prefect, tiny, "rounds.gate=manual")
    more = message_of_next_round(prefect, tiny, "rounds.gate=manual", "rounds.count=3")
    assert more == "nothing is due: stopped after round 2, as answered"


def test_a_bad_parameter_is_refused_before_anything_starts(prefect, tiny):
    known = len(prefect.runs(NEXT))
    for parameters in ({"extra": "perhaps"}, {"number": "two"}, {"overrides": ["no value"]}):
        with pytest.raises(PrefectHTTPStatusError, match=r"409|422"):
            prefect.start(NEXT, tiny, **parameters)
    with pytest.raises(PrefectHTTPStatusError, match=r"409|422"):
        prefect.start(NEXT, tiny.with_suffix(".txt"))
    for deployment in (NEXT, TRAINING, "prerequisites/prerequisites"):
        with pytest.raises(PrefectHTTPStatusError, match="409") as refused:
            prefect.start(deployment, tiny, override=["rounds.count=3"])  # for `overrides`
        assert "'override' was unexpected" in refused.value.response.text
    unknown = ["--param", f"config={tiny}", "--param", "nonsense=1"]
    refused = prefect.command("prefect", "deployment", "run", NEXT, *unknown)
    assert refused.returncode == 1 and "nonsense" in refused.stdout
    assert len(prefect.runs(NEXT)) == known


def test_what_a_user_can_mend_is_the_run_s_message(failed):
    assert failed.state.is_failed() and "nowhere.yaml does not exist: give" in failed.state.message


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
        again = prefect.command(DEPLOY)
        assert again.stdout.splitlines()[0] == f"{prefect.url}: nothing to change", again.stderr
        kept = prefect.client.read_deployment_by_name(NEXT).schedules
        assert [schedule.active for schedule in kept if schedule.slug == "nightly"] == [True]
    finally:
        prefect.client.update_deployment_schedule(deployment.id, nightly.id, active=False)


def test_somebody_is_told_by_a_block_of_the_user(prefect, tmp_path):
    """Off until switched on; a receiver that answers 500 harms nothing."""
    assert "nobody is told of alarms: create a notification block called notify" in prefect.command(DEPLOY).stdout
    with received_messages() as (address, messages):
        environment = os.environ | prefect.environment
        subprocess.run([sys.executable, "-c", MAKE_BLOCK, address], env=environment, check=True, timeout=120)
        made = prefect.command(DEPLOY).stdout
        assert "automation 'layouts: notify of an alarm' created" in made and "nobody is told" not in made
        announce(prefect, f"{ALARM}fooled", tmp_path / "quiet.yaml", [])
        with prefect.switched_on("layouts: notify of an alarm"), prefect.switched_on("layouts: notify of a failed run"):
            for event in (f"{ALARM}collapse", RUN_FAILED, RUN_FINISHED, f"{ALARM}fooled"):
                announce(prefect, event, tmp_path / "loud.yaml", [])
            prefect.until(lambda: len(messages) >= 3, "no message comes")
    assert {message["subject"] for message in messages} == {
        f"loud: {event}" for event in (f"{ALARM}collapse", RUN_FAILED, f"{ALARM}fooled")
    }
    assert all(message["body"] == "it is being fooled\nReport: /artifacts/loud/report.html" for message in messages)
    assert prefect.command(DEPLOY).stdout == f"{prefect.url}: nothing to change\n"


@contextlib.contextmanager
def received_messages():
    """Address of a server that answers 500 to every message, and the messages."""
    messages = []

    def refuse(_, body):
        messages.append(json.loads(body))
        return 500, {}, b""

    with answering(refuse) as address:
        yield address, messages


def test_prefect_stores_no_results_of_a_round(prefect, failed, tiny):
    """Prefect has a store of results of its own; artefacts belong in ours."""

    def stored():
        return {path for path in Path(prefect.environment["PREFECT_HOME"], "storage").rglob("*") if path.is_file()}

    assert failed.state.is_failed()
    errors = stored()
    assert errors  # the error of a failed run is stored: this is where results would be
    done = prefect.command("flows.adversarial_round", tiny)
    assert done.returncode == 0, done.stderr
    assert prefect.begun(tiny)[-1].state.is_completed() and rounds_done(tiny) == ["round-01"]
    assert stored() == errors
