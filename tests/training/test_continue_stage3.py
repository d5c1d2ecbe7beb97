"""continue-stage-3 through its command: outputs, resume, what moves and what does not."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from core.checkpoints.loading import load_checkpoint
from core.config.loading import load_config
from core.inputs.tensor_files import save_tensors
from core.models.discriminator import LatentDiscriminator
from core.runtime.files import sha256
from core.training.prerequisites import with_prerequisites
from tasks.command_line import run_command
from tasks.continue_stage3 import continue_stage3
from tests.untrained import write_discriminator


@pytest.fixture
def discriminator(tmp_path):
    return write_discriminator(tmp_path / "discriminator_best.pt")


@pytest.fixture
def train(experiment, discriminator, tmp_path):
    """Run the command on the tiny experiment, into `folder`, with settings."""

    def run(folder="out", *arguments, **settings):
        values = {"experiment.save_path": tmp_path / folder, "discriminator.checkpoint": discriminator, **settings}
        flags = [f"--set={key.replace('__', '.')}={value}" for key, value in values.items()]
        run_command(continue_stage3.fn, [str(experiment), *arguments, *flags])
        return tmp_path / folder

    return run


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def test_writes_the_documented_files(train):
    folder = train(training__epochs=2)
    assert (folder / "checkpoints" / "tiny_checkpoint_best.pt").exists()
    assert (folder / "checkpoints" / "tiny_checkpoint_latest.pt").exists()
    drawn = {"tiny_epoch_000_samples.png", "tiny_epoch_002_samples.png", "tiny_real.png", "tiny_best_and_worst.png"}
    assert {path.name for path in (folder / "samples").iterdir()} == drawn
    metrics = pd.read_csv(folder / "tiny_metrics.csv")
    assert metrics["epoch"].tolist() == [1, 2]
    documented = {"loss", "noise_loss", "semantic_loss", "segmentation_loss", "perceptual_loss", "discriminator_loss"}
    assert {f"{split}_{name}" for split in ("train", "val") for name in documented} <= set(metrics.columns)
    assert "inf" not in (folder / "tiny_metrics.csv").read_text()
    assert metrics["val_loss"].isna().tolist() == [True, False]
    assert metrics["viability_score"].dropna().between(0, 1).all()


def test_three_epochs_then_six_equal_six_at_once(train):
    whole = train("whole", training__epochs=6)
    train("pieces", training__epochs=3)
    pieces = train("pieces", training__epochs=6)
    expected, actual = digests(whole), digests(pieces)
    # The shorter run ends with a sample sheet of its own; everything the longer one has is equal to the bit.
    assert actual.pop("samples/tiny_epoch_003_samples.png")
    assert actual == expected


def test_checkpoints_are_kept_at_the_save_interval(train):
    folder = train(training__epochs=4, training__save_interval=2, training__sample_interval=1)
    kept = sorted(path.name for path in (folder / "checkpoints").glob("*_epoch_*.pt"))
    assert kept == ["tiny_checkpoint_epoch_002.pt", "tiny_checkpoint_epoch_004.pt"]
    drawn = sorted(path.name for path in (folder / "samples").glob("*_epoch_*.png"))
    assert drawn == [f"tiny_epoch_{epoch:03d}_samples.png" for epoch in range(5)]


def test_other_stage3_settings_keep_the_prerequisites(train):
    weights = {"training.loss.semantic_loss.segmentation_loss.weight": 0.3, "training.batch_size": 8}
    metrics = pd.read_csv(train(training__epochs=1, **weights) / "tiny_metrics.csv").iloc[0]
    expected = 0.3 * metrics["train_segmentation_loss"] + 0.05 * metrics["train_perceptual_loss"]
    assert metrics["train_semantic_loss"] == pytest.approx(expected)


def test_no_resume_starts_again(train):
    first = digests(train(training__epochs=2))
    assert digests(train("out", "--no-resume", training__epochs=2)) == first


def test_a_finished_training_does_nothing_more(train):
    folder = train(training__epochs=2)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    train(training__epochs=2)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == before


def test_only_the_unet_moves(train, experiment, discriminator):
    config = with_prerequisites(load_config(experiment))
    frozen = [config.autoencoder.checkpoint, discriminator]
    before = [sha256(Path(path)) for path in frozen]
    folder = train(training__epochs=1)
    assert [sha256(Path(path)) for path in frozen] == before
    weights = load_checkpoint(folder / "checkpoints" / "tiny_checkpoint_latest.pt", "checkpoint")["state_dict"]
    start = load_checkpoint(config.diffusion.stage2_checkpoint, "checkpoint")["state_dict"]
    assert weights.keys() == start.keys()
    assert any(not torch.equal(weights[key], start[key]) for key in weights if key.startswith("unet."))


def test_frozen_models_are_identical_after_training(train, monkeypatch):
    from core.training import training_step

    seen = []
    run = training_step.DiffusionTraining.run

    def watched(self, *arguments):
        frozen = [self.loss_models.decoder, self.loss_models.perceptual, self.discriminator]
        before = [{k: v.clone() for k, v in model.state_dict().items()} for model in frozen]
        run(self, *arguments)
        for model, old in zip(frozen, before, strict=True):
            assert not model.training
            assert all(torch.equal(value, old[key]) for key, value in model.state_dict().items())
        trained = {id(p) for group in self.state.optimizer.param_groups for p in group["params"]}
        assert not trained & {id(p) for model in frozen for p in model.parameters()}
        seen.append(self)

    monkeypatch.setattr(training_step.DiffusionTraining, "run", watched)
    train(training__epochs=1)
    assert seen


def test_weight_zero_is_the_control_and_the_term_makes_a_difference(train):
    def unet(folder):
        checkpoint = load_checkpoint(folder / "checkpoints" / "tiny_checkpoint_latest.pt", "checkpoint")
        return {key: value for key, value in checkpoint["state_dict"].items() if key.startswith("unet.")}

    control = unet(train("control", training__epochs=1, discriminator__weight=0))
    again = unet(train("again", training__epochs=1, discriminator__weight=0, discriminator__form="draft_k"))
    adversarial = unet(train("adversarial", training__epochs=1))
    assert all(torch.equal(control[key], again[key]) for key in control)
    assert any(not torch.equal(control[key], adversarial[key]) for key in control)


@pytest.mark.parametrize("form", ["renoise", "x0_prediction", "draft_k"])
def test_every_form_trains(train, form):
    folder = train(form, training__epochs=1, discriminator__form=form)
    assert pd.read_csv(folder / "tiny_metrics.csv")["train_discriminator_loss"].notna().all()


def test_the_balanced_weight_stays_below_the_configured_one(train):
    folder = train("balanced", training__epochs=2, discriminator__weight=0.1, discriminator__balance=0.001)
    balanced = pd.read_csv(folder / "tiny_metrics.csv")["discriminator_weight"]
    assert ((balanced > 0) & (balanced < 0.1)).all()
    folder = train("fixed", training__epochs=1, discriminator__weight=0.07, discriminator__balance="null")
    assert pd.read_csv(folder / "tiny_metrics.csv")["discriminator_weight"].tolist() == [0.07]


def test_a_round_ends_early_once_viability_stays_high(train):
    rule = {"rounds.advance_when": "{viability_score: 0.0001, evaluations: 2}", "training.eval_interval": 1}
    folder = train("early", training__epochs=6, **rule)
    assert len(pd.read_csv(folder / "tiny_metrics.csv")) == 2


def test_continuing_a_round_keeps_epoch_and_optimizer(train):
    first = train("first", training__epochs=1)
    latest = first / "checkpoints" / "tiny_checkpoint_latest.pt"
    second = train("second", training__epochs=2, diffusion__stage3_checkpoint=latest)
    assert pd.read_csv(second / "tiny_metrics.csv")["epoch"].tolist() == [1, 2]
    states = [load_checkpoint(f / "checkpoints" / "tiny_checkpoint_latest.pt", "checkpoint") for f in (first, second)]
    steps = [state["optimizer_state"]["state"][0]["step"].item() for state in states]
    assert steps[1] == 2 * steps[0] == states[1]["step"]


def latest(folder):
    return load_checkpoint(folder / "checkpoints" / "tiny_checkpoint_latest.pt", "checkpoint")


def another_discriminator(tmp_path):
    torch.manual_seed(2)
    model, path = LatentDiscriminator(4, 8, base_channels=32), tmp_path / "another.pt"
    model.whole.bias.data += 3
    sizes = {"latent_channels": 4, "latent_size": 8, "base_channels": 32}
    save_tensors({"state_dict": model.state_dict(), "config": sizes}, path)
    return path


def test_a_resume_takes_rate_and_decay_from_the_config(train):
    train(training__epochs=1)
    folder = train(training__epochs=2, training__weight_decay=0.0, training__learning_rate=2e-5)
    (group,) = latest(folder)["optimizer_state"]["param_groups"]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (2e-5, 0.0, (0.9, 0.99))
    assert latest(folder)["optimizer_state"]["state"][0]["step"] == latest(folder)["step"]


def test_figures_are_measured_again_for_another_discriminator(train, tmp_path, caplog):
    settings = {"training__eval_interval": 5, "discriminator__update": "online"}
    folder = train(training__epochs=1, **settings)
    first, states = latest(folder), torch.load(folder / "checkpoints" / "trajectories.pt")
    train("out", "--resume", training__epochs=2, discriminator__checkpoint=another_discriminator(tmp_path), **settings)
    second = latest(folder)
    assert "is of another discriminator" in caplog.text and "do not compare" in caplog.text
    assert first["discriminator"] != second["discriminator"]
    assert (first["start"]["epoch"], second["start"]["epoch"]) == (0, 1)
    assert second["start"]["viability_score"] > first["start"]["viability_score"] + 0.2
    assert not torch.equal(torch.load(folder / "checkpoints" / "trajectories.pt")["xt"], states["xt"])
    # No evaluation came since: the best that there is of this discriminator is the last.
    best = load_checkpoint(folder / "checkpoints" / "tiny_checkpoint_best.pt", "checkpoint")
    assert best["epoch"] == 2 and second["epoch"] == 2
    assert second["optimizer_state"]["state"][0]["step"] == second["step"]


def test_the_same_discriminator_on_resume_is_not_measured_again(train, caplog):
    folder = train(training__epochs=1)
    start = latest(folder)["start"]
    train(training__epochs=2)
    assert latest(folder)["start"] == start and "again" not in caplog.text


def test_an_old_checkpoint_that_names_no_discriminator_is_resumed(train, caplog):
    folder = train(training__epochs=1)
    path = folder / "checkpoints" / "tiny_checkpoint_latest.pt"
    checkpoint = latest(folder)
    del checkpoint["discriminator"]
    save_tensors(checkpoint, path)
    train(training__epochs=2)
    assert latest(folder)["start"]["epoch"] == 1 and latest(folder)["epoch"] == 2
    assert "does not say which discriminator it was trained against" in caplog.text


def test_figures_are_measured_again_after_a_change_of_settings(train, caplog):
    folder = train(training__epochs=2)
    before = latest(folder)
    train(training__epochs=3, rounds__viability_samples=5)
    assert "rounds.viability_samples was changed; the earlier figures are measured again" in caplog.text
    assert latest(folder)["start"]["epoch"] == 2 and latest(folder)["adversarial_weight"] is not None
    assert before["best_val_loss"] is not None and latest(folder)["best_val_loss"] is None


def test_an_online_discriminator_is_resumed_or_a_warning_says_that_it_is_new(train, caplog):
    folder = train(training__epochs=1)
    train(training__epochs=2, discriminator__update="online")
    assert "discriminator.update was frozen until now" in caplog.text
    first = latest(folder)["online_discriminator"]
    train(training__epochs=3, discriminator__update="online", discriminator__online_learning_rate=1e-5)
    second = latest(folder)["online_discriminator"]
    steps = [state["optimizer_state"]["state"][0]["step"].item() for state in (first, second)]
    assert steps[1] == 2 * steps[0]
    assert second["optimizer_state"]["param_groups"][0]["lr"] == 1e-5
    checkpoint = latest(folder)
    del checkpoint["online_discriminator"]
    save_tensors(checkpoint, folder / "checkpoints" / "tiny_checkpoint_latest.pt")
    with pytest.raises(SystemExit):
        train(training__epochs=4, discriminator__update="online")


def test_the_command_takes_the_documented_options(capsys):
    with pytest.raises(SystemExit) as left:
        run_command(continue_stage3.fn, ["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert re.search(r"--resume.*--no-resume", shown) and "CONFIG" in shown
