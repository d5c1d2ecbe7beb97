"""The flows on Prefect's temporary server: the documented rounds, done once, resumed, refused."""

import hashlib
import json
import re
import threading
from pathlib import Path

import pandas as pd
import pytest
import torch
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.exceptions import Pause
from prefect.settings import PREFECT_API_URL

import flows.adversarial_round as adversarial_round_module
import flows.gpu_slot as gpu_slot_module
import flows.round_events as round_events_module
import tasks.stage_task as stage_task_module
from core.checkpoints.loading import load_checkpoint
from core.config.loading import load_config
from core.reports.round_table import round_table
from core.runtime.errors import InputError, LeaseError, UnavailableError
from core.training import training_step
from core.training.evaluation import Evaluation
from flows.adversarial_round import adversarial_round
from flows.adversarial_training import adversarial_training
from flows.gpu_slot import gpu_slot
from flows.prerequisites import prerequisites
from flows.round_events import (
    ALARM,
    DISCRIMINATOR_TOO_EASY,
    ROUND_COMPLETED,
    VIABILITY_SATURATED,
    announce_round,
    announced_failure,
)
from flows.watch_data import watch_data
from tests.commands import run
from tests.prefect_databases import database_with_tables, flows_server


@pytest.fixture(scope="module", autouse=True)
def _server(tmp_path_factory):
    with flows_server(database_with_tables(tmp_path_factory)):
        yield


@pytest.fixture(scope="module")
def finished(shared_experiment):
    """Config, folder and records of a finished training of two rounds."""
    folder = shared_experiment.parent / "artifacts" / "tiny"
    return shared_experiment, folder, adversarial_training(shared_experiment)


@pytest.fixture
def told(monkeypatch):
    """Events that would be sent to Prefect's server."""
    events = []
    monkeypatch.setattr(round_events_module, "emit_event", lambda event, **details: events.append((event, details)))
    return events


def snapshot(folder):
    """Every file but the lease, which each start takes and gives back, and the config it was last started with."""
    of_a_start = ("lease.json", ".lock", "tiny/config.yaml")
    files = [path for path in folder.rglob("*") if path.is_file() and not str(path).endswith(of_a_start)]
    return {str(path): path.stat().st_mtime_ns for path in files}


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_every_round_leaves_its_documented_artefacts(finished):
    _, folder, records = finished
    assert [record["round"] for record in records] == [1, 2]
    for number in (1, 2):
        here = folder / f"round-{number:02d}"
        for name in (
            "round.json",
            "config.yaml",
            "bad_latents/bad_latents_all.pt",
            "bad_latents/discriminator_manifest.csv",
            "discriminator/discriminator_best.pt",
            "discriminator/discriminator_history.csv",
            "stage3/checkpoints/tiny_checkpoint_best.pt",
            "stage3/checkpoints/tiny_checkpoint_latest.pt",
            "stage3/tiny_metrics.csv",
        ):
            assert (here / name).exists(), name
        assert list((here / "stage3" / "samples").glob("tiny_epoch_*.png"))


def test_a_round_is_made_from_what_its_record_says(finished):
    _, folder, records = finished
    for record in records:
        here = folder / f"round-{record['round']:02d}"
        assert json.loads((here / "round.json").read_text()) == record
        named = dict(record["outputs"])
        for stage in ("bad_latents", "discriminator", "stage3"):
            outputs = json.loads((here / stage / "stage.json").read_text())["outputs"]
            named |= {f"{stage}/{name}": entry for name, entry in outputs.items()}
        assert {"round.json", "announced.json"} == {
            str(p.relative_to(here)) for p in here.rglob("*") if p.is_file()
        } - named.keys()
        for name, entry in named.items():
            assert (sha256(here / name), (here / name).stat().st_size) == (entry["sha256"], entry["size"])
        for entry in record["inputs"].values():
            assert sha256(entry["path"]) == entry["sha256"]
        assert record["code"]["torch"] and record["seeds"]["training"] == 42
    assert records[1]["inputs"]["parent"]["path"].endswith("round-01/round.json")


