"""Rounds on models that were trained elsewhere, from the command line: killed once, and gone on."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, UNet2DModel

from core.inputs.tensor_files import load_tensors
from tests.commands import Command, run

FIXTURES = Path(__file__).parents[3] / "shared" / "data" / "imginav" / "numeric"
SETTINGS = {
    "rounds": {
        **{"epochs_per_round": 1, "viability_samples": 4, "bad_latents": {"num_samples": 6, "num_steps": 5}},
        "discriminator": {"epochs": 1, "batch_size": 4},
    },
    "audit": None,
}
TRAJECTORIES = {"trajectories": {"num_samples": 8, "states": 2, "num_steps": 10}}


def train_killed_once(path, rounds, *overrides):
    """The records of the rounds, after the run was killed in the Stage 3 of round 1 and started again."""
    command = ["flows.adversarial_training", path, *(part for value in overrides for part in ("--set", value))]
    killed = Command(*command, "--set", f"rounds.count={rounds}")
    killed.wait_for("discriminator epoch 1/1")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = run(*command, "--set", f"rounds.count={rounds}")
    assert done.returncode == 0, done.stderr
    folders = [path.parent / "artifacts" / "theirs" / f"round-{number:02d}" for number in range(1, rounds + 1)]
    return [(folder, json.loads((folder / "round.json").read_text())) for folder in folders]


def unet_of(folder):
    checkpoint = load_tensors(folder / "stage3" / "checkpoints" / "theirs_checkpoint_latest.pt", "checkpoint")
    return {key: value for key, value in checkpoint["state_dict"].items() if key.startswith("unet.")}


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="ImgiNav's numeric fixtures are not beside the clone")
def test_two_rounds_on_imginavs_own_files(tmp_path, manifest, trunk):
    """A Stage 3 config as ImgiNav writes it: nothing in it, and no file, was made for this project."""
    stage1, stage2 = tmp_path / "stage1.pt", tmp_path / "stage2" / "checkpoints" / "narrow_checkpoint_best.pt"
    stage2.parent.mkdir(parents=True)
    for copied in (stage1, stage2):
        shutil.copy(FIXTURES / "diffusion_narrow_d4_checkpoint_best.pt", copied)
    shutil.copy(FIXTURES / "ae_narrow_checkpoint_best.pt", tmp_path / "autoencoder.pt")
    noise = {"type": "MSELoss", "key": "pred_noise", "target": "noise", "weight": 1.0}
    semantic = {
        "type": "SemanticLoss",
        "segmentation_loss": {"type": "CrossEntropyLoss", "key": "segmentation", "weight": 0.1},
        "perceptual_loss": {"type": "PerceptualLoss", "key": "rgb", "weight": 0.05, "backbone": str(trunk)},
    }
    theirs = {
        "experiment": {"name": "theirs", "phase": "diffusion_stage3", "save_path": "/work3/someone/stage3"},
        # Without the folder checkpoints/ that the file is in.
        "diffusion": {"stage2_checkpoint": str(tmp_path / "stage2" / stage2.name)},
        "autoencoder": {"checkpoint": str(tmp_path / "autoencoder.pt"), "frozen": True},
        "discriminator": {"checkpoint": "/path/to/discriminator_best.pt", "weight": 0.1},
        "dataset": {"manifest": str(manifest), "image_size": 256},
        "scheduler": {"type": "CosineScheduler", "num_steps": 500},
        "training": {
            **{"batch_size": 8, "learning_rate": 0.0003, "device": "cpu", "use_weighted_sampling": True},
            "loss": {"type": "CompositeLoss", "losses": [noise, semantic]},
        },
    }
    path = tmp_path / "theirs.yaml"
    path.write_text(yaml.safe_dump(theirs))
    small = [f"{name}={json.dumps(value)}" for name, value in SETTINGS.items()]
    trajectories = f"discriminator.trajectories={json.dumps(TRAJECTORIES['trajectories'])}"
    place = f"artifacts.root={tmp_path / 'artifacts'}"
    rounds = train_killed_once(path, 2, f"diffusion.stage1_checkpoint={stage1}", place, trajectories, *small)
    before = torch.load(stage2)["state_dict"]
    first, second = (unet_of(folder) for folder, _ in rounds)
    assert first.keys() == {key for key in before if key.startswith("unet.")}
    assert not [key for key, value in first.items() if value.equal(before[key]) or value.equal(second[key])]
    for folder, record in rounds:
        assert record["settings"]["unet"]["type"] == "Unet"
        assert len(record["settings"]["scheduler"]["trained_betas"]) == 500
        assert yaml.safe_load((folder / "config.yaml").read_text())["without_effect"] == [
            "training.use_weighted_sampling"
        ]
    assert sorted(file.name for file in stage2.parent.iterdir()) == [stage2.name], "a user's folder stays as it was"


def test_a_round_on_a_pipeline_of_diffusers(tmp_path, manifest, trunk):
    torch.manual_seed(2)
    blocks = {"block_out_channels": (8, 16), "norm_num_groups": 4}
    unet = UNet2DModel(
        **{"sample_size": 16, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, **blocks},
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    folder = tmp_path / "pipeline"
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=100, prediction_type="v_prediction")).save_pretrained(folder)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **blocks
    )
    autoencoder.save_pretrained(folder / "vae")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"vae": ["diffusers", "AutoencoderKL"]}))
    path = tmp_path / "theirs.yaml"
    config = {
        "experiment": {"name": "theirs"},
        "diffusion": {"stage1_checkpoint": str(folder), "stage2_checkpoint": str(folder)},
        "dataset": {"manifest": str(manifest), "image_size": 32},
        "training": {
            **{"batch_size": 8, "learning_rate": 0.0003, "device": "cpu"},
            "loss": {"semantic_loss": {"perceptual_loss": {"backbone": str(trunk)}}},
        },
        "discriminator": TRAJECTORIES,
        "artifacts": {"root": str(tmp_path / "artifacts")},
    }
    path.write_text(yaml.safe_dump(config | SETTINGS))
    ((made, record),) = train_killed_once(path, 1)
    before = unet.state_dict()
    after = unet_of(made)
    assert after.keys() == {f"unet.{key}" for key in before}
    assert not [key for key, value in before.items() if value.equal(after[f"unet.{key}"])]
    assert record["settings"]["unet"]["config"]["block_out_channels"] == [8, 16]
    assert record["settings"]["scheduler"]["prediction_type"] == "v_prediction"
    assert record["inputs"]["stage2"]["path"] == str(folder)
    # A file of the folder that changes is another input.
    (folder / "unet" / "config.json").write_text((folder / "unet" / "config.json").read_text() + "\n")
    again = run("flows.adversarial_training", path, "--set", "rounds.count=1")
    assert again.returncode == 2 and "made with input autoencoder" in again.stderr
