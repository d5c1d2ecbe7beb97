"""Several processes, and several parts of a batch, train as one process does on the whole batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from core.config.loading import load_config
from core.runtime.files import sha256
from core.training.prerequisites import with_prerequisites
from tasks.command_line import run_command
from tasks.continue_stage3 import continue_stage3
from tasks.retrain_discriminator import retrain_discriminator
from tests.commands import Command
from tests.untrained import write_discriminator

# On a CPU in fp32: sums in another order round differently.
ROUNDING = {"rtol": 1e-4, "atol": 1e-6}
LATEST = Path("checkpoints") / "tiny_checkpoint_latest.pt"


def torchrun(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The documented command, in two processes."""
    return subprocess.run(
        [Path(sys.executable).with_name("torchrun"), "--nproc_per_node=2", "--standalone", "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def in_two(module: str, *arguments: object) -> None:
    """Run the command in two processes as torchrun starts them, without the seconds of their imports."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "x"}
    processes = [Command(module, *arguments, RANK=rank, LOCAL_RANK=rank, **environment) for rank in ("0", "1")]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def options(shared_experiment, tmp_path_factory):
    """Command line of continue-stage-3 on the tiny experiment, into a folder, with settings."""
    discriminator = write_discriminator(tmp_path_factory.mktemp("discriminator") / "discriminator_best.pt")
    made = with_prerequisites(load_config(shared_experiment))
    # Given by name: other settings would ask for other prerequisites.
    given = {
        "dataset.manifest": made.dataset.manifest,
        "autoencoder.checkpoint": made.autoencoder.checkpoint,
        "diffusion.stage2_checkpoint": made.diffusion.stage2_checkpoint,
        "discriminator.checkpoint": discriminator,
        "training.use_amp": False,
    }

    def line(folder, **settings):
        values = given | {"experiment.save_path": folder, "training.epochs": 2, **settings}
        return [str(shared_experiment), *(f"--set={key.replace('__', '.')}={value}" for key, value in values.items())]

    return line


@pytest.fixture(scope="module")
def one(options, tmp_path_factory):
    """Folder of a training by one process; each is made once."""
    made = {}

    def train(**settings):
        key = repr(settings)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("one") / "out"
            run_command(continue_stage3.fn, options(made[key], **settings))
        return made[key]

    return train


def metrics(folder):
    return pd.read_csv(folder / "tiny_metrics.csv")


def assert_same_training(folder, expected):
    assert {path.name for path in folder.rglob("*")} == {path.name for path in expected.rglob("*")}
    pd.testing.assert_frame_equal(metrics(folder), metrics(expected), check_exact=False, **ROUNDING)
    ours, theirs = (torch.load(f / LATEST, weights_only=True) for f in (folder, expected))
    for key, value in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][key], value, rtol=1e-3, atol=2e-6)


def test_two_processes_train_as_one_stopped_or_not(options, one, tmp_path):
    settings = {"discriminator__form": "renoise", "discriminator__update": "online"}
    whole = torchrun("tasks.continue_stage3", *options(tmp_path / "whole", **settings))
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.count("viability") == 1
    assert_same_training(tmp_path / "whole", one(**settings))
    in_two("tasks.continue_stage3", *options(tmp_path / "pieces", training__epochs=1, **settings))
    in_two("tasks.continue_stage3", *options(tmp_path / "pieces", **settings))
    assert sha256(tmp_path / "pieces" / LATEST) == sha256(tmp_path / "whole" / LATEST)


# Five adversarial draws and two pictures in a batch: the parts get unequal numbers of them, and some get none.
UNEQUAL = {"discriminator__batch_fraction": 0.3, "training__epochs": 1, "training__eval_interval": 1}


def test_two_processes_with_parts_train_as_one_without(options, one, tmp_path):
    settings = UNEQUAL | {"discriminator__form": "x0_prediction"}
    in_two("tasks.continue_stage3", *options(tmp_path / "two", training__accumulation_steps=4, **settings))
    assert_same_training(tmp_path / "two", one(**settings))


@pytest.mark.parametrize("form", ["draft_k", "ddo"])
def test_parts_of_a_batch_train_as_the_whole(form, options, one, tmp_path):
    settings = UNEQUAL | {"discriminator__form": form}
    run_command(continue_stage3.fn, options(tmp_path / "parts", training__accumulation_steps=8, **settings))
    assert_same_training(tmp_path / "parts", one(**settings))


def test_gradient_checkpointing_changes_no_bit(options, one, tmp_path):
    settings = UNEQUAL | {"discriminator__form": "ddo"}
    again = options(tmp_path / "again", unet__gradient_checkpointing=True, training__accumulation_steps=8, **settings)
    run_command(continue_stage3.fn, again)
    run_command(continue_stage3.fn, options(tmp_path / "kept", training__accumulation_steps=8, **settings))
    assert sha256(tmp_path / "again" / LATEST) == sha256(tmp_path / "kept" / LATEST)


def test_the_discriminator_trains_the_same_in_two_processes(tmp_path):
    real, fake = torch.randn(2, 20, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.save(real, tmp_path / "real.pt")
    torch.save(fake * 0.9, tmp_path / "fake.pt")
    inputs = [f"--{kind}_latents={tmp_path / kind}.pt" for kind in ("real", "fake")]
    arguments = [*inputs, "--epochs=3", "--batch_size=8", "--learning_rate=0.001", "--device=cpu", "--no-use_amp"]
    in_two("tasks.retrain_discriminator", *arguments, f"--output_dir={tmp_path / 'two'}")
    run_command(retrain_discriminator.fn, [*arguments, f"--output_dir={tmp_path / 'one'}"])
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}
    two, one = (pd.read_csv(tmp_path / name / "discriminator_history.csv") for name in ("two", "one"))
    pd.testing.assert_frame_equal(two, one, check_exact=False, **ROUNDING)


def test_a_batch_that_does_not_divide_is_refused_in_one_line(options, tmp_path):
    done = torchrun("tasks.continue_stage3", *options(tmp_path / "out", training__batch_size=7))
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "training.batch_size" in said[0] and "multiple of 2" in said[0]
    assert done.returncode == 1 and "exitcode  : 2" in done.stderr
    assert not list((tmp_path / "out").rglob("*.pt"))


def test_only_the_first_process_reports_what_it_refuses(options, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    done = torchrun("tasks.continue_stage3", *options(tmp_path / "out"))
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "out holds mine.txt, which" in said[0]
    assert "GLHF" not in done.stderr and "RuntimeError" not in done.stderr