def test_bad_latents_come_from_stage1_then_from_the_round_before(finished):
    _, folder, _ = finished
    made_by = [json.loads((folder / f"round-0{n}/bad_latents/stage.json").read_text())["inputs"] for n in (1, 2)]
    assert made_by[0]["diffusion"]["path"].endswith("stage1/checkpoints/stage1_checkpoint_best.pt")
    assert made_by[1]["diffusion"]["path"] == str(folder / "round-01/stage3/checkpoints/tiny_checkpoint_latest.pt")


def test_epochs_optimizer_and_ema_go_on_across_rounds(finished):
    _, folder, _ = finished
    metrics = pd.read_csv(folder / "round-02/stage3/tiny_metrics.csv")
    assert metrics["epoch"].tolist() == [1, 2]
    first, second = (
        load_checkpoint(folder / f"round-0{n}/stage3/checkpoints/tiny_checkpoint_latest.pt", "checkpoint")
        for n in (1, 2)
    )
    steps = [c["optimizer_state"]["state"][0]["step"].item() for c in (first, second)]
    assert steps == [first["step"], second["step"]] and steps[1] == 2 * steps[0]
    key = next(key for key in first["state_dict"] if key.startswith("unet_ema."))
    assert not torch.equal(first["state_dict"][key], second["state_dict"][key])


def test_each_round_has_fresh_reals_fakes_and_discriminator(finished):
    _, folder, _ = finished
    for name in ("bad_latents/bad_latents_all.pt", "discriminator/discriminator_best.pt"):
        assert sha256(folder / "round-01" / name) != sha256(folder / "round-02" / name)


def test_the_table_has_a_row_a_round(finished):
    table = round_table(finished[2]).splitlines()
    assert len(table) == 3
    for word in ("D val acc", "before", "after", "noise", "segmentation", "perceptual", "seconds", "artefacts"):
        assert word in table[0]
    assert "nan" not in "".join(table).lower()


def test_a_finished_training_is_not_done_again(finished):
    config, folder, records = finished
    before = snapshot(folder.parent)
    assert adversarial_training(config) == records
    assert snapshot(folder.parent) == before


def test_a_round_whose_process_died_before_it_told_is_told(finished, told):
    config, folder, _ = finished
    (folder / "round-02" / "announced.json").unlink()
    (folder / "report.html").unlink()
    adversarial_training(config)
    assert [details["payload"]["round"] for event, details in told if event == ROUND_COMPLETED] == [2]
    assert "<h2>Round 2</h2>" in (folder / "report.html").read_text()
    adversarial_training(config)
    assert len([event for event, _ in told if event == ROUND_COMPLETED]) == 1


def test_another_setting_under_the_same_name_is_refused(finished):
    config, folder, _ = finished
    before = snapshot(folder.parent)
    with pytest.raises(InputError, match=r"discriminator.weight 0.1, now it is 0.05: choose another"):
        adversarial_round(config, 1, ["discriminator.weight=0.05"])
    assert snapshot(folder.parent) == before


def test_the_next_round_is_refused_with_other_settings_and_then_goes_on_with_its_own(finished):
    config, folder, _ = finished
    before, kept = snapshot(folder.parent), (folder / "config.yaml").read_bytes()
    for overrides in (["training.weight_decay=0.5"], ["training.weight_decay=0.5", "rounds.count=3"]):
        with pytest.raises(
            InputError, match=r"round-01 holds a round made with training.weight_decay 0.1, now it is 0.5"
        ):
            adversarial_round(config, overrides=overrides)
        with pytest.raises(
            InputError, match=r"round-01 holds a round made with training.weight_decay 0.1, now it is 0.5"
        ):
            adversarial_round(config, 3, overrides)
    assert snapshot(folder.parent) == before and (folder / "config.yaml").read_bytes() == kept
    assert len(adversarial_training(config)) == 2


