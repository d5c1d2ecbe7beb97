"""Stage 3 by hand keeps every file in its folder that it did not make."""

import os
from pathlib import Path

import pytest
import torch

from core.config.loading import load_config
from core.rounds.run import begin_run, hold_run
from core.runtime.errors import LeaseError
from core.runtime.scratch import locked_folder
from core.storage.download_cache import DownloadCache
from flows.collect_garbage import collect_garbage
from tasks.command_line import run_command
from tasks.continue_stage3 import continue_stage3
from tests.records.user_files import LONG_AGO, content, files_below, put
from tests.untrained import write_discriminator


@pytest.fixture(scope="module")
def discriminator(tmp_path_factory) -> Path:
    return write_discriminator(tmp_path_factory.mktemp("discriminator") / "best.pt")


@pytest.fixture
def train(prepared, discriminator, tmp_path):
    """Run the command continue-stage-3 into `folder`, with settings."""

    def run(folder: Path, *arguments: str, **values: object) -> None:
        values = {
            "experiment.save_path": folder,
            "discriminator.checkpoint": discriminator,
            "discriminator.trajectories.num_samples": 2,
            "rounds.bad_latents.num_steps": 2,
            "rounds.viability_samples": 2,
            "training.epochs": 1,
        } | values
        flags = [f"--set={key}={value}" for key, value in values.items()]
        run_command(continue_stage3.fn, [str(prepared), *arguments, *flags])

    return run


@pytest.mark.parametrize("name", ["checkpoints/stage2_best.pt", "samples/mine.png", "notes.txt", ".hidden"])
def test_a_save_path_that_holds_anything_else_is_refused_by_name(train, tmp_path, capsys, name):
    before = put(tmp_path / "out" / name)
    with pytest.raises(SystemExit) as left:
        train(tmp_path / "out")
    assert left.value.code == 2
    problem = f"error: {tmp_path / 'out'} holds {name}, which another program made, or whose record is missing: "
    remedy = "choose another experiment.save_path, or move the files there away\n"
    assert capsys.readouterr().err.endswith(problem + remedy)
    assert files_below(tmp_path / "out") == before.keys() and content(*before) == before


def test_a_folder_of_another_experiment_is_refused(train, tmp_path, capsys):
    train(tmp_path / "out")
    before = content(*files_below(tmp_path / "out"))
    with pytest.raises(SystemExit):
        train(tmp_path / "out", **{"experiment.name": "other"})
    assert "holds tiny_metrics.csv, which" in capsys.readouterr().err
    assert content(*files_below(tmp_path / "out")) == before


def test_no_resume_removes_only_files_of_the_training(train, tmp_path):
    folder = tmp_path / "out"
    train(folder, **{"training.epochs": 2, "training.save_interval": 2})
    kept = folder / "checkpoints/tiny_checkpoint_epoch_002.pt"
    mine = put(folder / "checkpoints/tiny_checkpoint_best_kept.pt", folder / "samples/mine.png", folder / "notes.txt")
    assert kept.exists()
    train(folder, "--no-resume")
    assert not kept.exists() and content(*mine) == mine
    history = torch.load(folder / "checkpoints/tiny_checkpoint_latest.pt", weights_only=True)["training_history"]
    assert [row["epoch"] for row in history] == [1]


def test_no_resume_that_fails_at_its_start_removes_nothing(train, tmp_path, capsys):
    train(tmp_path / "out")
    before = content(*files_below(tmp_path / "out"))
    with pytest.raises(SystemExit):
        train(tmp_path / "out", "--no-resume", **{"discriminator.checkpoint": tmp_path / "missing.pt"})
    assert "missing.pt does not exist" in capsys.readouterr().err
    assert content(*files_below(tmp_path / "out")) == before


def test_a_training_without_its_latest_checkpoint_is_not_restarted_unasked(train, tmp_path, capsys):
    folder = tmp_path / "out"
    train(folder, **{"training.epochs": 2})
    (folder / "checkpoints/tiny_checkpoint_latest.pt").rename(tmp_path / "moved.pt")
    before = content(*files_below(folder))
    with pytest.raises(SystemExit):
        train(folder)
    said = "tiny_checkpoint_best.pt is of epoch 2, and there is no tiny_checkpoint_latest.pt beside it to resume from"
    assert said in capsys.readouterr().err
    assert content(*files_below(folder)) == before
    train(folder, "--no-resume")
    assert (folder / "checkpoints/tiny_checkpoint_latest.pt").exists()


