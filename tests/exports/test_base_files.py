"""The base of an experiment as files: both models, their digests, a card; and rounds that start from them."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from core.checkpoints.loading import load_autoencoder, load_checkpoint, load_unet
from core.config.loading import load_config
from core.runtime.errors import InputError
from core.training.prerequisites import STAGES, make_prerequisite, with_prerequisites
from tasks.command_line import run_command
from tasks.export_base import export_base

NAMES = ["autoencoder.safetensors", "stage2.safetensors", "SHA256SUMS", "README.md"]


@pytest.fixture(scope="module")
def exported(prepared, tmp_path_factory) -> Path:
    """The tiny experiment's base; tests do not write there."""
    folder = tmp_path_factory.mktemp("exported") / "base"
    printed = run_command(export_base, [str(prepared), "--output_dir", str(folder)])
    assert printed.splitlines() == [str(folder / name) for name in NAMES]
    return folder


def test_the_models_are_those_of_the_checkpoints(exported, config):
    pairs = [
        (load_unet, config.diffusion.stage2_checkpoint, "stage2"),
        (load_autoencoder, config.autoencoder.checkpoint, "autoencoder"),
    ]
    for load, checkpoint, name in pairs:
        made, given = load(checkpoint, config).state_dict(), load(exported / f"{name}.safetensors", config).state_dict()
        assert made.keys() == given.keys() and all(torch.equal(value, given[key]) for key, value in made.items())
    stage2 = load_checkpoint(exported / "stage2.safetensors", "checkpoint")
    assert all(name.startswith("unet_ema.") for name in stage2["state_dict"])
    assert stage2["config"]["unet"] == load_checkpoint(pairs[0][1], "checkpoint")["config"]["unet"]


def test_the_digests_are_those_that_sha256sum_checks(exported):
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=exported, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK") == 2, done.stderr


def test_the_card_says_what_the_files_are(exported):
    card, sums = (exported / "README.md").read_text(), (exported / "SHA256SUMS").read_text()
    for line in sums.splitlines():
        digest, name = line.split("  ")
        assert f"| `{name}` | {(exported / name).stat().st_size:,} | `{digest}` |" in card
    assert "32x32 pixels to 4x8x8 latents" in card and "Apache-2.0" in card and "| stage2 |" in card
    assert "Audit of" not in card  # the config has none


def test_with_an_audit_the_card_holds_its_figures(prepared, tmp_path):
    settings = ["--set", "audit={num_samples: 10, pass_share: 0.5, num_steps: 3}"]
    run_command(export_base, [str(prepared), "--output_dir", str(tmp_path / "base"), *settings])
    card = (tmp_path / "base/README.md").read_text()
    assert "Audit of 10 generated layouts (3 steps" in card
    assert (
        "| viable by the audit's rules | 0." in card and "| held-out layouts through the autoencoder: viable |" in card
    )


def test_the_same_command_writes_the_same_files_again(exported, prepared):
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    run_command(export_base, [str(prepared), "--output_dir", str(exported)])
    assert before == {path.name: path.read_bytes() for path in exported.iterdir()}
    assert sorted(before) == sorted([*NAMES, "made.json"])


@pytest.mark.parametrize("name", ["README.md", "stage2.safetensors", "made.json"])
def test_a_file_of_the_user_is_not_overwritten(prepared, tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=rf"holds {name}, which another program made.*--output_dir"):
        export_base(prepared, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "{}"


def test_unfinished_prerequisites_are_named(prepared, tmp_path):
    with pytest.raises(InputError, match=r"are not finished: run python -m flows\.prerequisites .*tiny\.yaml first"):
        export_base(prepared, str(tmp_path / "base"), [f"artifacts.root={tmp_path}/none"])
    assert not list((tmp_path / "base").iterdir())


def test_rounds_with_labels_by_rules_need_no_stage_1(exported, prepared, tmp_path):
    settings = [
        f"artifacts.root={tmp_path}/artifacts",
        f"autoencoder.checkpoint={exported}/autoencoder.safetensors",
        f"diffusion.stage2_checkpoint={exported}/stage2.safetensors",
        "prerequisites.stage1.epochs=1",
    ]
    config = load_config(prepared, [*settings, "rounds.viability.labels=rules"])
    made = {stage: make_prerequisite(stage, config) for stage in STAGES}
    assert [stage for stage, record in made.items() if record is not None] == ["latents"]
    assert with_prerequisites(config).diffusion.stage1_checkpoint is None
    config = load_config(prepared, settings)  # labels: generated
    assert make_prerequisite("stage1", config)["stage"] == "stage1"
    assert with_prerequisites(config).diffusion.stage1_checkpoint is not None


def test_the_shipped_base_is_what_its_command_would_write():
    folder = Path("configs/base")
    made = json.loads((folder / "made.json").read_text())
    assert sorted(made["files"]) == sorted(NAMES)
    assert sum((folder / name).stat().st_size for name in NAMES[:2]) <= 4e6
    config = load_config("configs/demo.yaml")
    for key, load in (("autoencoder.checkpoint", load_autoencoder), ("diffusion.stage2_checkpoint", load_unet)):
        assert Path(config.required(key)).parent == folder
        load(config.required(key), config)  # its digest and its sizes are checked
