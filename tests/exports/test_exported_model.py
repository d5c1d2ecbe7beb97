"""The command that exports a model: who can load its forms, what they draw, what the folder depends on, refusals."""

import contextlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.config.loading import config_bytes, load_config
from core.data.palette import COLORS, PALETTE
from core.exports import diffusers_folder, exported_model
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
from tests.imginav_files import SIZES, write_checkpoints

pytest_plugins = ["tests.storage_servers"]

NUMERIC = Path(__file__).parents[3] / "shared" / "data" / "imginav" / "numeric"
needs_fixtures = pytest.mark.skipif(not NUMERIC.is_dir(), reason="ImgiNav's numeric fixtures are not beside the clone")
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
    (decoder,) = {type(pipeline.decoder).__module__}
    print(decoder, *pipeline.decoder.config.class_names)
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


THEIRS = """
experiment: {{name: theirs}}
dataset: {{manifest: m.csv, image_size: {size}}}
autoencoder: {{checkpoint: {autoencoder}}}
diffusion: {{stage2_checkpoint: {diffusion}}}
"""


def theirs(folder, diffusion, autoencoder, size=32):
    """Config file in `folder` of a model of ImgiNav."""
    path = folder / "theirs.yaml"
    path.write_text(THEIRS.format(diffusion=diffusion, autoencoder=autoencoder, size=size))
    return path


@pytest.fixture(scope="module")
def elsewhere(prepared, tmp_path_factory):
    """By name: config, checkpoint and folder of models that were exported and drawn with in another process."""
    root = tmp_path_factory.mktemp("elsewhere")
    configs = {"own": prepared, "v": "configs/demo.yaml"}
    for name, sizes in (("theirs", SIZES), ("theirs floor", SIZES._replace(num_classes=11, is_normalised=True))):
        (root / name).mkdir()
        configs[name] = theirs(root / name, *write_checkpoints(root / name, sizes=sizes))
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
    assert [line.split()[1:] for line in done.stdout.splitlines()] == [list(PALETTE)] * len(configs)
    return exported


@pytest.mark.parametrize("name", ["own", "v", "theirs", "theirs floor"])
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
    assert drawn["default_steps"] == (config.audit and config.audit.num_steps) or config.rounds.bad_latents.num_steps
