"""Altered files, resumed stages, forks and garbage: nothing is lost, done twice, or mistaken for something else."""

import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from core.config.loading import load_config
from core.records.artifacts import RECORD_NAME, round_location, run_location, stage3_location
from core.records.lease import hold
from core.records.record_files import create_record, read_record
from core.reports.run_status import find_problems, read_status
from core.rounds.close_round import close_round
from core.rounds.garbage import find_garbage, remove_garbage
from core.rounds.round import open_round
from core.rounds.run import begin_run
from core.runtime.errors import InputError, LeaseError
from core.storage.opening import open_store
from tasks.command_line import run_command
from tasks.continue_stage3 import continue_stage3
from tasks.generate_bad_latents import generate_bad_latents
from tasks.retrain_discriminator import retrain_discriminator
from tests.killed_training import (
    ready_config,
)

pytest_plugins = ["tests.storage_servers"]


def run_round(config, number):
    """Run the stages of a round as its flow does, without Prefect, or copy the files of an equal round."""
    this = open_round(config, number)
    if this.record is not None:
        return this.record
    store = open_store(this.location, config.artifacts)
    is_new = store.read("bad_latents/stage.json") is None
    if is_new and this.location in ROUNDS:
        put_files(store, ROUNDS[this.location])
        return open_round(config, number).record
    bad_latents = generate_bad_latents.fn(**this.bad_latents_options())
    discriminator = retrain_discriminator.fn(**this.discriminator_options())
    stage3 = continue_stage3.fn(this.config_path, recorded=True, artifacts=config.artifacts)
    record = close_round(this, bad_latents, discriminator, stage3, {}, seconds=1.0)
    if is_new:
        ROUNDS[this.location] = {file.name: store.read(file.name).data for file in store.files()}
    return record


# Files of the rounds that a test made, by their location. Every test of a place would make the same ones.
ROUNDS = {}


def put_files(store, files):
    store.delete(files)  # the config, whose cache is this test's own
    for name, data in files.items():
        assert store.create(name, data)


@pytest.fixture(params=["local", "moto"])
def place(request, tmp_path_factory):
    """An empty root at the same address for every test: records name it."""
    place = request.getfixturevalue(f"{request.param}_place")
    if place.client is not None:
        place.client.create_bucket(Bucket="recovery")
        return replace(place, uri="s3://recovery/some run")
    root = tmp_path_factory.getbasetemp() / "recovery"
    shutil.rmtree(root, ignore_errors=True)
    return replace(place, uri=str(root))


@pytest.fixture
def config(prepared, tmp_path, place):
    """The tiny experiment at `place`, after its run began."""
    path = ready_config(prepared, tmp_path, place.uri, place.artifacts.endpoint_url)
    config = load_config(path).with_values({"rounds.epochs_per_round": 1, "rounds.count": 2})
    begin_run(config)
    return config


def test_a_holder_may_hold_its_run_again(config):
    run = run_location(config)
    assert open_store(run, config.artifacts).read("lease.json") is None
    with hold(run, config.artifacts) as held:
        with hold(run, config.artifacts) as again:
            assert again is held
        token = held.token
    with hold(run, config.artifacts) as held:
        assert held.token == token + 1


def test_a_holder_that_lost_its_lease_gets_an_error_and_changes_nothing(config):
    run = run_location(config)
    with hold(run, config.artifacts.model_copy(update={"lease_seconds": 1})) as held:
        store = open_store(run, config.artifacts).with_write_check(held.write_check)
        there = open_store(run, config.artifacts).read("lease.json")
        other = json.loads(there.data) | {"token": 99, "nonce": "another"}
        open_store(run, config.artifacts).compare_and_swap("lease.json", json.dumps(other).encode(), there.version)
        time.sleep(1)
        with pytest.raises(LeaseError, match="publishes nothing more"):
            store.create("round-01/round.json", b"{}")
        assert open_store(run, config.artifacts).read("round-01/round.json") is None
    assert json.loads(open_store(run, config.artifacts).read("lease.json").data)["token"] == 99


def flip(data):
    return bytes([data[0] ^ 1]) + data[1:]


TAMPERED = {"flipped": flip, "truncated": lambda data: data[:-1], "swapped": lambda _: b"another file", "deleted": None}


@pytest.mark.parametrize("how", TAMPERED)
@pytest.mark.parametrize(
    "name",
    [
        "round-01/stage3/checkpoints/tiny_checkpoint_latest.pt",
        "round-01/discriminator/stage.json",
    ],
)
def test_tampered_files_are_found_and_not_read(config, place, tmp_path, name, how):
    run_round(config, 1)
    assert not find_problems(place.uri, place.artifacts)
    run = open_store(run_location(config), config.artifacts)
    if TAMPERED[how] is None:
        run.delete([name])
    else:
        place.overwrite(f"tiny/{name}", TAMPERED[how]((run.fetch({name: run.measure(name)}) / name).read_bytes()))
    problems = find_problems(place.uri, place.artifacts)
    assert any(name in line for line in problems), problems
    kind = "missing" if how == "deleted" else "altered"
    with pytest.raises(InputError, match=rf"{name} is {kind}|{re.escape(name)}.* is damaged"):
        # As on another machine: the cache of this one still has an unaltered copy.
        run_round(config.with_values({"artifacts.cache": str(tmp_path / "elsewhere")}), 2)
    assert open_store(round_location(config, 2), config.artifacts).read("round.json") is None


