"""A folder that `tasks.export` or diffusers wrote is a model like any other: drawn with, exported again, trained on."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, UNet2DModel

from core import load_model
from core.checkpoints.imported_models import load_experiment
from core.checkpoints.loading import load_autoencoder, load_unet
from core.config.loading import config_bytes
from core.data.palette import DEFAULT_PALETTE
from core.inputs.safetensors_files import load_safetensors
from core.reports.config_check import check_config
from core.rounds.model_source import find_model
from core.runtime.errors import InputError
from core.training.prerequisites import with_prerequisites
from tasks.audit import audit_now
from tasks.command_line import run_command
from tasks.export import export
from tasks.sample import sample
from tests.exports.test_diffusers_folder import of_diffusers
from tests.hub_cache import put_into_cache
from tests.imginav_files import SIZES, write_checkpoints, write_config
from tests.in_process import options

pytest_plugins = ["tests.storage_servers"]

KINDS = ["own", "v", "theirs", "theirs floor", "pictures", "kl"]
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def exported(prepared, tmp_path_factory):
    """By kind: config file and checkpoint of a model, and the folder that it was exported to."""
    root = tmp_path_factory.mktemp("exported")
    made = {}
    for kind in KINDS:
        folder = root / kind
        folder.mkdir()
        match kind:
            case "own":
                path = prepared
            case "v":
                path = "configs/demo.yaml"
            case "theirs":
                path = write_config(*write_checkpoints(folder))
            case "theirs floor":
                path = write_config(
                    *write_checkpoints(folder, sizes=SIZES._replace(num_classes=11, is_normalised=True))
                )
            case _:
                path = of_diffusers(folder, with_autoencoder=kind == "kl")
        checkpoint = with_prerequisites(load_experiment(path)).diffusion.stage2_checkpoint
        export(checkpoint, path, folder / "model")
        made[kind] = path, checkpoint, folder / "model"
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_draws_what_its_checkpoint_draws(exported, kind):
    path, checkpoint, folder = exported[kind]
    ours, again = load_model(checkpoint, path), load_model(folder)
    for sampler in ("ddim", "dpm_solver"):
        drawn = [model.sample(3, seed=1, num_steps=4, sampler=sampler).class_maps for model in (ours, again)]
        assert np.array_equal(*drawn) and len(np.unique(drawn[0])) > 1
    assert again.config.latent_shape == ours.config.latent_shape
    index = json.loads((folder / "model_index.json").read_text())
    assert again.config.rounds.bad_latents.num_steps == index["default_steps"]


@pytest.mark.parametrize("kind", KINDS)
def test_exported_again_it_is_the_same_model(exported, kind, tmp_path):
    _, _, folder = exported[kind]
    export(folder, output_dir=tmp_path / "again")
    parts = {"kl": ["unet", "vae"], "pictures": ["unet"]}.get(kind, ["unet", "decoder"])
    assert sorted(path.parent.name for path in (tmp_path / "again").rglob(WEIGHTS)) == sorted(parts)
    for part in parts:
        first, second = (
            load_safetensors(place / part / WEIGHTS, "weights").tensors for place in (folder, tmp_path / "again")
        )
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
        settings = [json.loads((place / part / "config.json").read_text()) for place in (folder, tmp_path / "again")]
        assert settings[0] == settings[1]
    schedules = [load_model(place).config.scheduler for place in (folder, tmp_path / "again")]
    assert schedules[0] == schedules[1]


def test_the_command_draws_from_it_without_a_config_and_with_one(exported, tmp_path):
    path, checkpoint, folder = exported["own"]
    given = {"num_samples": 3, "seed": 2, "num_steps": 2}
    run_command(sample, options(checkpoint=folder, output_dir=tmp_path / "alone", **given))
    sample(checkpoint, tmp_path / "checkpoint", 3, 2, path, num_steps=2)
    for name in ("layouts/00000.png", "layouts/00002.png", "manifest.csv"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "checkpoint" / name).read_bytes()
    (tmp_path / "small.yaml").write_text("experiment: {name: small}\ndataset: {image_size: 16}\n")
    small = load_model(folder, tmp_path / "small.yaml").sample(2, seed=1, num_steps=2)
    assert small.class_maps.shape == (2, 16, 16)
    assert (
        load_model(folder, overrides=["dataset.image_size=16"]).sample(1, seed=1, num_steps=1).pictures.shape[1] == 16
    )


def test_a_pipeline_in_a_bucket_and_one_on_the_hub_draw(exported, moto_place, tmp_path, monkeypatch):
    _, _, folder = exported["own"]
    here = load_model(folder).sample(2, seed=1, num_steps=2).class_maps
    for path in (path for path in folder.rglob("*") if path.is_file()):
        moto_place.overwrite(f"rooms/{path.relative_to(folder)}", path.read_bytes())
    cache = [f"artifacts.cache={tmp_path / 'downloads'}"]
    there = load_model(f"{moto_place.uri}/rooms", overrides=cache)
    assert np.array_equal(there.sample(2, seed=1, num_steps=2).class_maps, here)
    monkeypatch.chdir(tmp_path)
    put_into_cache(monkeypatch, tmp_path / "cache", folder)
    assert np.array_equal(load_model("someone/rooms").sample(2, seed=1, num_steps=2).class_maps, here)
    with pytest.raises(InputError, match=r"^someone/flats is no folder of this machine, and the Hugging Face hub did"):
        load_model("someone/flats")


def test_an_audit_takes_the_folder(exported, tmp_path):
    path, checkpoint, folder = exported["own"]
    audited = ["audit={pass_share: 0.5, num_steps: 2}"]
    whole = with_prerequisites(load_experiment(path))
    named = [*audited, f"dataset.manifest={whole.dataset.manifest}"]
    (tmp_path / "theirs.yaml").write_text("experiment: {name: theirs}\ndataset: {image_size: 32}\n")
    with pytest.raises(InputError, match="is a decoder alone, which draws but cannot encode layouts"):
        audit_now(tmp_path / "theirs.yaml", folder, num_samples=10, overrides=named)
    by_folder = audit_now(path, folder, num_samples=10, overrides=audited)
    assert by_folder == audit_now(path, checkpoint, num_samples=10, overrides=audited)


def test_a_run_needs_the_encoder_that_an_exported_decoder_lacks(exported, tmp_path, manifest):
    path, _, folder = exported["own"]
    theirs = tmp_path / "theirs.yaml"
    theirs.write_text(
        f"experiment: {{name: theirs}}\ndataset: {{manifest: {manifest}, image_size: 32}}\ntraining: {{device: cpu}}\n"
        f"diffusion: {{stage1_checkpoint: {folder}, stage2_checkpoint: {folder}}}\n"
        f"artifacts: {{root: {tmp_path / 'artifacts'}}}\n"
    )
    (line,) = check_config(theirs).faults.lines
    assert line.startswith(f"{folder}/decoder is a decoder alone") and "set autoencoder.checkpoint to" in line
    autoencoder = with_prerequisites(load_experiment(path)).autoencoder.checkpoint
    sizes = "autoencoder={latent_channels: 4, downsampling_steps: 2, checkpoint: %s}"
    assert check_config(theirs, [sizes % autoencoder]).faults.lines == []


def test_a_whole_autoencoder_of_diffusers_is_read_back_with_its_encoder(exported):
    path, _, folder = exported["kl"]
    model, config = load_model(folder), load_experiment(path)
    rgb = torch.rand(2, 3, 32, 32) * 2 - 1
    ours, again = (load_autoencoder(place, config) for place in (config.autoencoder.checkpoint, folder))
    assert torch.equal(ours.encode(rgb), again.encode(rgb)) and model.config.dataset.image_size == 32


@pytest.mark.parametrize("kind", ["own", "theirs"])
def test_the_config_that_it_was_made_with_starts_from_it_too(exported, kind, manifest, tmp_path):
    path, checkpoint, folder = exported[kind]
    named = [f"diffusion={{stage1_checkpoint: {folder}, stage2_checkpoint: {folder}}}", "training.device=cpu"]
    if kind == "theirs":
        named += [
            f"dataset.manifest={manifest}",
            "rounds.bad_latents.num_steps=9",
            "discriminator.trajectories.num_steps=9",
        ]
    assert check_config(path, named).faults.lines == []
    config = with_prerequisites(load_experiment(path, named))
    assert config.unet == load_experiment(path).unet and config.scheduler == load_experiment(path).scheduler
    (tmp_path / "round.yaml").write_bytes(config_bytes(config))  # as each round keeps its own
    assert load_experiment(tmp_path / "round.yaml") == config
    ours, again = load_unet(checkpoint, load_experiment(path)).state_dict(), load_unet(folder, config).state_dict()
    assert ours.keys() == again.keys() and all(torch.equal(value, again[name]) for name, value in ours.items())
    sizes = "unet.base_channels=8" if kind == "own" else "unet.base_channels=4"
    with pytest.raises(InputError, match="base_channels"):
        load_experiment(path, [*named, sizes])


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def cut(path):
    path.write_bytes(path.read_bytes()[:900])


REFUSED = {
    "other colours": (
        lambda f: edit(f / "model_index.json", colours=[[0, 0, 0]] * len(DEFAULT_PALETTE)),
        "draws other classes or colours than the palette has",
    ),
    "other classes": (lambda f: edit(f / "model_index.json", class_names=["a"]), "draws other classes or colours"),
    "a size that is none": (
        lambda f: edit(f / "decoder/config.json", base_channels="many"),
        "decoder is no decoder: its config's base_channels is 'many'",
    ),
    "other sizes": (lambda f: edit(f / "decoder/config.json", base_channels=16), "has another architecture"),
    "a cut file": (lambda f: cut(f / "decoder" / WEIGHTS), "is a damaged safetensors file"),
    "no size of layouts": (lambda f: edit(f / "unet/config.json", sample_size=None), "does not say how large its"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_folder_that_cannot_be_drawn_with_is_one_line(exported, tmp_path, what):
    change, line = REFUSED[what]
    shutil.copytree(exported["own"][2], tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises(InputError, match=line) as refused:
        load_model(tmp_path / "model")
    assert str(tmp_path / "model") in str(refused.value)


def test_a_pipeline_of_latents_that_holds_its_autoencoder_draws(tmp_path):
    torch.manual_seed(2)
    sizes = {"block_out_channels": (4, 8), "norm_num_groups": 2}
    unet = UNet2DModel(
        **{"sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, **sizes},
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    DDPMPipeline(unet, DDPMScheduler(50)).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="holds no autoencoder, and its model is not of RGB pictures"):
        load_model(tmp_path / "model")
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    AutoencoderKL(**kinds, **sizes).save_pretrained(tmp_path / "model" / "vae")
    edit(tmp_path / "model/model_index.json", vae=["diffusers", "AutoencoderKL"])
    named = find_model(tmp_path / "model")
    assert named.config.dataset.image_size == 16 and named.config.rounds.bad_latents.num_steps == 50
    assert load_model(tmp_path / "model").sample(2, seed=1, num_steps=2).class_maps.shape == (2, 16, 16)
