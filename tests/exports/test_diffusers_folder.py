"""A model as a pipeline of diffusers: whoever has diffusers and torch draws with it what this project draws."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, UNet2DModel

from core.checkpoints.imported_models import load_experiment
from core.checkpoints.loading import load_autoencoder, load_unet
from core.config.loading import config_bytes
from core.data.palette import DEFAULT_PALETTE
from core.inputs.tensor_files import save_tensors
from core.models.pictures import decode_classes
from core.models.sampling import sample_latents
from core.runtime.seeding import sample_noise
from core.training.prerequisites import with_prerequisites
from tasks.export import export
from tests.imginav_files import SIZES, write_checkpoints, write_config

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
    print(*pipeline.config.class_names)
"""


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
    assert [line.split() for line in done.stdout.splitlines()] == [list(DEFAULT_PALETTE.names)] * len(configs)
    return exported


@pytest.mark.parametrize("name", ["own", "v", "theirs", "theirs floor", "pictures", "kl"])
def test_the_pipeline_draws_what_this_project_draws(elsewhere, name):
    config, checkpoint, folder = elsewhere[name]
    drawn = np.load(folder / "drawn.npz")
    expected = sample_latents(load_unet(checkpoint, config), config, SEEDS, STEPS, 8, "test").numpy()
    assert np.abs(drawn["latents"] - expected).max() <= 1e-4
    decoder = load_autoencoder(config.autoencoder.checkpoint, config).decoder
    assert np.array_equal(drawn["classes"], decode_classes(torch.from_numpy(drawn["latents"]), decoder))
    assert np.array_equal(drawn["images"], DEFAULT_PALETTE.rgb[drawn["classes"]]) and drawn["images"].dtype == np.uint8
    for values in (drawn["seeded"], drawn["noisy"]):
        assert values.shape == (2, 2, *config.latent_shape) and np.array_equal(*values) and values.std() > 0.1
    # As many as audits take, and not more than the schedule has.
    assert drawn["default_steps"] == {"own": 5, "v": 25, "pictures": 50, "kl": 50}.get(name, 40)


@pytest.mark.parametrize("name", ["pictures", "kl"])
def test_a_folder_of_parts_of_diffusers_is_a_model_to_start_from(elsewhere, name, tmp_path):
    config, checkpoint, folder = elsewhere[name]
    read = load_experiment(write_config(folder / "model", folder / "model"), ["training.use_amp=false"])
    drawn = sample_latents(load_unet(folder / "model", read), read, SEEDS, STEPS, 8, "test")
    assert torch.equal(drawn, sample_latents(load_unet(checkpoint, config), config, SEEDS, STEPS, 8, "test"))
    ours, theirs = (load_autoencoder(each.autoencoder.checkpoint, each).decoder for each in (read, config))
    assert torch.equal(ours(drawn).logits, theirs(drawn).logits)


def test_weights_are_safetensors_only_and_no_file_needs_this_project(elsewhere):
    for name, (_, _, folder) in elsewhere.items():
        names = {
            path.relative_to(folder / "model").as_posix() for path in (folder / "model").rglob("*") if path.is_file()
        }
        parts = {"pictures": ["unet"], "kl": ["unet", "vae"]}.get(name, ["unet", "decoder"])
        weights = {f"{part}/diffusion_pytorch_model.safetensors" for part in parts}
        assert {name for name in names if Path(name).suffix not in (".py", ".json", ".md")} == weights
        for path in (folder / "model").rglob("*.py"):
            text = path.read_text()
            assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n") and "core" not in text
        listed = set(json.loads((folder / "model/stage.json").read_text())["outputs"])
        assert listed == names - {"stage.json"} and "README.md" in listed
