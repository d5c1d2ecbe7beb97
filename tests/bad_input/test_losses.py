"""Losses that are not finite: the command stops and keeps the last good checkpoint."""

import contextlib
import shutil
from collections.abc import Iterator

import pytest
import torch
from torch.optim import Adam

from tasks.continue_stage3 import continue_stage3
from tasks.retrain_discriminator import retrain_discriminator
from tests.bad_input.command_line import all_finite, files_below, run


@contextlib.contextmanager
def huge_steps() -> Iterator[None]:
    """Stage 3 and the discriminator take steps of a length that neither config nor option can ask for."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("core.training.training_step.learning_rate", lambda *_: 1e30)
        patched.setattr(
            "core.training.train_discriminator.Adam", lambda *given, **options: Adam(*given, **options | {"lr": 1e30})
        )
        yield


def test_stage3_stops_before_an_update_that_is_not_finite(refused, stage3, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "out")
    latest = tmp_path / "out" / "checkpoints" / "tiny_checkpoint_latest.pt"
    before = latest.read_bytes()
    options = stage3() | {"set": ["training.epochs=3"]}
    with huge_steps():
        refused(continue_stage3, options, "tiny", "noise loss is ", "epoch 2", "step 6", "lower training.learning_rate")
    assert latest.read_bytes() == before
    assert all_finite(latest)
    assert run(continue_stage3, stage3() | {"set": ["training.epochs=2"]})["metrics"]["epoch"] == 2


def test_stage3_saves_nothing_that_validates_as_not_finite(refused, stage3, finished, tmp_path):
    """One step an epoch: the step that breaks the model is the last before it is written."""
    shutil.copytree(finished[0], tmp_path / "out")
    latest = tmp_path / "out" / "checkpoints" / "tiny_checkpoint_latest.pt"
    before = latest.read_bytes()
    options = stage3(**{"training.batch_size": 77, "training.epochs": 2})
    with huge_steps():
        refused(continue_stage3, options, "tiny", "validation", "epoch 2", "lower training.learning_rate")
    assert latest.read_bytes() == before


@pytest.mark.parametrize("term", ["noise", "adversarial", "gradient of the"])
def test_the_term_that_is_not_finite_is_named(refused, stage3, with_rows, rows, ready, tmp_path, term):
    if term == "noise":
        huge = tmp_path / "huge.pt"
        torch.save(torch.full((4, 8, 8), 3e38), huge)
        values = {
            "dataset.manifest": str(with_rows(rows.assign(latent_path=str(huge), original_path=rows.layout_path)))
        }
    elif term == "gradient of the":
        # A loss of 1e30 is finite, the squares of its gradient are not.
        checkpoint = torch.load(ready.discriminator.checkpoint, weights_only=True)
        checkpoint["state_dict"]["patch.0.weight"] *= 1e28
        checkpoint["state_dict"]["patch.0.bias"] -= 1e30
        torch.save(checkpoint, tmp_path / "discriminator.pt")
        values = {"discriminator.checkpoint": str(tmp_path / "discriminator.pt"), "discriminator.balance": None}
    else:
        checkpoint = torch.load(ready.discriminator.checkpoint, weights_only=True)
        # Each is finite, their sum is not.
        checkpoint["state_dict"]["patch.0.bias"] -= 3e38
        checkpoint["state_dict"]["whole.bias"] -= 3e38
        torch.save(checkpoint, tmp_path / "discriminator.pt")
        values = {"discriminator.checkpoint": str(tmp_path / "discriminator.pt")}
    # What no step can have caused shows before the first.
    stepped = term == "gradient of the"
    where = ["epoch 1, step 1", "nothing was updated"] if stepped else ["the validation of epoch 0"]
    refused(continue_stage3, stage3(**values), f"tiny: the {term} loss is ", *where)
    assert not list((tmp_path / "out").rglob("*checkpoint*.pt"))


def test_the_discriminator_saves_nothing_of_an_epoch_that_is_not_finite(refused, retrain):
    words = ("discriminator: the loss is ", "epoch 1; the epoch was not saved", "lower --learning_rate")
    with huge_steps():
        refused(retrain_discriminator, retrain, *words)
        # One step an epoch: the step that breaks the model is the last before it is written.
        refused(retrain_discriminator, retrain | {"batch_size": 64}, "validation", "epoch 1", "lower --learning_rate")
    assert files_below(retrain["output_dir"]) == []
