"""Checkpoints that are missing, damaged or of another model, and what Stage 3 starts from."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core.config.loading import config_bytes
from tasks.command_line import run_command
from tasks.continue_stage3 import continue_stage3
from tasks.generate_bad_latents import generate_bad_latents
from tasks.retrain_discriminator import retrain_discriminator
from tests.bad_input.command_line import arguments, changed, files_below


class MakesFolder:
    """A pickle that makes a folder when it is loaded without care."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def bad_checkpoints(tmp_path: Path) -> list[tuple[Path, str]]:
    """Files that are no checkpoints, and what is said of each."""
    contents = {
        "random.pt": (torch.randint(256, (999,), dtype=torch.uint8, generator=torch.Generator()).numpy().tobytes(), ""),
        "text.pt": (b"hello world\n", "damaged or not a torch file"),
        "empty.pt": (b"", "damaged or not a torch file"),
        "tensor.pt": (torch.zeros(3), "is not a checkpoint: it does not hold state_dict and config"),
        "list.pt": ({"state_dict": [1], "config": {}}, "is not a checkpoint"),
        "config.pt": ({"state_dict": {}, "config": 3}, "is not a checkpoint"),
        "values.pt": ({"state_dict": {"unet.x": 1, "x": "y"}, "config": {}}, "is not a checkpoint"),
    }
    found = []
    for name, (value, word) in contents.items():
        path = tmp_path / name
        if isinstance(value, bytes):
            path.write_bytes(value)
        else:
            torch.save(value, path)
        found.append((path, word))
    whole = torch.save(torch.zeros(1000), tmp_path / "torn.pt") or (tmp_path / "torn.pt").read_bytes()
    (tmp_path / "torn.pt").write_bytes(whole[: len(whole) // 2])
    return [*found, (tmp_path / "torn.pt", "damaged or not a torch file")]


@pytest.mark.parametrize("what", ["autoencoder", "diffusion", "discriminator"])
def test_a_file_that_is_no_checkpoint_is_named(refused, generate, stage3, tmp_path, what):
    for path, word in bad_checkpoints(tmp_path):
        if what == "discriminator":
            command, options = continue_stage3, stage3(**{"discriminator.checkpoint": str(path)})
        else:
            command, options = generate_bad_latents, generate | {f"{what}_checkpoint": path}
        refused(command, options, f"{what} checkpoint {path} ", word)
    assert files_below(tmp_path / "out") == []


@pytest.mark.parametrize("what", ["autoencoder", "diffusion", "discriminator"])
def test_a_missing_checkpoint_is_named(refused, generate, stage3, tmp_path, what):
    missing = tmp_path / "missing.pt"
    if what != "discriminator":
        refused(generate_bad_latents, generate | {f"{what}_checkpoint": missing}, what, missing, "does not exist: give")
    key = {"diffusion": "diffusion.stage2_checkpoint"}.get(what, f"{what}.checkpoint")
    refused(continue_stage3, stage3(**{key: str(missing)}), f"{what} checkpoint {missing} does not exist: give")
    assert files_below(tmp_path / "out") == []


def test_another_architecture_names_the_first_key_that_differs(refused, generate, generated, ready, stage3, tmp_path):
    path = tmp_path / "other.yaml"
    (path).write_bytes(config_bytes(ready.with_values({"unet.base_channels": 24})))
    words = (
        generate["diffusion_checkpoint"],
        "another architecture",
        "conv_in.weight",
        "[16, 4, 3, 3]",
        "[24, 4, 3, 3]",
    )
    refused(generate_bad_latents, generate | {"diffusion_config": path}, *words, "use the config")
    refused(continue_stage3, stage3(**{"unet.base_channels": 24}), *words)
    for source, key in [
        ("autoencoder", "encoder.net.0.0.weight"),
        ("discriminator", "enter.0.weight"),
    ]:
        checkpoint = torch.load(getattr(ready, source).checkpoint, weights_only=True)
        checkpoint["state_dict"][key] = checkpoint["state_dict"][key][:1]
        other = tmp_path / f"{source}.pt"
        torch.save(checkpoint, other)
        refused(continue_stage3, stage3(**{f"{source}.checkpoint": str(other)}), other, "another architecture", key)
    other = tmp_path / "autoencoder.pt"
    options = generate | {"autoencoder_checkpoint": other}
    refused(generate_bad_latents, options, other, "another architecture", "encoder.net.0.0.weight")
    assert files_below(tmp_path / "out") == []


def test_a_checkpoint_of_another_model_is_refused(refused, generate, ready, stage3, tmp_path):
    autoencoder, unet = ready.autoencoder.checkpoint, ready.diffusion.stage2_checkpoint
    discriminator = ready.discriminator.checkpoint
    for wrong in (unet, discriminator):
        refused(
            generate_bad_latents, generate | {"autoencoder_checkpoint": wrong}, wrong, "another architecture", "use"
        )
    for wrong in (autoencoder, discriminator):
        refused(generate_bad_latents, generate | {"diffusion_checkpoint": wrong}, wrong, "conv_in.weight", "missing")
    for wrong in (autoencoder, unet):
        options = stage3(**{"discriminator.checkpoint": wrong})
        refused(continue_stage3, options, "discriminator", wrong, "retrain the discriminator")
    checkpoint = torch.load(discriminator, weights_only=True)
    checkpoint["config"]["colour"] = "red"
    torch.save(checkpoint, tmp_path / "odd.pt")
    options = stage3(**{"discriminator.checkpoint": str(tmp_path / "odd.pt")})
    refused(continue_stage3, options, "discriminator", tmp_path / "odd.pt", "colour", "retrain the discriminator")
    assert files_below(tmp_path / "out") == []


def test_sizes_that_do_not_fit_the_config_are_named(refused, generate, ready, stage3, tmp_path):
    path = tmp_path / "other.yaml"
    (path).write_bytes(config_bytes(ready.with_values({"autoencoder.downsampling_steps": 1})))
    words = ("downsampling_steps 2", "autoencoder.downsampling_steps is 1")
    refused(generate_bad_latents, generate | {"diffusion_config": path}, generate["autoencoder_checkpoint"], *words)
    checkpoint = torch.load(ready.discriminator.checkpoint, weights_only=True)
    checkpoint["config"]["latent_size"] = 16
    torch.save(checkpoint, tmp_path / "other.pt")
    options = stage3(**{"discriminator.checkpoint": str(tmp_path / "other.pt")})
    refused(continue_stage3, options, tmp_path / "other.pt", "(4, 16)", "(4, 8)", "retrain the discriminator")


def test_a_pickle_that_would_execute_something_is_refused_unexecuted(
    refused, generate, retrain, stage3, with_rows, rows, tmp_path
):
    made, path = tmp_path / "made", tmp_path / "pickle.pt"
    for content in (MakesFolder(made), {"state_dict": {}, "config": MakesFolder(made)}):
        for zipped in (True, False):
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            for name in ("autoencoder_checkpoint", "diffusion_checkpoint"):
                refused(generate_bad_latents, generate | {name: path}, path, "refused", "plain tensors")
            refused(retrain_discriminator, retrain | {"real_latents": path}, path, "refused", "plain tensors")
    manifest = with_rows(changed(rows, 0, "latent_path", str(path)))
    refused(continue_stage3, stage3(**{"dataset.manifest": str(manifest)}), "manifest row 1", path, "refused")
    for key in ("discriminator.checkpoint", "training.loss.semantic_loss.perceptual_loss.backbone"):
        refused(continue_stage3, stage3(**{key: str(path)}), path, "refused")
    assert not made.exists()
    assert files_below(tmp_path / "out") == []


@pytest.mark.parametrize(
    "key", ["discriminator.checkpoint", "diffusion.stage2_checkpoint", "autoencoder.checkpoint", "dataset.manifest"]
)
def test_stage3_names_the_config_key_of_what_is_missing(refused, stage3, tmp_path, key):
    refused(continue_stage3, stage3(**{key: None}), f"{key} is missing: set it in the config", f"--set {key}=PATH")
    assert files_below(tmp_path / "out") == []


def test_resume_with_nothing_to_resume_is_refused(refused, stage3, tmp_path, capsys):
    latest = tmp_path / "out" / "checkpoints" / "tiny_checkpoint_latest.pt"
    options = arguments(stage3())
    with pytest.raises(SystemExit) as stop:
        run_command(continue_stage3.fn, [*options, "--resume"])
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: --resume") and str(latest) in line and line.count("\n") == 1
    assert "leave the option out" in line
    assert not (tmp_path / "out").exists()


def test_going_on_from_a_checkpoint_without_optimizer_is_refused(refused, stage3, ready, tmp_path):
    best = ready.diffusion.stage2_checkpoint
    refused(continue_stage3, stage3(**{"diffusion.stage3_checkpoint": best}), best, "no optimizer_state", "_latest.pt")
    damaged = tmp_path / "latest.pt"
    checkpoint = torch.load(Path(best).with_name(Path(best).name.replace("best", "latest")), weights_only=True)
    del checkpoint["training_history"]
    torch.save(checkpoint, damaged)
    options = stage3(**{"diffusion.stage3_checkpoint": str(damaged)})
    refused(continue_stage3, options, damaged, "training_history")
    assert not list((tmp_path / "out").rglob("*checkpoint*.pt"))
