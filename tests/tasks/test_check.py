"""The command that tries a config: what it says of a good one, and one line for each thing that is wrong."""

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, UNet2DModel

from core.checkpoints.imported_models import load_experiment
from core.checkpoints.loading import export_checkpoint, load_checkpoint
from core.generation.pace import Pace
from core.inputs.tensor_files import save_tensors
from core.models.diffusion import build_scheduler
from core.reports.config_check import check_config
from core.rounds.round_cost import round_seconds
from core.rounds.start_check import require_sound_start
from core.runtime.errors import InputError
from tasks.check import check
from tasks.command_line import run_command
from tests.commands import run
from tests.conftest import TINY
from tests.imginav_files import write_checkpoints, write_config

ROWS = ("autoencoder", "data", "schedule", "latents", "agreement", "decoded", "drawn", "time", "memory")


def checked(path: Path, *sets: str) -> tuple[int, str, list[str]]:
    """Exit status of the command, its table, and the lines that end it."""
    out, errors, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            run_command(check, [str(path), *(part for value in sets for part in ("--set", value))])
        except SystemExit as left:
            status = left.code
    lines = errors.getvalue().splitlines()
    return status, out.getvalue(), [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]


def files(*folders: Path) -> dict[str, tuple[int, int]]:
    found = [path for folder in folders for path in folder.rglob("*")]
    return {str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in found}


def figure(text: str, name: str) -> str:
    """What the table says of a figure or model."""
    (line,) = [line for line in text.splitlines() if line.split("  ")[0] == name]
    return line.removeprefix(name).strip()


def test_a_good_config_has_its_models_and_figures_and_nothing_is_written(prepared, config, manifest):
    before = files(prepared.parent, manifest.parent)
    status, text, lines = checked(prepared, "discriminator.checkpoint=/path/to/none.pt")
    assert (status, lines) == (0, [])
    assert figure(text, "discriminator") == "each round trains its own; not tried: /path/to/none.pt"
    for name in ROWS:
        assert figure(text, name), name
    for name in ("stage1", "stage2"):
        weights = load_checkpoint(config.diffusion.model_dump()[f"{name}_checkpoint"], name)["state_dict"]
        used = sum(key.startswith("unet_ema.") for key in weights)
        assert f"this project  UNet2DModel           {used} of {len(weights)}" in figure(text, name)
        assert used < len(weights)
    assert "96 layouts with their variants" in figure(text, "data")
    first, last, snr = map(float, re.findall(r"[\d.]+(?:e-\d+)?", figure(text, "schedule").partition("alpha_bar")[2]))
    alpha_bars = build_scheduler(config.scheduler).alphas_cumprod
    assert (first, last) == (pytest.approx(alpha_bars[0].item()), pytest.approx(alpha_bars[-1].item(), rel=0.01))
    assert snr == pytest.approx(last / (1 - last), rel=0.01)
    assert float(re.search(r"differ by ([\d.]+)", figure(text, "agreement"))[1]) < 1e-3
    assert 0 < float(re.search(r"([\d.]+) %", figure(text, "decoded"))[1]) <= 100
    assert files(prepared.parent, manifest.parent) == before


def test_a_config_without_checkpoints_says_what_a_run_makes_first(tmp_path, manifest, trunk):
    path = tmp_path / "fresh.yaml"
    path.write_text(TINY.format(manifest=manifest, root=tmp_path / "artifacts", trunk=trunk))
    status, text, lines = checked(path)
    assert (status, lines) == (0, [])
    for stage in ("autoencoder", "latents", "stage1", "stage2"):
        assert figure(text, f"make {stage}") == f"a run does this first, at {tmp_path}/artifacts/prerequisites/{stage}"
    assert "a round takes at least" in text and "drawn" not in text
    assert files(tmp_path).keys() == {str(path)}