def test_one_more_round_goes_on_from_the_last(finished):
    config, folder, _ = finished
    records = adversarial_training(config, ["rounds.count=3"])
    assert len(records) == 3 and records[2]["metrics"]["epoch"] == 3
    assert records[2]["inputs"]["parent"]["sha256"] == sha256(folder / "round-02/round.json")


def test_an_interrupted_round_equals_an_undisturbed_one(finished, experiment, monkeypatch):
    """The process dies in the middle of Stage 3; the same command again ends with the same bytes."""
    _, undisturbed, _ = finished
    folder = experiment.parent / "artifacts" / "tiny" / "round-01"
    with monkeypatch.context() as patch:
        step = training_step.DiffusionTraining._step

        def dies(self, *given):
            if self.name == "tiny" and self.state.step == 2:
                raise RuntimeError("the machine died")
            return step(self, *given)

        patch.setattr(training_step.DiffusionTraining, "_step", dies)
        with pytest.raises(RuntimeError, match="the machine died"):
            adversarial_round(experiment, 1)
    assert (folder / "discriminator" / "stage.json").exists() and not (folder / "round.json").exists()
    adversarial_round(experiment, 1)
    for name in (
        "bad_latents/bad_latents_all.pt",
        "discriminator/discriminator_best.pt",
        "stage3/checkpoints/tiny_checkpoint_latest.pt",
        "stage3/tiny_metrics.csv",
    ):
        assert sha256(folder / name) == sha256(undisturbed / "round-01" / name), name


def test_reports_of_a_round_are_kept_beside_the_artefacts(finished):
    config, folder, _ = finished
    page, count = (folder / "report.html").read_text(), len(list(folder.glob("round-*/round.json")))
    assert page.index("<h2>Round 2</h2>") < page.index("<h2>Round 1</h2>")
    assert page.count("data:image/png;base64,") == 1 + count * 4
    assert not re.search(r"(src|href)=.(?!data:)", page)
    done = run("tasks.report_round", folder / "round-01" / "config.yaml", "--number", "1")
    assert done.stdout == f"{folder / 'report.html'}\n", done.stderr
    assert "Round 2" not in (folder / "report.html").read_text()
    done = run("tasks.report_round", config, "--number", "9")
    assert done.returncode == 2 and f"round-{count + 1:02d} holds no finished round" in done.stderr


def test_the_next_round_is_done_and_then_nothing_is_due(experiment, caplog):
    assert adversarial_round(experiment, overrides=["rounds.count=1"])["round"] == 1
    with caplog.at_level("INFO", logger="core"):
        assert adversarial_round(experiment, overrides=["rounds.count=1"]) is None
    assert "nothing is due: all 1 rounds are finished" in caplog.text
    assert adversarial_round(experiment, overrides=["rounds.count=1"], extra=True)["round"] == 2


def test_the_next_round_first_tells_of_one_whose_process_died_before_it_told(finished, told, caplog):
    config, folder, _ = finished
    last = sorted(folder.glob("round-*/announced.json"))[-1]
    last.unlink()
    number = int(last.parent.name.removeprefix("round-"))
    assert adversarial_round(config, overrides=[f"rounds.count={number}"])["round"] == number
    assert [details["payload"]["round"] for event, details in told if event == ROUND_COMPLETED] == [number]
    with caplog.at_level("INFO", logger="core"):
        assert adversarial_round(config, overrides=[f"rounds.count={number}"]) is None
    assert "nothing is due" in caplog.text


