"""Trackers: what they get, on which axis, after a kill and after an error, and what is refused before work starts."""

import importlib.util
import json
import math
import os
from itertools import pairwise

import pandas as pd
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.checkpoints.loading import load_checkpoint
from core.config.loading import load_config
from core.reports.config_check import check_config
from core.rounds.close_round import close_round
from core.rounds.round import open_round
from core.rounds.run import hold_run
from core.runtime.errors import InputError
from core.trackers import tracker_kinds
from core.trackers.tracking import PICTURES, STEPS, TrackedStage, Tracking
from core.training import training_step
from core.training.prerequisites import make_prerequisite
from core.training.step_figures import EpochFigures, StepFigures
from tasks.audit import audit
from tasks.command_line import run_command
from tasks.continue_stage3 import continue_stage3
from tasks.generate_bad_latents import generate_bad_latents
from tasks.retrain_discriminator import retrain_discriminator
from tests.processes import killed_at
from tests.untrained import write_discriminator

TENSORBOARD = "training.trackers=[tensorboard]"


def tracked_config(path, folder, *settings):
    trackers = [TENSORBOARD, f"training.tracker_dir={folder}", "training.log_interval=1"]
    return load_config(path, [*trackers, *settings])


def events(folder, name="tiny"):
    read = EventAccumulator(str(folder / "tensorboard" / name), size_guidance={"scalars": 0, "images": 0})
    read.Reload()
    return read


def steps_of(read, tag):
    return [event.step for event in read.Scalars(tag)]


def run_round(config, number):
    """The stages of a round as its flow does them, without Prefect."""
    this = open_round(config, number)
    bad_latents = generate_bad_latents.fn(**this.bad_latents_options())
    discriminator = retrain_discriminator.fn(**this.discriminator_options())
    stage3 = continue_stage3.fn(this.config_path, recorded=True, artifacts=config.artifacts)
    audits = {name: audit.fn(**options) for name, options in this.audits_options().items()}
    return stage3, close_round(this, bad_latents, discriminator, stage3, audits, seconds=1.0)


@pytest.fixture(scope="module")
def rounds(shared_experiment):
    """Two rounds that TensorBoard tracked: its folder, the results of Stage 3 and the records."""
    folder = shared_experiment.parent / "tracked"
    epochs = ["rounds.epochs_per_round=2", "training.eval_interval=1", "audit={num_samples: 10}"]
    config = tracked_config(shared_experiment, folder, *epochs)
    return folder, [run_round(config, number) for number in (1, 2)]


def test_the_axis_goes_on_from_round_to_round_without_gaps_or_repeats(rounds):
    folder, ((first, _), (second, _)) = rounds
    read, (mid, end) = events(folder), (first["metrics"]["step"], second["metrics"]["step"])
    assert end == 2 * mid
    each = mid // 2
    for name in ("train_loss", "val_loss", "viability_score", "discriminator_weight", "lr", "grad_norm"):
        assert steps_of(read, f"stage3/{name}") == [each, mid, mid + each, end], name
    assert steps_of(read, "stage3/steps/train_loss") == list(range(1, end + 1))
    discriminated = steps_of(read, "discriminator/val_loss")
    assert len(discriminated) == 4 and len({after - before for before, after in pairwise(discriminated)}) == 1
    assert steps_of(read, "audit/viable") == [0, mid, end]
    assert [event.value for event in read.Scalars("audit/round")] == [0, 1, 2]
    pictures = [event.step for event in read.Images("stage3/samples")]
    assert pictures == sorted(set(pictures)) and pictures[0] == 0 and pictures[-1] == end


def test_the_points_are_the_rows_of_the_table(rounds):
    folder, results = rounds
    read = events(folder)
    table = pd.read_csv(f"{results[1][0]['output_dir']}/tiny_metrics.csv")
    assert list(table.columns[-2:]) == ["lr", "grad_norm"]
    for column in table.columns.drop("epoch"):
        logged = [event.value for event in read.Scalars(f"stage3/{column}")]
        assert logged == pytest.approx(table[column].dropna().tolist()), column
    by_step = [event.value for event in read.Scalars("stage3/steps/grad_norm")]
    each = len(by_step) // len(table)
    means = [sum(by_step[start : start + each]) / each for start in range(0, len(by_step), each)]
    assert means == pytest.approx(table["grad_norm"].tolist())
    assert {"stage3/steps_per_second", "stage3/samples_per_second", "stage3/peak_memory_gb"} <= set(
        read.Tags()["scalars"]
    )


def test_a_record_says_what_stage_3_took_and_a_round_does_not(rounds):
    _, results = rounds
    for stage3, record in results:
        assert stage3["metrics"]["steps_per_second"] > 0 and 0 < stage3["metrics"]["peak_memory_gb"] < 100
        assert not {"step", "steps_per_second", "peak_memory_gb"} & record["metrics"].keys()