def test_a_restart_removes_no_input_of_the_training(train, tmp_path, capsys):
    folder = tmp_path / "out"
    train(folder)
    best = folder / "checkpoints/tiny_checkpoint_best.pt"
    before = content(*files_below(folder))
    with pytest.raises(SystemExit):
        train(folder, "--no-resume", **{"diffusion.stage2_checkpoint": best})
    said = f"diffusion.stage2_checkpoint {best} is a file that a new start removes: move it, or choose another "
    assert said in capsys.readouterr().err
    assert content(*files_below(folder)) == before


def test_a_training_of_an_earlier_version_is_continued_but_not_replaced(train, tmp_path, capsys):
    folder = tmp_path / "out"
    train(folder)
    (folder / "made.json").unlink()  # earlier versions kept none
    before = content(*files_below(folder))
    with pytest.raises(SystemExit):
        train(folder, "--no-resume")
    assert "which another program made" in capsys.readouterr().err
    assert content(*files_below(folder)) == before
    train(folder, **{"training.epochs": 2})
    latest = torch.load(folder / "checkpoints/tiny_checkpoint_latest.pt", weights_only=True)
    assert latest["epoch"] == 2


def test_a_folder_that_another_process_trains_in_is_left_alone(train, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    with locked_folder(tmp_path / "out"), pytest.raises(SystemExit) as left:
        train(tmp_path / "out")
    assert left.value.code == LeaseError.exit_status
    assert "is being trained in by another process" in capsys.readouterr().err
    assert not files_below(tmp_path / "out")


def test_checkpoints_may_be_on_another_disk(train, tmp_path):
    folder, disk = tmp_path / "out", tmp_path / "disk"
    folder.mkdir()
    disk.mkdir()
    (folder / "checkpoints").symlink_to(disk)
    train(folder, **{"training.epochs": 2, "training.save_interval": 2})
    kept, mine = disk / "tiny_checkpoint_epoch_002.pt", put(disk / "mine.pt")
    assert kept.exists()
    train(folder, "--no-resume")
    assert not kept.exists() and content(*mine) == mine


def test_foreign_checkpoints_on_another_disk_are_not_overwritten(train, tmp_path, capsys):
    mine = put(tmp_path / "disk/tiny_checkpoint_best.pt")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/checkpoints").symlink_to(tmp_path / "disk")
    with pytest.raises(SystemExit):
        train(tmp_path / "out")
    assert "out holds checkpoints/tiny_checkpoint_best.pt, which" in capsys.readouterr().err
    assert content(*mine) == mine and files_below(tmp_path / "disk") == mine.keys()


def test_a_folder_that_the_file_system_makes_is_ignored(train, tmp_path):
    put(tmp_path / "out/.nfs000000000a1b2c3d00000001")
    (tmp_path / "out/lost+found").mkdir()
    train(tmp_path / "out")
    (tmp_path / "cache/lost+found").mkdir(parents=True)
    DownloadCache(tmp_path / "cache", 1)


def test_a_made_json_of_another_tool_is_refused(train, tmp_path, capsys):
    before = put(tmp_path / "out/made.json")
    with pytest.raises(SystemExit):
        train(tmp_path / "out")
    assert "holds made.json, which" in capsys.readouterr().err
    assert content(*before) == before


def test_a_run_starts_beside_a_stage3_outside_of_it(train, prepared, tmp_path):
    root, config = tmp_path / "root", load_config(prepared, [f"artifacts.root={tmp_path / 'root'}"])
    train(root / "tiny/stage3")
    train(root / "tiny/by-hand")
    (root / "tiny/stage3/made.json").unlink()  # of an earlier version
    before = content(*files_below(root))
    for path in before:
        os.utime(path, (LONG_AGO, LONG_AGO))
    with hold_run(config):
        begin_run(config)
    run_command(collect_garbage, [str(root), "--delete"])
    assert content(*before) == before
