"""Places where results cannot be written, and folders that hold results."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tasks.continue_stage3 import continue_stage3
from tasks.generate_bad_latents import generate_bad_latents
from tasks.retrain_discriminator import retrain_discriminator
from tests.bad_input.command_line import files_below, run, states


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    yield from _mounted(tmp_path / "disk", "size=64k")


@pytest.fixture
def read_only_disk(tmp_path) -> Iterator[Path]:
    yield from _mounted(tmp_path / "disk", "size=64k,ro")


def _mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here: a full or read-only disk is not tested")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_generate_on_a_full_disk_says_so_and_leaves_no_partial_file(refused, generate, small_disk):
    refused(
        generate_bad_latents, generate | {"output_dir": small_disk / "out"}, small_disk, "no space left", "free some"
    )
    names = [path.name for path in files_below(small_disk)]
    assert not [name for name in names if "partial" in name or "record" in name or name == "stage.json"]
    for path in small_disk.rglob("*.pt"):
        torch.load(path, weights_only=True)


def test_stage3_on_a_full_disk_says_so_and_leaves_no_partial_file(refused, stage3, tmp_path, small_disk):
    options = stage3(**{"experiment.save_path": str(small_disk / "out")})
    refused(continue_stage3, options, small_disk, "no space left", "free some", "run the same command again")
    assert not [path for path in files_below(small_disk) if "partial" in path.name or "checkpoint_" in path.name]


def test_retrain_on_a_full_disk_says_so(refused, retrain, small_disk):
    refused(retrain_discriminator, retrain | {"output_dir": small_disk / "out"}, small_disk, "no space left")
    assert files_below(small_disk) == []


def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    refused, generate, retrain, stage3, tmp_path, monkeypatch
):
    def no_work(*_: object) -> None:
        raise AssertionError("worked before it knew where to write")

    monkeypatch.setattr("core.generation.bad_latents._generate", no_work)
    monkeypatch.setattr("core.training.train_discriminator._train", no_work)
    monkeypatch.setattr("core.training.continue_stage3.build_training", no_work)
    file = tmp_path / "file"
    file.write_text("kept")
    for target in (file, file / "below", Path("/proc/nowhere")):
        refused(generate_bad_latents, generate | {"output_dir": target}, target, "choose another")
        refused(retrain_discriminator, retrain | {"output_dir": target}, target, "choose another")
        refused(continue_stage3, stage3(**{"experiment.save_path": str(target)}), target, "choose another")
    assert file.read_text() == "kept"


def test_a_read_only_disk_is_refused(refused, generate, retrain, stage3, read_only_disk):
    for target in (read_only_disk, read_only_disk / "out"):
        refused(generate_bad_latents, generate | {"output_dir": target}, target, "choose another")
        refused(retrain_discriminator, retrain | {"output_dir": target}, target, "choose another")
        refused(continue_stage3, stage3(**{"experiment.save_path": str(target)}), target, "choose another")


def test_an_unwritable_file_is_named(refused, retrain, monkeypatch):
    """Root may write everywhere, so the refusal is made here."""

    def denied(source: str, target: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(target))

    monkeypatch.setattr(os, "replace", denied)
    refused(retrain_discriminator, retrain, "discriminator_best.pt", "Permission denied", "change its permissions")
    assert files_below(retrain["output_dir"]) == []


def test_results_of_other_settings_are_refused_and_those_of_the_same_left_alone(refused, generated, retrained, capsys):
    for command, options, name, value in [
        (generate_bad_latents, generated, "num_steps", 3),
        (generate_bad_latents, generated, "seed", 7),
        (retrain_discriminator, retrained, "epochs", 2),
        (retrain_discriminator, retrained, "learning_rate", 0.5),
    ]:
        before = states(options["output_dir"])
        said = [options["output_dir"], f"now it is {value}", "choose another folder"]
        refused(command, options | {name: value}, f"{name} ", *said)
        assert run(command, options)["output_dir"] == str(options["output_dir"])
        assert "already done" in capsys.readouterr().err
        assert states(options["output_dir"]) == before
    folder = generated["output_dir"] / "bad_latents"
    refused(retrain_discriminator, retrained | {"fake_latents": folder}, "input fake", "choose another folder")
    swapped = retrained | {"fake_latents": retrained["real_latents"]}
    refused(retrain_discriminator, swapped, "input fake", "choose another folder")


def test_a_damaged_record_is_named(refused, retrained, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(retrained["output_dir"], folder)
    for content, cause in (("{", "not JSON"), ("[]", "valid dictionary"), ("{}", "outputs: is missing")):
        (folder / "stage.json").write_text(content)
        options = retrained | {"output_dir": folder}
        # Not to remove anything: the stage may have taken days, and the record may be another program's.
        told = refused(retrain_discriminator, options, folder / "stage.json", "damaged or another program's", cause)
        assert "choose another folder" in told and "remove" not in told


def test_latents_that_no_record_names_are_not_joined_by_others(refused, generate):
    """Latents that lie there already are the user's: they are neither overwritten nor mixed with new ones."""
    mine = generate["output_dir"] / "bad_latents" / "bad_latent_00009.pt"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    said = "bad_latents/bad_latent_00009.pt, which another program made, or"
    refused(generate_bad_latents, generate, said)
    assert files_below(generate["output_dir"]) == [mine]