def test_the_config_is_logged_once(rounds):
    folder, _ = rounds
    assert len(list((folder / "tensorboard" / "tiny").glob("*/hparams.yml"))) == 1


def test_prerequisites_are_tracked(prepared, config, tmp_path):
    names = ("dataset.manifest", "autoencoder.checkpoint")
    given = [f"{name}={config.required(name)}" for name in names]
    tracked = tracked_config(prepared, tmp_path / "t", f"artifacts.root={tmp_path / 'artifacts'}", given[0])
    make_prerequisite("autoencoder", tracked)
    make_prerequisite("stage1", tracked_config(prepared, tmp_path / "t", f"artifacts.root={tmp_path / 'a2'}", *given))
    read = events(tmp_path / "t")
    assert len(read.Scalars("autoencoder/val_loss")) == 2
    assert len(read.Scalars("stage1/train_noise_loss")) == 1 and read.Scalars("stage1/steps/lr")


@pytest.fixture
def discriminator(tmp_path):
    return write_discriminator(tmp_path / "discriminator_best.pt")


@pytest.fixture
def flags(experiment, discriminator, tmp_path):
    """The command line of a Stage 3 of six epochs whose state is written after every second one."""
    values = {
        "training.epochs": 6,
        "training.latest_interval": 2,
        "training.log_interval": 1,
        "training.tracker_dir": tmp_path / "trackers",
        "experiment.save_path": tmp_path / "out",
        "discriminator.checkpoint": discriminator,
    }
    return [str(experiment), *(f"--set={name}={value}" for name, value in values.items())]


def logged_steps(folder):
    try:
        return json.loads((folder / "tiny.json").read_text())["logged"]["stage3"]["steps"]
    except (FileNotFoundError, KeyError):
        return 0


def test_a_killed_training_that_goes_on_repeats_no_point(flags, tmp_path):
    """Killed in epoch 4, after a state of epoch 2: points up to there are logged, and are trained again."""
    folder, each = tmp_path / "trackers", 3
    arguments = [*flags, f"--set={TENSORBOARD}", f"--set=training.steps_per_epoch={each}"]
    killed = 3 * each + 2
    killed_at(training_step, "update_ema", killed, lambda: run_command(continue_stage3.fn, arguments))
    before = events(folder)
    assert steps_of(before, "stage3/steps/train_loss") == list(range(1, killed))
    assert steps_of(before, "stage3/train_loss") == [each, 2 * each, 3 * each]
    latest = load_checkpoint(tmp_path / "out" / "checkpoints" / "tiny_checkpoint_latest.pt", "checkpoint")
    assert latest["step"] < killed
    run_command(continue_stage3.fn, arguments)
    read, whole = events(folder), [each * epoch for epoch in range(1, 7)]
    assert steps_of(read, "stage3/steps/train_loss") == list(range(1, 6 * each + 1))
    assert steps_of(read, "stage3/train_loss") == whole
    losses = pd.read_csv(tmp_path / "out" / "tiny_metrics.csv")["train_loss"].tolist()
    assert [event.value for event in read.Scalars("stage3/train_loss")] == pytest.approx(losses)
    pictures = [event.step for event in read.Images("stage3/samples")]
    assert len(pictures) == len(set(pictures)), pictures


