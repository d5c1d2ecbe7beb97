"""Inputs that are right; each test changes one of them. What they make is made once for the session."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prefect import Task

from core.config.experiment import ExperimentConfig
from core.config.loading import config_bytes
from tasks.continue_stage3 import continue_stage3
from tasks.generate_bad_latents import generate_bad_latents
from tasks.retrain_discriminator import retrain_discriminator
from tests.bad_input.command_line import Options, Refused, run


@pytest.fixture
def refused(capsys) -> Refused:
    """Runs a command that must exit with 2 and, last on stderr, one error line with all of the given words."""

    def check(command: Task, options: Options, *words: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run(command, options)
        assert stop.value.code == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        lines = printed.err.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], printed.err
        assert "Traceback" not in printed.err
        for word in words:
            assert str(word) in lines[-1]
        return lines[-1]

    return check


@pytest.fixture(scope="session")
def generated(tmp_path_factory, prepared, config) -> Options:
    """Options of a generate-bad-latents that was run; do not write to its folder."""
    options = {
        "manifest": config.dataset.manifest,
        "autoencoder_checkpoint": config.autoencoder.checkpoint,
        "diffusion_checkpoint": config.diffusion.stage2_checkpoint,
        "diffusion_config": prepared,
        "output_dir": tmp_path_factory.mktemp("generated") / "latents",
        "num_samples": 6,
        "num_steps": 2,
        "device": "cpu",
    }
    run(generate_bad_latents, options)
    return options


@pytest.fixture
def generate(generated, manifest, tmp_path) -> Options:
    """Options of a generate-bad-latents that reads all twelve originals, into a folder that is not there yet."""
    return generated | {"manifest": manifest, "num_samples": 12, "output_dir": tmp_path / "out"}


@pytest.fixture(scope="session")
def retrained(tmp_path_factory, generated) -> Options:
    """Options of a retrain-discriminator that was run; do not write to its folder."""
    options = {
        "real_latents": generated["output_dir"] / "real_latents_all.pt",
        "fake_latents": generated["output_dir"] / "bad_latents_all.pt",
        "output_dir": tmp_path_factory.mktemp("retrained") / "discriminator",
        "epochs": 1,
        "batch_size": 4,
        "device": "cpu",
    }
    run(retrain_discriminator, options)
    return options


@pytest.fixture
def retrain(retrained, tmp_path) -> Options:
    return retrained | {"output_dir": tmp_path / "out"}


@pytest.fixture(scope="session")
def rows(config) -> pd.DataFrame:
    """The encoded manifest, its paths absolute."""
    rows = pd.read_csv(config.dataset.manifest)
    folder = Path(config.dataset.manifest).parent
    for column in ("layout_path", "latent_path"):
        rows[column] = [str(folder / path) for path in rows[column]]
    return rows


@pytest.fixture(scope="session")
def ready(config, retrained) -> ExperimentConfig:
    """A Stage 3 config that names everything, so that it finds nothing under its root."""
    return config.with_values(
        {
            "discriminator.checkpoint": str(retrained["output_dir"] / "discriminator_best.pt"),
            "discriminator.trajectories.num_samples": 2,
            "rounds.bad_latents.num_steps": 2,
            "rounds.viability_samples": 2,
            "training.epochs": 1,
            "prerequisites": None,
            "artifacts.root": "/nonexistent",
        }
    )


@pytest.fixture
def stage3(ready, tmp_path) -> Callable[..., Options]:
    """Options of a continue-stage-3 with `values` at dotted keys, into a folder that is not there yet."""

    def options(**values: Any) -> Options:
        values = {"experiment.save_path": str(tmp_path / "out")} | values
        (tmp_path / "stage3.yaml").write_bytes(config_bytes(ready.with_values(values)))
        return {"config": tmp_path / "stage3.yaml"}

    return options


@pytest.fixture(scope="session")
def finished(tmp_path_factory, ready) -> tuple[Path, Options]:
    """Folder and metrics of a continue-stage-3 that was run for one epoch; do not write there."""
    folder = tmp_path_factory.mktemp("finished")
    config = ready.with_values({"experiment.save_path": str(folder / "out")})
    (folder / "stage3.yaml").write_bytes(config_bytes(config))
    return folder / "out", run(continue_stage3, {"config": folder / "stage3.yaml"})["metrics"]


@pytest.fixture
def with_rows(tmp_path) -> Callable[[pd.DataFrame], Path]:
    def write(rows: pd.DataFrame) -> Path:
        rows.to_csv(tmp_path / "manifest.csv", index=False)
        return tmp_path / "manifest.csv"

    return write