def test_a_tampered_input_of_a_stage_is_refused(config, place):
    this = open_round(config, 1)
    generate_bad_latents.fn(**this.bad_latents_options())
    # The real latents, because the bad ones are in the cache already and that copy would be used.
    place.overwrite("tiny/round-01/bad_latents/real_latents_all.pt", b"not those latents")
    with pytest.raises(InputError, match=r"real_latents_all.pt is altered: recorded with"):
        retrain_discriminator.fn(**this.discriminator_options())


def test_a_stage_resumed_from_its_state_under_another_config_is_refused(config, monkeypatch):
    from core.training import training_step

    this = open_round(config.with_values({"rounds.epochs_per_round": 4}), 1)
    generate_bad_latents.fn(**this.bad_latents_options())
    retrain_discriminator.fn(**this.discriminator_options())
    with monkeypatch.context() as patch:
        step = training_step.DiffusionTraining._step

        def dies(self, *given):
            if self.state.epoch == 2:
                self.workspace.settle()
                raise RuntimeError("the machine died")
            return step(self, *given)

        patch.setattr(training_step.DiffusionTraining, "_step", dies)
        with pytest.raises(RuntimeError, match="the machine died"):
            continue_stage3.fn(this.config_path, recorded=True, artifacts=config.artifacts)
    status = read_status(config.artifacts.root, config.artifacts).text
    assert re.search(r"round-01 continues from stage3: epoch [12]$", status)
    with pytest.raises(InputError, match=r"training.learning_rate 0.0001, now it is 0.5"):
        continue_stage3.fn(
            this.config_path, artifacts=config.artifacts, overrides=["training.learning_rate=0.5"], recorded=True
        )
    continue_stage3.fn(this.config_path, artifacts=config.artifacts, recorded=True)
    stage = open_store(this.location, config.artifacts).below("stage3")
    assert not [file.name for file in stage.files() if file.name.startswith("state/")]
    assert read_record(stage, RECORD_NAME)["metrics"]["epoch"] == 4


def test_a_run_forked_from_a_round_starts_from_its_model(config):
    run_round(config, 1)
    fork = config.with_values({"experiment.name": "fork", "discriminator.weight": 0.05})
    parent = round_location(config, 1)
    begin_run(fork, parent)
    begin_run(fork)  # a later start need not name the parent again
    record = run_round(fork, 1)
    assert record["inputs"]["parent"]["path"] == f"{parent}/round.json"
    assert record["inputs"]["parent"]["sha256"] == open_store(parent, config.artifacts).measure("round.json")["sha256"]
    assert record["metrics"]["epoch"] == 2
    bad_latents = open_store(f"{round_location(fork, 1)}/bad_latents", config.artifacts)
    bad_latents_inputs = read_record(bad_latents, RECORD_NAME)["inputs"]
    assert bad_latents_inputs["diffusion"]["path"].startswith(f"{parent}/stage3/")
    assert f"forked from: {parent}/round.json" in read_status(run_location(fork), config.artifacts).text
    with pytest.raises(InputError, match=r"was forked from no other round, not from .*give it another experiment.name"):
        begin_run(config, round_location(fork, 1))
    with pytest.raises(InputError, match=r"--fork-from .*round-07.*give the address of a finished round"):
        begin_run(fork, round_location(config, 7))


def test_status_shows_rounds_holder_and_what_is_next(config, place):
    text = read_status(place.uri, config.artifacts).text
    assert "lease: nobody" in text and text.endswith("next: round-01 of 2")
    run_round(config, 1)
    with hold(run_location(config), config.artifacts):
        text = read_status(run_location(config), config.artifacts).text
    assert f"process {os.getpid()} on" in text
    assert re.search(r"round-01 +finished +1 +[01]\.\d{4}", text) and text.endswith("next: round-02 of 2")
    assert re.search(r"\ntime: about \d\d:\d\d for the 1 round left\nnext: ", text)
    with pytest.raises(InputError, match="holds no run"):
        read_status(f"{place.uri}/nothing", config.artifacts)


