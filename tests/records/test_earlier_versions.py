"""What version 0.1 wrote: read, verified, continued, and refused only after a change of what affects results."""

import json
import logging
import tarfile
from pathlib import Path

import pytest

from core.config.loading import load_config
from core.runtime.errors import InputError
from core.training.prerequisites import make_prerequisite
from flows.adversarial_training import adversarial_training
from flows.status import status
from tests.prefect_databases import database_with_tables, flows_server

pytestmark = pytest.mark.timeout(900)

RUNS = Path(__file__).parent / "written_by_0_1" / "runs.tar.xz"
# None of these changes a result of the finished round.
WITHOUT_EFFECT = [
    "experiment.epochs_target=7",
    "dataset.return_path=true",
    "discriminator.ddo_beta=0.5",
    "discriminator.ddo_alpha=2",
    "discriminator.draft_steps=3",
    "discriminator.online_steps=2",
    "training.sample_interval=5",
    "training.save_interval=5",
    "training.latest_interval=3",
    "training.num_workers=1",
    "training.accumulation_steps=2",
    "prerequisites.stage1.sample_interval=5",
    "unet.gradient_checkpointing=true",
    "rounds.on_regression=stop",
    "rounds.weight_controller=true",
    "artifacts.state_minutes=5",
    "artifacts.lease_seconds=30",
]
AFFECTING = {
    "training.learning_rate": "0.01",
    "discriminator.weight": "0.3",
    "discriminator.form": "ddo",
    "rounds.bad_latents.num_steps": "4",
    "dataset.filters": "{}",
}


@pytest.fixture
def finished(tmp_path, monkeypatch) -> Path:
    """A finished round of an experiment of two, in the working folder as its records name it."""
    return extracted("finished", tmp_path, monkeypatch)


@pytest.fixture
def interrupted(tmp_path, monkeypatch) -> Path:
    """Prerequisites whose Stage 1 ended in its second epoch."""
    return extracted("interrupted", tmp_path, monkeypatch)


def extracted(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with tarfile.open(RUNS) as archive:
        archive.extractall(folder, filter="data")
    monkeypatch.chdir(folder / name)
    return folder / name


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with flows_server(database_with_tables(tmp_path_factory)):
        yield


def test_status_and_verification_read_them(finished, capsys):
    assert not status("artifacts", verify=True)
    shown = capsys.readouterr().out
    assert "finished" in shown and "0.9118" in shown  # val_noise_loss of the record
    assert "all 1 rounds are finished" in shown and "everything is as recorded" in shown


def test_a_finished_round_is_found_after_a_change_of_what_affects_no_result(server, finished):
    path = finished / "artifacts/tiny/round-01/round.json"
    before = path.read_bytes()
    assert adversarial_training("tiny.yaml", WITHOUT_EFFECT) == [json.loads(before)]
    assert path.read_bytes() == before


@pytest.mark.parametrize("key", AFFECTING)
def test_a_finished_round_is_refused_after_a_change_of_what_affects_results(server, finished, key):
    with pytest.raises(InputError, match=rf"round-01 holds a round made with {key}.* now it is"):
        adversarial_training("tiny.yaml", [f"{key}={AFFECTING[key]}"])


def test_the_next_round_starts_from_the_finished_one(server, finished):
    first, second = adversarial_training("tiny.yaml", ["rounds.count=2"])
    assert first == json.loads((finished / "artifacts/tiny/round-01/round.json").read_text())
    assert (second["metrics"]["first_epoch"], second["metrics"]["epoch"]) == (1, 2)
    assert second["inputs"]["parent"]["path"] == "artifacts/tiny/round-01/round.json"
    assert second["settings"] == first["settings"]
    assert not status("artifacts", verify=True)


def test_an_interrupted_stage_continues_from_its_state(interrupted, caplog):
    with caplog.at_level(logging.INFO, logger="core"):
        record = make_prerequisite("stage1", load_config("tiny.yaml"))
    assert "continuing from epoch 1" in caplog.text
    assert record["metrics"]["epoch"] == 3
    rows = (interrupted / "artifacts/prerequisites/stage1/stage1_metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2", "3"]
    assert not (interrupted / "artifacts/prerequisites/stage1/state").exists()