def test_tracking_changes_no_byte(flags, tmp_path):
    def files(*more):
        run_command(continue_stage3.fn, [*flags, "--no-resume", "--set=training.epochs=1", *more])
        return {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    assert files() == files(f"--set={TENSORBOARD}")


def test_a_tracker_that_fails_is_one_warning_and_the_others_go_on(flags, tmp_path, monkeypatch, capsys):
    class Broken(tracker_kinds._TensorBoard):
        def log(self, values, step):
            raise RuntimeError(f"the server says no to {os.environ['WANDB_API_KEY']}")

    monkeypatch.setenv("WANDB_API_KEY", "fedcba9876543210")
    monkeypatch.setattr(tracker_kinds, "_TensorBoard", Broken)
    run_command(continue_stage3.fn, [*flags, f"--set={TENSORBOARD}", "--set=training.epochs=2"])
    errors = capsys.readouterr().err
    assert errors.count("tracker tensorboard failed") == 1 and "the server says no" in errors
    assert "fedcba9876543210" not in errors
    assert (tmp_path / "out" / "checkpoints" / "tiny_checkpoint_latest.pt").exists()
    assert logged_steps(tmp_path / "trackers") == 0


def test_a_tracker_that_does_not_start_stops_nothing(flags, tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise OSError("no such host")

    monkeypatch.setattr("core.trackers.tracking.open_run", fails)
    run_command(continue_stage3.fn, [*flags, f"--set={TENSORBOARD}", "--set=training.epochs=1"])
    assert capsys.readouterr().err.count("tracker tensorboard failed") == 1
    assert (tmp_path / "out" / "tiny_metrics.csv").exists()


def hold(config):
    with hold_run(config):
        pass


def test_a_tracker_that_is_not_installed_is_named_with_the_extra(prepared, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "trackio" else find(name))
    settings = ["training.trackers=[tensorboard, trackio]", f"artifacts.root={tmp_path / 'a'}"]
    line = r"^training\.trackers: trackio needs the package trackio: pip install 'adversarial-layouts\[trackers\]'$"
    with pytest.raises(InputError, match=line):
        hold(load_config(prepared, settings))
    assert not (tmp_path / "a").exists()
    assert any("trackio needs" in fault for fault in check_config(prepared, settings).faults.lines)


def test_wandb_online_needs_a_login(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(tracker_kinds, "_is_installed", lambda module: True)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    config = tracked_config(prepared, tmp_path / "t", "training.trackers=[wandb]", f"artifacts.root={tmp_path / 'a'}")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    hold(config)  # offline unless it is asked for
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(InputError, match=r"nobody is logged in: run `wandb login`, set WANDB_API_KEY, or set WANDB_M"):
        hold(config)
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123\n")
    hold(config)


def test_a_folder_that_cannot_be_written_to_is_refused_before_work(prepared, tmp_path):
    (tmp_path / "file").write_text("")
    config = tracked_config(prepared, tmp_path / "file" / "trackers", f"artifacts.root={tmp_path / 'a'}")
    with pytest.raises(InputError, match=r"^training\.tracker_dir .*file is no folder: choose another place$"):
        hold(config)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"stages": {}}', b"\xff"])
def test_a_damaged_note_of_what_was_logged_is_refused_before_work(prepared, tmp_path, content):
    (tmp_path / "tiny.json").write_bytes(content)
    config = tracked_config(prepared, tmp_path, f"artifacts.root={tmp_path / 'a'}")
    with pytest.raises(InputError, match=r"tiny\.json does not say what was logged: remove it"):
        hold(config)


def logged(config, prefix, location, steps, first=0):
    tracking = Tracking(TrackedStage(config, prefix, str(location)))
    with tracking.open(first):
        for step in steps:
            tracking.log({"x": float(step), "none": None, "text": "a", "nan": math.nan}, step)
            tracking.log({"x": 0.0}, step, STEPS)


def test_a_stage_that_begins_again_goes_on_after_the_end_of_its_axis(prepared, tmp_path):
    """As a new discriminator, and Stage 3 of a round that starts from an earlier round's model."""
    config = tracked_config(prepared, tmp_path)
    logged(config, "discriminator", tmp_path / "round-01", [5, 10])
    logged(config, "discriminator", tmp_path / "round-02", [5])
    logged(config, "discriminator", tmp_path / "round-02", [5, 10], first=5)  # killed meanwhile
    logged(config, "discriminator", tmp_path / "round-03", [5])
    read = events(tmp_path)
    assert steps_of(read, "discriminator/x") == [5, 10, 15, 20, 25]
    assert [event.value for event in read.Scalars("discriminator/x")] == [5, 10, 5, 10, 5]
    assert set(read.Tags()["scalars"]) == {"discriminator/x", "discriminator/steps/x"}


def test_between_two_points_nothing_waits_for_the_device(prepared, tmp_path):
    """A tensor without values, of the device `meta`, cannot be read."""
    config = load_config(prepared, [TENSORBOARD, f"training.tracker_dir={tmp_path}"])
    unread = StepFigures({"loss": torch.zeros((), device="meta")}, 0.1, torch.zeros((), device="meta"))
    tracking = Tracking(TrackedStage(config, "stage3", str(tmp_path / "stage3")))
    with tracking.open(0):
        figures = EpochFigures(tracking, config.training)
        for step in range(1, config.training.log_interval):
            figures.add(unread, step, 16)
        with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
            figures.add(unread, config.training.log_interval, 16)


def test_only_the_first_of_several_processes_logs(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "1")
    logged(tracked_config(prepared, tmp_path / "t"), "stage3", tmp_path / "stage3", [1])
    assert not (tmp_path / "t").exists()


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_the_file_store_of_mlflow_holds_one_run(prepared, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = tracked_config(prepared, tmp_path, "training.trackers=[mlflow]")
    for number in (1, 2):
        logged(config, "stage3", tmp_path / f"round-{number:02d}", [2 * number - 1, 2 * number], first=2 * number - 2)
    tracking = Tracking(TrackedStage(config, "stage3", str(tmp_path / "round-02")))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with tracking.open(4):
        tracking.picture("samples", tmp_path / "a.png", 4)
        assert not tracking.is_due(4, PICTURES)
    client = mlflow.MlflowClient()
    found = client.search_experiments(filter_string="name = 'tiny'")
    (run,) = client.search_runs([experiment.experiment_id for experiment in found])
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "stage3/x")] == [1, 2, 3, 4]
    assert run.data.params["training.log_interval"] == "1" and run.info.status == "FINISHED"
    assert [entry.path for entry in client.list_artifacts(run.info.run_id, "stage3/samples")] == [
        "stage3/samples/a.png"
    ]
    assert (tmp_path / "mlflow").is_dir()