def test_garbage_is_our_own_files_that_nothing_needs(config, place):
    run_round(config, 1)
    run = open_store(run_location(config), config.artifacts)
    left = {
        "round-01/stage3/state/000001-000001/left.pt": "state of a finished stage",
        "round-02/stage3/state/000001-000001/left.pt": "state that a newer one replaced",
    }
    for name in left:
        assert run.create(name, b"of a crash")
    for name in ("mine.txt", "round-01/mine.txt", "round-01/stage3/mine.pt", "round-02/stage3/state/mine.pt"):
        assert run.create(name, b"of the user")
    open_store(place.uri, config.artifacts).create("notes/mine.txt", b"not of a run")
    before = {file.name for file in run.files()}
    assert [file.name for garbage in find_garbage(place.uri, 24, place.artifacts) for file in garbage.files] == []
    (garbage,) = find_garbage(place.uri, 0, place.artifacts)
    assert {file.name: file.why for file in garbage.files} == left
    assert {file.name for file in run.files()} == before
    removed = remove_garbage(garbage.uri, 0, config.artifacts)
    assert {file.name: file.why for file in removed.files} == left
    assert {file.name for file in run.files()} == before - set(left) | {"lease.json"}
    assert open_store(place.uri, config.artifacts).read("notes/mine.txt") is not None
    assert not find_problems(place.uri, place.artifacts)
    with hold(run_location(config), config.artifacts):
        assert [garbage.busy for garbage in find_garbage(place.uri, 0, place.artifacts)] == [True]


def test_stage3_of_a_finished_round_cannot_be_trained_outside_of_the_round(config, place):
    run_round(config, 1)
    this, stage = open_round(config, 1), open_store(f"{run_location(config)}/round-01/stage3", config.artifacts)
    before = {file.name: stage.measure(file.name) for file in stage.files()}
    with pytest.raises(InputError, match=r"--no-resume: what is at .*round-01/stage3 is kept; remove it"):
        continue_stage3.fn(this.config_path, artifacts=config.artifacts, resume=False)
    with pytest.raises(
        InputError, match=r"round-01/stage3 holds a stage3 made with training.epochs 1, now it is 2: choose another"
    ):
        continue_stage3.fn(this.config_path, artifacts=config.artifacts, overrides=["training.epochs=2"])
    continue_stage3.fn(this.config_path, artifacts=config.artifacts)
    assert {file.name: stage.measure(file.name) for file in stage.files()} == before
    assert not find_problems(place.uri, place.artifacts)


def test_stage3_outside_of_the_flow_makes_the_stage_of_an_unfinished_round(config, place):
    this = open_round(config, 1)
    generate_bad_latents.fn(**this.bad_latents_options())
    retrain_discriminator.fn(**this.discriminator_options())
    continue_stage3.fn(this.config_path, artifacts=config.artifacts)
    made = read_record(open_store(f"{this.location}/stage3", config.artifacts), RECORD_NAME)
    assert run_round(config, 1)["metrics"]["epoch"] == 1
    assert read_record(open_store(f"{this.location}/stage3", config.artifacts), RECORD_NAME) == made
    assert not find_problems(place.uri, place.artifacts)


def test_files_that_a_stage_is_publishing_are_not_garbage(config, place):
    stage = open_store(f"{run_location(config)}/round-01/stage3", config.artifacts)
    stage.create("state/publishing.json", b'{"outputs": ["model.pt", "of-an-earlier-try.pt"]}')
    for name in ("model.pt", "of-an-earlier-try.pt"):
        stage.create(name, b"uploaded")
    assert [garbage.files for garbage in find_garbage(place.uri, 0, place.artifacts)] == [[]]
    create_record({"outputs": {"model.pt": stage.measure("model.pt")}}, stage, "stage.json")
    (garbage,) = find_garbage(place.uri, 0, place.artifacts)
    left = ["round-01/stage3/of-an-earlier-try.pt", "round-01/stage3/state/publishing.json"]
    assert sorted(file.name for file in garbage.files) == left
    remove_garbage(garbage.uri, 0, config.artifacts)
    assert sorted(file.name for file in stage.files()) == ["model.pt", "stage.json"]


def test_a_training_beside_the_rounds_is_not_garbage(local_place, prepared, tmp_path):
    config = load_config(ready_config(prepared, tmp_path, local_place.uri))
    begin_run(config)
    training = open_store(stage3_location(config), config.artifacts)
    training.create("checkpoints/tiny_checkpoint_latest.pt", b"hours of work")
    assert [file.name for garbage in find_garbage(local_place.uri, 0, config.artifacts) for file in garbage.files] == []


def test_commands_print_what_they_found(config, place, capsys):
    from flows.collect_garbage import collect_garbage
    from flows.status import status

    run_round(config, 1)
    assert run_command(status, [place.uri, "--verify"]) == []
    assert capsys.readouterr().out.endswith("verified: everything is as recorded\n")
    place.overwrite("tiny/round-01/stage3/tiny_metrics.csv", b"")
    assert len(run_command(status, [place.uri, "--verify"])) == 1
    assert "altered: " in capsys.readouterr().out
    run_command(collect_garbage, [place.uri, "--grace_hours", "0"])
    assert "0 files" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        run_command(status, [str(Path(place.uri).parent / "nowhere")])
    assert left.value.code == 2
