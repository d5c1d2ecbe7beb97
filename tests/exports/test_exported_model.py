"""The command that exports a model: who can load its forms, what they draw, what the folder depends on, refusals."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, UNet2DModel

from core.config.loading import config_bytes, load_config
from core.data.palette import COLORS, PALETTE
from core.exports import diffusers_folder, exported_model
from core.inputs.safetensors_files import load_safetensors
from core.inputs.tensor_files import save_tensors
from core.models.checkpoints import load_autoencoder, load_checkpoint, load_unet
from core.models.imported_models import load_experiment
from core.models.pictures import decode_classes
from core.models.sampling import sample_latents
from core.models.strength import load_unet_from
from core.records import stage_run
from core.runtime.seeding import sample_noise
from core.storage import local_store
from core.storage.opening import open_store
from core.training.prerequisites import with_prerequisites
from tasks.command_line import run_command
from tasks.export import export
from tests.imginav_files import SIZES, write_checkpoints, write_config
from tests.processes import killed_at

pytest_plugins = ["tests.storage_servers"]

SEEDS, STEPS = [3, 1, 4, 1, 5], 7

# What somebody runs who has diffusers and torch, and neither this project nor anything else that it installs.
ELSEWHERE = """
import sys

for name in ("core", "tasks", "flows", "tests", "accelerate", "torchvision", "transformers", "lpips", "pandas",
             "scipy", "sklearn", "prefect", "pydantic", "matplotlib", "boto3"):
    sys.modules[name] = None  # importing it fails, and it is not found
import numpy as np
import torch
from diffusers import DDPMScheduler, DiffusionPipeline

steps, *folders = sys.argv[1:]
for folder in folders:
    pipeline = DiffusionPipeline.from_pretrained(f"{folder}/model", trust_remote_code=True)
    noise = torch.from_numpy(np.load(f"{folder}/noise.npy"))
    drawn = pipeline(latents=noise, num_inference_steps=int(steps))
    images = np.stack([np.asarray(image) for image in drawn.images])
    seeded = [pipeline(batch_size=2, generator=torch.Generator().manual_seed(1)).latents.numpy() for _ in range(2)]
    default_steps = len(pipeline.scheduler.timesteps)
    pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)  # draws noise in each step
    noisy = [pipeline(2, 3, torch.Generator().manual_seed(1), return_dict=False)[2].numpy() for _ in range(2)]
    np.savez(f"{folder}/drawn.npz", latents=drawn.latents.numpy(), classes=drawn.class_maps, images=images,
             seeded=np.stack(seeded), noisy=np.stack(noisy), default_steps=default_steps)
    print(*pipeline.decoder.config.class_names)
"""


def options(**values):
    line = []
    for name, value in values.items():
        line += [part for one in value for part in ("--set", one)] if name == "sets" else [f"--{name}", str(value)]
    return line


def run_export(prepared, output_dir, **values):
    """What the command prints after exporting Stage 2 of the tiny experiment, or what `values` say."""
    stage2 = with_prerequisites(load_config(prepared)).diffusion.stage2_checkpoint
    given = {"checkpoint": stage2, "config": prepared, "output_dir": output_dir}
    chosen = {name: value for name, value in (given | values).items() if value is not None}
    return run_command(export, options(**chosen))


def content(folder):
    """Bytes of every file but the record, which holds a duration."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "stage.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def of_diffusers(folder, with_autoencoder):
    """Config file and checkpoint of a model that was trained on here from a pipeline of diffusers, of other sizes."""
    torch.manual_seed(5)
    sizes = {"block_out_channels": (4, 8), "norm_num_groups": 2}
    channels = 2 if with_autoencoder else 3
    unet = UNet2DModel(
        **{"sample_size": 16, "in_channels": channels, "out_channels": channels, "layers_per_block": 1, **sizes},
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
    )
    schedule = DDPMScheduler(50, beta_schedule="scaled_linear", prediction_type="sample")
    DDPMPipeline(unet, schedule).save_pretrained(folder / "pipeline")
    autoencoder = folder / "pipeline"
    if with_autoencoder:
        types = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        autoencoder = folder / "autoencoder"
        kl = AutoencoderKL(
            latent_channels=2, layers_per_block=1, scaling_factor=0.5, shift_factor=0.1, **types, **sizes
        )
        kl.save_pretrained(autoencoder)
    config = load_experiment(write_config(folder / "pipeline", autoencoder))
    weights = {f"unet_ema.{key}": value for key, value in unet.state_dict().items()}
    save_tensors({"state_dict": weights, "config": config.fingerprint()}, folder / "trained.pt")
    (folder / "trained.yaml").write_bytes(
        config_bytes(config.with_values({"diffusion.stage2_checkpoint": str(folder / "trained.pt")}))
    )
    return folder / "trained.yaml"