def test_a_stage_that_nothing_makes_is_a_fault(tmp_path, manifest, trunk):
    path = tmp_path / "fresh.yaml"
    path.write_text(TINY.format(manifest=manifest, root=tmp_path / "artifacts", trunk=trunk))
    status, _, lines = checked(path, "prerequisites.stage1=null")
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith("diffusion.stage1_checkpoint is missing, and so is prerequisites.stage1")


def test_labels_that_nothing_judges_are_a_fault(prepared):
    status, _, lines = checked(prepared, "rounds.viability.labels=rules")
    assert (status, len(lines)) == (2, 1) and lines[0].startswith("audit is missing: set it in the config")


def with_nan(checkpoint, path):
    made = load_checkpoint(checkpoint, "checkpoint")
    made["state_dict"] = {key: torch.full_like(value, torch.nan) for key, value in made["state_dict"].items()}
    save_tensors(made, path)
    return path


@pytest.fixture
def broken(config, tmp_path):
    """Settings by which every checkpoint of the tiny experiment is wrong, and a word of the line for each."""
    nan = with_nan(config.diffusion.stage2_checkpoint, tmp_path / "nan.pt")
    made = load_checkpoint(config.autoencoder.checkpoint, "autoencoder")
    export_checkpoint(made["state_dict"], made["config"], tmp_path / "whole.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "whole.safetensors").read_bytes()[:5000])
    return {
        f"diffusion.stage2_checkpoint={nan}": f"{nan} holds weights that are not finite",
        f"autoencoder.checkpoint={cut}": f"autoencoder checkpoint {cut} is a damaged safetensors file",
        "diffusion.stage1_checkpoint=none.pt": "diffusion checkpoint none.pt does not exist",
        "training.loss.semantic_loss.perceptual_loss.backbone=no_trunk.pt": "LPIPS trunk no_trunk.pt does not exist",
    }


def test_every_fault_has_its_line_and_nothing_is_written(prepared, manifest, broken, tmp_path):
    rows = pd.read_csv(manifest)
    rows["layout_path"] = [str(manifest.parent / path) for path in rows["layout_path"]]
    rows.loc[4, "layout_path"] = "/none/picture.png"
    rows["latent_path"] = "/none/latents.pt"
    rows.to_csv(tmp_path / "given.csv", index=False)
    before = files(prepared.parent, tmp_path)
    status, text, lines = checked(prepared, f"dataset.manifest={tmp_path}/given.csv", *broken)
    assert status == 2 and files(prepared.parent, tmp_path) == before
    wanted = [*broken.values(), "row 5: picture /none/picture.png does not exist", "latent /none/latents.pt does not"]
    assert [word for word in wanted if sum(word in line for line in lines) != 1] == []
    assert len(lines) == len(wanted)
    assert figure(text, "stage2").startswith("refused") and figure(text, "autoencoder").startswith("refused")


def test_a_file_that_is_missing_has_one_line(prepared, manifest):
    for value, line in (
        ("autoencoder.checkpoint=none.pt", "autoencoder checkpoint none.pt does not exist"),
        ("dataset.manifest=none.csv", "manifest none.csv does not exist"),
    ):
        status, _, lines = checked(prepared, value)
        assert (status, len(lines)) == (2, 1) and lines[0].startswith(line), lines


def test_latents_of_another_autoencoder_are_named(prepared, config, tmp_path):
    made = load_checkpoint(config.autoencoder.checkpoint, "autoencoder")
    other = {key: -value if "net" in key else value for key, value in made["state_dict"].items()}
    save_tensors(made | {"state_dict": other}, tmp_path / "other.pt")
    given = f"dataset.manifest={config.dataset.manifest}", f"autoencoder.checkpoint={tmp_path}/other.pt"
    status, _, lines = checked(prepared, *given)
    assert (status, len(lines)) == (2, 1)
    assert re.match(rf"latents of {config.dataset.manifest} are not of the autoencoder \S+other\.pt: they", lines[0])


def test_imginavs_files_are_tried_and_another_decoder_is_a_fault_beside_others(tmp_path, manifest):
    theirs = write_config(*write_checkpoints(tmp_path))
    few_steps = "rounds.bad_latents.num_steps=20", "discriminator.trajectories.num_steps=20"
    given = f"dataset.manifest={manifest}", "training.device=cpu", *few_steps
    status, text, lines = checked(theirs, *given)
    assert status == 2 and len(lines) == 1 and "diffusion.stage1_checkpoint is missing" in lines[0]
    assert re.match(r"ImgiNav +Unet +(\d+) of \d+ ", figure(text, "stage2"))
    assert figure(text, "autoencoder").startswith("ImgiNav")
    assert "that of the checkpoint, 40 steps, predicts epsilon" in figure(text, "schedule")
    both = *given, f"diffusion.stage1_checkpoint={tmp_path}/diffusion.pt"
    assert checked(theirs, *both)[::2] == (0, [])

    def other_decoder(checkpoint):
        name, weights = "decoder.shared_decoder.0.bias", checkpoint["state_dict"]
        weights[name] = weights[name] + 1

    write_checkpoints(tmp_path, other_decoder)
    (tmp_path / "text.pt").write_text("no model")
    status, text, lines = checked(theirs, *given, f"diffusion.stage1_checkpoint={tmp_path}/text.pt")
    assert status == 2 and len(lines) == 2
    assert lines[0].startswith(f"diffusion checkpoint {tmp_path}/text.pt")
    assert "diffusion.pt was trained with another decoder than that of" in lines[1]
    assert figure(text, "data")


def test_a_folder_of_diffusers_is_tried(tmp_path, manifest):
    torch.manual_seed(2)
    sizes = {"block_out_channels": (4, 8), "norm_num_groups": 2}
    unet = UNet2DModel(
        **{"sample_size": 16, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, **sizes},
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    folder = tmp_path / "pipeline"
    DDPMPipeline(unet, DDPMScheduler(50)).save_pretrained(folder)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    autoencoder = AutoencoderKL(**kinds, **sizes)
    autoencoder.save_pretrained(folder / "vae")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"vae": ["diffusers", "AutoencoderKL"]}))
    path = tmp_path / "theirs.yaml"
    path.write_text(
        f"experiment: {{name: theirs}}\ndataset: {{manifest: {manifest}, image_size: 32}}\n"
        f"diffusion: {{stage1_checkpoint: {folder}, stage2_checkpoint: {folder}}}\ntraining: {{device: cpu}}\n"
        f"artifacts: {{root: {tmp_path}/artifacts}}\nrounds: {{bad_latents: {{num_steps: 20}}}}\n"
    )
    before = files(tmp_path)
    status, text, lines = checked(path)
    assert (status, lines) == (0, []) and files(tmp_path) == before
    count = len(unet.state_dict())
    weights = f"{sum(value.numel() for value in unet.parameters()):,}"
    for name in ("stage1", "stage2"):
        assert figure(text, name).split() == [
            "diffusers",
            "UNet2DModel",
            str(count),
            "of",
            str(count),
            weights,
            str(folder),
        ]
    both = len(autoencoder.state_dict())  # of encoder and decoder together, which share a file
    assert re.match(rf"diffusers +to 4 channels at 1/2 +{both} of {both} ", figure(text, "autoencoder"))
    assert figure(text, "latents") and figure(text, "make latents")
    pictures = tmp_path / "pictures"
    rgb = UNet2DModel.from_config(unet.config, in_channels=3, out_channels=3)
    DDPMPipeline(rgb, DDPMScheduler(50)).save_pretrained(pictures)
    stages = f"diffusion={{stage1_checkpoint: {pictures}, stage2_checkpoint: {pictures}}}"
    assert figure(checked(path, stages)[1], "decoded").startswith("100.00 %")  # its latents are the pictures
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"short")
    status, _, lines = checked(path, "dataset.manifest=none.csv")
    assert status == 2 and len(lines) == 2 and any("manifest none.csv does not exist" in line for line in lines)


