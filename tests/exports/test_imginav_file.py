"""A model as ImgiNav's checkpoint: its keys and shapes are those of ImgiNav's own, and it reads back as the same."""

from pathlib import Path

import pytest
import torch

from core.checkpoints.imported_models import load_experiment
from core.checkpoints.loading import load_unet
from core.config.loading import config_bytes
from core.data.palette import DEFAULT_PALETTE
from core.inputs.tensor_files import save_tensors
from core.models.diffusion import build_scheduler
from core.networks.autoencoder import conv_autoencoder
from core.runtime.errors import InputError
from tasks.export import export
from tests.imginav_files import write_checkpoints, write_config

NUMERIC = Path(__file__).parents[3] / "shared" / "data" / "imginav" / "numeric"
needs_fixtures = pytest.mark.skipif(not NUMERIC.is_dir(), reason="ImgiNav's numeric fixtures are not beside the clone")


def exported(config, checkpoint, folder, **given):
    """The file that the command wrote to `folder`, and its content."""
    export(checkpoint, config, folder, "imginav", **given)
    path = folder / "theirs_checkpoint_best.pt"
    assert {found.name for found in folder.iterdir()} == {path.name, "README.md", "stage.json"}
    return path, torch.load(path, weights_only=True)


def shapes(checkpoint):
    return {name: (value.shape, value.dtype) for name, value in checkpoint["state_dict"].items()}


@needs_fixtures
@pytest.mark.parametrize(("name", "size"), [("narrow_d4", 256), ("narrow_d5_rb3", 512)])
def test_a_file_of_imginav_comes_out_as_it_went_in(tmp_path, name, size):
    diffusion = NUMERIC / f"diffusion_{name}_checkpoint_best.pt"
    autoencoder = NUMERIC / "ae_narrow_checkpoint_best.pt"
    config = write_config(tmp_path / "none", autoencoder, size)
    config.write_text(config.read_text().replace(str(tmp_path / "none"), str(diffusion)))
    _, made = exported(config, diffusion, tmp_path / "out")
    given = torch.load(diffusion, weights_only=True)
    assert shapes(made) == shapes(given)
    assert all(torch.equal(value, given["state_dict"][key]) for key, value in made["state_dict"].items())
    assert made["config"] == given["config"]


def test_a_model_that_was_trained_here_reads_back_as_the_same(tmp_path):
    """The weights are the moving average, the decoder's names those of the autoencoder's file, whatever its heads."""

    def rename_heads(checkpoint):
        state = checkpoint["state_dict"]
        for key in [key for key in state if ".heads.rgb." in key]:
            state[key.replace(".heads.rgb.", ".heads.picture.")] = state.pop(key)
        checkpoint["config"]["decoder"]["heads"][0]["name"] = "picture"

    diffusion, autoencoder = write_checkpoints(tmp_path, rename_heads, rename_heads)
    path = write_config(diffusion, autoencoder)
    config = load_experiment(path)
    weights = {key: value for key, value in torch.load(diffusion)["state_dict"].items() if key.startswith("unet.")}
    averaged = {f"unet_ema{key[4:]}": value + 1 for key, value in weights.items()}
    save_tensors({"state_dict": weights | averaged, "config": config.fingerprint()}, tmp_path / "ours.pt")
    file, made = exported(path, tmp_path / "ours.pt", tmp_path / "out")
    assert shapes(made) == shapes(torch.load(diffusion))
    assert made["config"]["unet"]["type"] == "Unet" and made["config"]["decoder"]["heads"][0]["name"] == "picture"
    read = load_experiment(write_config(file, autoencoder))
    assert (read.unet, read.scheduler) == (config.unet, config.scheduler)
    assert torch.equal(build_scheduler(read.scheduler).alphas_cumprod, build_scheduler(config.scheduler).alphas_cumprod)
    ours, theirs = load_unet(tmp_path / "ours.pt", config), load_unet(file, read)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


def test_a_strength_between_two_of_their_files(tmp_path):
    diffusion, autoencoder = write_checkpoints(tmp_path)
    start = diffusion.rename(tmp_path / "start.pt")
    write_checkpoints(tmp_path, lambda made: made["state_dict"]["unet.final.bias"].add_(1))
    path = write_config(diffusion, autoencoder)
    _, made = exported(path, diffusion, tmp_path / "out", start=start, strength=0.5)
    assert torch.allclose(
        made["state_dict"]["unet.final.bias"], torch.load(start)["state_dict"]["unet.final.bias"] + 0.5
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("scheduler.prediction_type=v_prediction", "holds a model that predicts epsilon, and this one predicts v_pred"),
        ("autoencoder.checkpoint={own}", r"holds the decoder too, and that of autoencoder .*own\.pt is not ImgiNav's"),
    ],
)
def test_what_imginav_cannot_hold_is_refused(tmp_path, setting, message):
    diffusion, autoencoder = write_checkpoints(tmp_path)
    path = write_config(diffusion, autoencoder)
    config, own = load_experiment(path), tmp_path / "own.pt"
    save_tensors(
        {"state_dict": conv_autoencoder(3, 4, 2, 8, DEFAULT_PALETTE).state_dict(), "config": {"latent_channels": 3}},
        own,
    )
    trained = tmp_path / "trained.yaml"  # as the config of a round of such a model
    trained.write_bytes(config_bytes(config.with_values({"diffusion.stage2_checkpoint": None})))
    weights = {f"unet.{key}": value for key, value in load_unet(diffusion, config).state_dict().items()}
    save_tensors({"state_dict": weights, "config": {"dataset": {}}}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=f"^--form imginav {message}.*: give --form diffusers$"):
        export(tmp_path / "model.pt", trained, tmp_path / "out", "imginav", overrides=[setting.format(own=own)])
    assert not (tmp_path / "out").exists()


def test_a_file_of_this_project_keeps_the_schedule_that_the_checkpoint_held(tmp_path):
    diffusion, autoencoder = write_checkpoints(tmp_path)
    path = write_config(diffusion, autoencoder)
    export(diffusion, path, output=tmp_path / "ours.safetensors")
    config = load_experiment(path)
    weights = torch.load(diffusion)["state_dict"]
    assert torch.equal(load_unet(tmp_path / "ours.safetensors", config).final.weight, weights["unet.final.weight"])
    cosine = config.with_values({"scheduler.trained_betas": None})
    with pytest.raises(InputError, match=r"was trained with scheduler\.trained_betas a list, the config's is None"):
        load_unet(tmp_path / "ours.safetensors", cosine)