def test_a_round_that_loses_its_lease_has_failed(experiment, monkeypatch):
    def lost(*_):
        raise LeaseError("this process was silent for too long")

    monkeypatch.setattr(adversarial_round_module, "open_round", lost)
    with pytest.raises(LeaseError, match="silent for too long"):
        adversarial_round(experiment)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (UnavailableError("bucket b: the server failed for 10 min"), True),
        (InputError("training.batch_size is missing"), False),
        (LeaseError("held by another"), False),
        (torch.cuda.OutOfMemoryError("out of memory"), False),
        (MemoryError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_may_pass_is_tried_again(error, again, monkeypatch, caplog):
    attempts = []

    def fails():
        attempts.append(None)
        raise error

    monkeypatch.setattr(stage_task_module, "_SECONDS_BETWEEN", 0)
    failing = stage_task_module.stage_task("fails")(fails)
    with pytest.raises(type(error)):
        flow(lambda: failing(), name="fails")()
    assert len(attempts) == (3 if again else 1)
    said = [line for line in caplog.messages if "it is tried again" in line]
    assert said == ([f"fails: {error}; it is tried again in 0 s"] * 2 if again else [])


def test_two_runs_do_not_share_a_gpu(config, monkeypatch):
    monkeypatch.setattr(gpu_slot_module, "needs_gpu", lambda _: True)
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="gpu", limit=1))
    inside = []

    def other():
        with gpu_slot(config):
            inside.append("other")

    waiting = threading.Thread(target=other)
    with gpu_slot(config):
        waiting.start()
        waiting.join(3)
        inside.append("first")
    waiting.join(60)
    assert inside == ["first", "other"]


@pytest.mark.parametrize(
    ("viability", "events"),
    [(0.8, []), (0.85, [VIABILITY_SATURATED]), (0.95, [VIABILITY_SATURATED, DISCRIMINATOR_TOO_EASY])],
)
def test_viability_that_stays_high_is_told(finished, told, viability, events):
    record = finished[2][1]
    quiet = record | {"metrics": {"viability_floor": viability}, "alarms": [], "alarm_names": [], "regression": []}
    announce_round(quiet, Path("c.yaml"), ["rounds.count=9"], 9)
    assert [event for event, _ in told] == [ROUND_COMPLETED, *events]
    for _, details in told:
        assert details["resource"] == {"prefect.resource.id": "layouts.run.tiny"}
        about = {"experiment": "tiny", "config": "c.yaml", "overrides": ["rounds.count=9"]}
        assert details["payload"] == about | {"round": 2, "viability": viability}


def test_alarms_and_the_end_of_a_run_are_events_with_figures_and_the_report(finished, told):
    _, folder, records = finished
    alarms = {"fooled": "it is being fooled", "knows_nothing": "AUC 0.5"}
    record = records[1] | {"alarm_names": list(alarms), "alarms": list(alarms.values()), "regression": ["fooled again"]}
    announce_round(record, Path("c.yaml"), [], 2)
    events = {event: details["payload"] for event, details in told if event != ROUND_COMPLETED}
    texts = {event: payload["text"] for event, payload in events.items()}
    assert texts == {
        "layouts.alarm.fooled": "round 2 of tiny: it is being fooled",
        "layouts.alarm.knows-nothing": "round 2 of tiny: AUC 0.5",
        "layouts.alarm.regression": "round 2 of tiny: fooled again",
        "layouts.run.finished": "2 rounds of tiny are finished",
    }
    for payload in events.values():
        assert payload["round"] == 2 and payload["metrics"] == record["metrics"]
        assert Path(payload["report"]) == folder / "report.html" and Path(payload["report"]).is_file()


def test_a_run_that_fails_is_an_event_and_one_that_waits_is_none(experiment, told, monkeypatch):
    def fails(*_):
        raise InputError("no layout is left: add some; token hf_abcdefghijklmnopqrstuvwxyz")

    monkeypatch.setattr(adversarial_round_module, "open_round", fails)
    for flow_of_run in (adversarial_training, adversarial_round):
        with pytest.raises(InputError):
            flow_of_run(experiment)
    assert [event for event, _ in told] == ["layouts.run.failed"] * 2
    for _, details in told:
        assert details["payload"]["text"] == "the run of tiny failed: no layout is left: add some; token hf_***"
    with pytest.raises(Pause), announced_failure(load_config(experiment), experiment, []):
        raise Pause
    assert len(told) == 2