def test_a_file_that_is_no_config_is_one_line(tmp_path):
    (tmp_path / "a.yaml").write_text("experiment: {name: a}\ndataset: {image_sizee: 32}\n")
    status, text, lines = checked(tmp_path / "a.yaml")
    assert (status, text, len(lines)) == (2, "", 1) and "image_sizee" in lines[0]


def test_the_estimate_counts_what_the_config_says(config):
    pace = Pace(evaluation=0.5, step=2.0, discriminator_step=0.0, step_latents=8, batch=8, peak_bytes=0)
    counted = config.with_values({"discriminator.weight": 0, "rounds.steps_per_round": 7})
    seconds = round_seconds(counted, pace, latents=96)
    assert seconds["bad latents"] == 6 * 5 * 0.5 and seconds["Stage 3"] == 7 * 2.0 and "an audit" not in seconds
    by_epochs = counted.with_values({"rounds.steps_per_round": None, "rounds.epochs_per_round": 3})
    assert round_seconds(by_epochs, pace, latents=96)["Stage 3"] == 3 * (96 // 16) * 2.0
    term = counted.with_values({"discriminator.weight": 0.1, "discriminator.batch_fraction": 0.5})
    assert round_seconds(term, pace, latents=96)["Stage 3"] == 7 * 1.5 * 2.0 + 8 * 10 * 0.5
    audited = counted.with_values({"audit": {"num_samples": 20, "num_steps": 4}})
    assert round_seconds(audited, pace, latents=96)["an audit"] == 20 * 4 * 0.5


@pytest.mark.parametrize("flow", ["adversarial_training", "adversarial_round"])
def test_a_run_ends_before_its_first_round_if_a_model_is_wrong(experiment, config, broken, tmp_path, flow):
    sets = [part for value in broken if "autoencoder" not in value for part in ("--set", value)]
    done = run(f"flows.{flow}", experiment, *sets)
    assert done.returncode == 2
    for value, line in broken.items():
        assert ("autoencoder" in value) != (line in done.stderr), done.stderr
    assert not list((tmp_path / "artifacts" / "tiny").glob("round-*"))


def test_a_run_ends_before_its_first_round_if_a_sampler_has_more_steps_than_the_schedule(experiment):
    more = ["rounds.bad_latents.num_steps=101", "audit={num_samples: 10, num_steps: 102}"]
    settings = [*more, "discriminator.trajectories.num_steps=103"]
    with pytest.raises(
        InputError, match=r"^rounds.bad_latents.num_steps 101: the noise schedule has 100 steps; set it"
    ):
        require_sound_start(load_experiment(experiment, settings))
    lines = check_config(experiment, settings).faults.lines
    assert [line.split(":")[0] for line in lines] == [
        "rounds.bad_latents.num_steps 101",
        "discriminator.trajectories.num_steps 103",
        "audit.num_steps 102",
    ]
    assert not list((experiment.parent / "artifacts/tiny").glob("round-*"))


def test_a_start_is_checked_by_what_its_next_round_starts_from(config, tmp_path):
    own = config.with_values({"artifacts.root": str(tmp_path)})
    require_sound_start(own)
    nan = with_nan(config.diffusion.stage1_checkpoint, tmp_path / "nan.pt")
    with pytest.raises(InputError, match=r"nan\.pt holds weights that are not finite"):
        require_sound_start(own.with_values({"diffusion.stage1_checkpoint": str(nan)}))
    assert {path.name for path in tmp_path.iterdir()} == {"nan.pt"}


def test_pictures_are_the_same_layouts_each_time(prepared):
    texts = [check_config(prepared).as_text() for _ in range(2)]
    assert np.all([figure(texts[0], name) == figure(texts[1], name) for name in ("latents", "decoded", "drawn")])