@pytest.fixture(scope="module")
def elsewhere(prepared, tmp_path_factory):
    """By name: config, checkpoint and folder of models that were exported and drawn with in another process."""
    root = tmp_path_factory.mktemp("elsewhere")
    configs = {"own": prepared, "v": "configs/demo.yaml"}
    for name, sizes in (("theirs", SIZES), ("theirs floor", SIZES._replace(num_classes=11, is_normalised=True))):
        (root / name).mkdir()
        configs[name] = write_config(*write_checkpoints(root / name, sizes=sizes))
    for name in ("pictures", "kl"):
        (root / name).mkdir()
        configs[name] = of_diffusers(root / name, with_autoencoder=name == "kl")
    exported = {}
    for name, path in configs.items():
        config = with_prerequisites(load_experiment(path)).with_values({"training.use_amp": False})
        checkpoint = config.diffusion.stage2_checkpoint
        (root / name).mkdir(exist_ok=True)
        np.save(root / name / "noise.npy", sample_noise(SEEDS, config.latent_shape).numpy())
        export(checkpoint, path, root / name / "model")
        exported[name] = config, checkpoint, root / name
    environment = os.environ | {"HF_HOME": str(root / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-c", ELSEWHERE, str(STEPS), *(str(root / name) for name in configs)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == [list(PALETTE)] * len(configs)
    return exported


@pytest.mark.parametrize("name", ["own", "v", "theirs", "theirs floor", "pictures", "kl"])
def test_the_pipeline_draws_what_this_project_draws(elsewhere, name):
    config, checkpoint, folder = elsewhere[name]
    drawn = np.load(folder / "drawn.npz")
    expected = sample_latents(load_unet(checkpoint, config), config, SEEDS, STEPS, 8, "test").numpy()
    assert np.abs(drawn["latents"] - expected).max() <= 1e-4
    decoder = load_autoencoder(config.autoencoder.checkpoint, config).decoder
    assert np.array_equal(drawn["classes"], decode_classes(torch.from_numpy(drawn["latents"]), decoder))
    assert np.array_equal(drawn["images"], COLORS[drawn["classes"]]) and drawn["images"].dtype == np.uint8
    for values in (drawn["seeded"], drawn["noisy"]):
        assert values.shape == (2, 2, *config.latent_shape) and np.array_equal(*values) and values.std() > 0.1
    assert drawn["default_steps"] == {"own": 5, "v": 25, "pictures": 50, "kl": 50}.get(
        name, 40
    )  # of the audit; not more than the schedule has


def test_weights_are_safetensors_only_and_no_file_needs_this_project(elsewhere):
    for _, _, folder in elsewhere.values():
        names = {
            path.relative_to(folder / "model").as_posix() for path in (folder / "model").rglob("*") if path.is_file()
        }
        weights = {f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "decoder")}
        assert {name for name in names if Path(name).suffix not in (".py", ".json", ".md")} == weights
        for path in (folder / "model").rglob("*.py"):
            text = path.read_text()
            assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n") and "core" not in text
        listed = set(json.loads((folder / "model/stage.json").read_text())["outputs"])
        assert listed == names - {"stage.json"} and "README.md" in listed


@pytest.fixture(scope="module")
def end(config, tmp_path_factory):
    """A checkpoint whose EMA weights are those of Stage 2 plus 1; its other weights are zero."""
    made = load_checkpoint(config.diffusion.stage2_checkpoint, "checkpoint")
    moved = {key: value + 1 for key, value in made["state_dict"].items() if key.startswith("unet_ema.")}
    others = {key: value * 0 for key, value in made["state_dict"].items() if key.startswith("unet.")}
    path = tmp_path_factory.mktemp("end") / "end.pt"
    save_tensors({"state_dict": moved | others, "config": made["config"]}, path)
    return path


@pytest.mark.parametrize("strength", [None, 0.5])
def test_the_weights_are_the_moving_average_at_its_strength(prepared, config, end, tmp_path, strength):
    run_export(prepared, tmp_path / "out", checkpoint=end, strength=strength)
    start = config.diffusion.stage2_checkpoint
    wanted = load_unet(end, config) if strength is None else load_unet_from(start, end, strength, config)
    found = load_safetensors(tmp_path / "out/unet/diffusion_pytorch_model.safetensors", "unet").tensors
    assert found.keys() == wanted.state_dict().keys()
    assert all(torch.equal(value, found[key]) for key, value in wanted.state_dict().items())


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run_export(prepared, folder) == str(folder)
    return content(folder)


KILLS = {
    "the weights": (diffusers_folder, "save_safetensors", 2),
    "the card": (exported_model, "model_card", 1),
    "publishing": (local_store.LocalStore, "_add", 5),
    "the record": (stage_run, "create_record", 1),
    "the end": (stage_run.StoredWorkspace, "drop_states", 1),
}


@pytest.mark.parametrize("at", KILLS)
def test_killed_anywhere_the_same_command_ends_with_the_same_bytes(prepared, undisturbed, tmp_path, at):
    killed_at(*KILLS[at], lambda: run_export(prepared, tmp_path / "out"))
    run_export(prepared, tmp_path / "out")
    assert content(tmp_path / "out") == undisturbed


def test_a_finished_folder_is_left_as_it_is(prepared, tmp_path, capsys):
    run_export(prepared, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    run_export(prepared, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert "model: already done" in capsys.readouterr().err


def test_a_bucket_gets_the_same_files(prepared, undisturbed, tmp_path, moto_place):
    output, sets = f"{moto_place.uri}/out", [f"artifacts.cache={tmp_path}/cache"]
    run_export(prepared, output, sets=sets)
    store = open_store(output, moto_place.artifacts)
    assert {file.name: store.read(file.name).data for file in store.files() if file.name != "stage.json"} == undisturbed
    run_export(prepared, output, sets=sets)  # already done


def refusal(prepared, output_dir, **values):
    """The line that the command ends with, exit status 2."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as left:
        run_export(prepared, output_dir, **values)
    assert left.value.code == 2
    (line,) = errors.getvalue().splitlines()
    return line


@pytest.fixture
def bad(config, tmp_path):
    """Files and folders that are no model, by name."""
    folder = tmp_path / "bad"
    made = load_checkpoint(config.diffusion.stage2_checkpoint, "checkpoint")
    smaller = {name: value[:1] for name, value in made["state_dict"].items()}
    (folder / "run/round-01").mkdir(parents=True)
    (folder / "run/round-01/config.yaml").write_bytes(config_bytes(config))
    save_tensors(made | {"state_dict": smaller}, folder / "smaller.pt")
    (folder / "text.pt").write_text("no model")
    return folder


REFUSED = {
    "neither place": ({"output_dir": None}, ["give either --output_dir", "or --output"]),
    "both places": ({"output": "m.safetensors"}, ["give either --output_dir", "or --output"]),
    "a form of a file": (
        {"output_dir": None, "output": "m.safetensors", "form": "imginav"},
        ["--form goes with --output_dir"],
    ),
    "no such form": ({"form": "onnx"}, ["--form", "onnx", "diffusers", "imginav"]),
    "ImgiNav's form of another network": (
        {"form": "imginav"},
        ["--form imginav holds ImgiNav's Unet, and this model is a UNet2DModel: give --form diffusers"],
    ),
    "no such file": ({"checkpoint": "{bad}/none.pt"}, ["--checkpoint", "none.pt does not exist"]),
    "no model": ({"checkpoint": "{bad}/text.pt"}, ["text.pt"]),
    "a model of another size": ({"checkpoint": "{bad}/smaller.pt"}, ["smaller.pt has another architecture"]),
    "a file without its config": ({"config": None}, ["--checkpoint", "give --config CONFIG too"]),
    "no round": ({"checkpoint": "{bad}/run", "config": None}, ["bad/run holds no finished round"]),
    "an unfinished round": ({"checkpoint": "{bad}/run/round-01", "config": None}, ["holds no finished round"]),
    "a start without a strength": ({"start": "{bad}/text.pt"}, ["--start goes with --strength"]),
    "too strong": ({"strength": 2.5}, ["--strength 2.5: it must be less than or equal to 2"]),
}


@pytest.mark.parametrize("given", REFUSED)
def test_what_cannot_be_exported_is_refused_in_one_line_and_nothing_is_written(prepared, bad, tmp_path, given):
    values, words = REFUSED[given]
    filled = {n: v.format(bad=bad) if isinstance(v, str) else v for n, v in values.items()}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    line = refusal(prepared, **{"output_dir": tmp_path / "out"} | filled)
    assert line.startswith("error: ") and all(word in line for word in words), line
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before and not Path(
        "m.safetensors"
    ).exists()


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "unet/config.json", "state/mine.pt", "stage.json"])
def test_a_folder_with_other_files_is_refused_by_name(prepared, tmp_path, name):
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert name in refusal(prepared, tmp_path / "out")
    assert content(tmp_path) == ({} if name == "stage.json" else {f"out/{name}": b"mine"}) and mine.exists()


def test_a_folder_of_another_export_is_refused_by_what_differs(prepared, config, end, tmp_path):
    run_export(prepared, tmp_path / "out", checkpoint=end, strength=0.5)
    before = content(tmp_path)
    for values, words in (
        ({"checkpoint": end, "strength": 0.6}, "strength 0.5, now it is 0.6"),
        ({"checkpoint": end}, "strength 0.5, now it is None"),
        ({"checkpoint": config.diffusion.stage2_checkpoint, "strength": 0.5}, "input diffusion "),
    ):
        said = refusal(prepared, tmp_path / "out", **values)
        assert "holds a model made with" in said and words in said
    assert content(tmp_path) == before