def test_the_lowest_of_the_last_three_evaluations_counts(experiment, told, monkeypatch):
    scores = iter([0.1, 0.2, 0.9, 0.85, 0.9, 0.95])  # before the first epoch, after each of four, at the end

    def generate_and_score(_):
        return torch.zeros(4, 4, 8, 8), torch.full((4,), next(scores))

    monkeypatch.setattr(Evaluation, "generate_and_score", generate_and_score)
    record = adversarial_round(experiment, 1, ["rounds.epochs_per_round=4", "training.eval_interval=1"])
    assert record["metrics"]["viability_floor"] == pytest.approx(0.85)
    assert [event for event, _ in told if not event.startswith(ALARM)] == [ROUND_COMPLETED, VIABILITY_SATURATED]


def test_other_data_is_noticed(finished, manifest, tmp_path):
    config, folder, _ = finished
    assert watch_data(config) is False
    recorded = json.loads((folder / "round-01" / "round.json").read_text())["inputs"]["manifest"]["path"]
    other = tmp_path / "manifest.csv"
    other.write_text("\n".join(Path(recorded).read_text().splitlines()[:-1]) + "\n")
    assert watch_data(config, [f"dataset.manifest={other}"]) is True


def test_a_training_with_audits_at_both_ends_says_last_what_it_changed(experiment, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())  # saves it starting a server
    settings = ["audit={num_samples: 10, pass_share: 0.5}", "rounds.count=1", "rounds.epochs_per_round=1"]
    done = run("flows.adversarial_training", experiment, *(part for one in settings for part in ("--set", one)))
    assert done.returncode == 0, done.stderr
    table, lines = done.stdout.splitlines()[:2], done.stdout.splitlines()[2:]
    picture = experiment.parent / "artifacts/tiny/before_after.png"
    assert table[1].endswith("round-01") and lines[0].startswith("10 layouts of the same noise, before the rounds")
    assert lines[-1].endswith(f"before | after | real: {picture}") and picture.stat().st_size > 1000


def test_prerequisites_are_found_not_made_again(experiment):
    before = snapshot(experiment.parent / "artifacts" / "prerequisites")
    made = prerequisites(experiment)
    assert list(made) == ["layouts", "autoencoder", "latents", "stage1", "stage2"]
    assert made["layouts"] is None and made["stage2"]["metrics"]["perceptual_trunk"] == "trunk.pt"
    assert snapshot(experiment.parent / "artifacts" / "prerequisites") == before


def test_prerequisites_of_another_config_are_refused_and_not_used(experiment):
    with pytest.raises(InputError, match=r"stage1 made with training.learning_rate 0.001, now it is 0.5"):
        prerequisites(experiment, ["prerequisites.stage1.learning_rate=0.5"])
    with pytest.raises(InputError, match=r"diffusion\.stage1_checkpoint is missing"):
        adversarial_round(experiment, 1, ["unet.base_channels=24", "experiment.name=other"])


def test_a_config_without_prerequisites_finds_them_made(finished):
    """As a Stage 3 file that names neither checkpoints nor how to make them."""
    config, folder, _ = finished
    record = adversarial_round(config, 1, ["prerequisites=null", "experiment.name=bare", "rounds.epochs_per_round=1"])
    made = folder.parent / "prerequisites"
    assert record["inputs"]["stage2"]["sha256"] == sha256(made / "stage2/checkpoints/stage2_checkpoint_best.pt")


def test_the_command_prints_the_table_and_does_nothing_twice(finished, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())  # saves it starting a server
    config, folder, _ = finished
    before = snapshot(folder.parent)
    done = run("flows.adversarial_training", config)
    assert snapshot(folder.parent) == before
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3 and "viability" in done.stdout
    assert "round 2: done already" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "rounds.cuont=2"], "did you mean rounds.count"),
        (["--set", "dataset.manifest=/nowhere.csv"], "/nowhere.csv does not exist"),
    ],
)
def test_what_a_user_can_mend_ends_in_one_line_and_status_2(prepared, monkeypatch, arguments, message):
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())  # saves it starting a server
    done = run("flows.adversarial_training", prepared, *arguments)
    assert done.returncode == 2
    *before, last = done.stderr.splitlines()
    assert re.fullmatch(rf"error: .*{re.escape(message)}.*", last), done.stderr
    assert not before
    assert done.stdout == ""
