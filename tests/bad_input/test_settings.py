"""Configs and options that a user can get wrong."""

import pytest

from core.config.loading import load_config
from core.runtime.errors import InputError
from tasks.continue_stage3 import continue_stage3
from tasks.generate_bad_latents import generate_bad_latents
from tasks.retrain_discriminator import retrain_discriminator
from tests.bad_input.command_line import files_below, run


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("unet: {", "unett: {a: 1}\nunet: {", ("unknown key unett", "did you mean unet?")),
        ("dropout: 0.1", "dropuot: 0.1", ("unknown key unet.dropuot", "did you mean unet.dropout?")),
        ("backbone:", "bakcbone:", ("did you mean training.loss.semantic_loss.perceptual_loss.backbone?",)),
        ("dropout: 0.1", "dropout: much", ("unet.dropout", "number", "'much'")),
        ("depth: 2", "depth: 2.5", ("unet.depth", "integer", "2.5")),
        ("depth: 2", "depth: [2]", ("unet.depth", "integer", "[2]")),
        ("scheduler: {num_steps: 100}", "scheduler: 100", ("scheduler", "100")),
        (
            "discriminator: {traj",
            "discriminator: {weight: -0.5, traj",
            ("discriminator.weight", "than or equal to 0", "-0.5"),
        ),
        ("learning_rate: 1.0e-4, eval", "learning_rate: 0, eval", ("training.learning_rate", "greater than 0")),
        ("experiment: {name: tiny}", "experiment: {}", ("experiment.name is missing: set it",)),
        ("depth: 2", "1: 2", ("unet", "1")),
        ("depth: 2", "depth: 9", ("unet.depth 9", "halves a 8x8 latent too often")),
        ("base_channels: 16", "base_channels: 20", ("base_channels 20", "multiple of norm_groups 8")),
        ("{manifest:", "{manifest: [", ("not valid YAML", "line", "correct the file")),
    ],
)
def test_a_config_mistake_names_the_key_and_what_would_be_right(prepared, tmp_path, old, new, words):
    text = prepared.read_text()
    assert old in text
    path = tmp_path / "config.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        load_config(path)
    line = str(error.value)
    assert line.startswith(f"config {path}") and "\n" not in line
    for word in words:
        assert word in line


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xfe\x00\x80"])
def test_a_file_that_is_no_config_is_named(refused, generate, tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    refused(generate_bad_latents, generate | {"diffusion_config": path}, f"config {path} ")
    refused(continue_stage3, {"config": path}, f"config {path} ")
    assert files_below(tmp_path / "out") == []


def test_a_missing_config_is_named(refused, generate, tmp_path):
    for missing, cause in ((tmp_path / "nowhere.yaml", "does not exist"), (tmp_path, "is a folder")):
        for command, options in [
            (generate_bad_latents, generate | {"diffusion_config": missing}),
            (continue_stage3, {"config": missing}),
        ]:
            refused(command, options, f"config {missing} {cause}", "give the path of ")


@pytest.mark.parametrize(
    "override, words",
    [
        ("training.epoch=3", ("unknown key training.epoch;", "did you mean training.epochs?")),
        ("trainin.epochs=3", ("unknown key trainin", "did you mean training?")),
        ("training.epochs=many", ("training.epochs", "integer", "'many'")),
        ("discriminator.weight=-1", ("discriminator.weight", "greater than or equal to 0", "-1")),
        ("training.epochs", ("--set training.epochs: write it as key.path=value",)),
        ("=3", ("--set =3: write it as key.path=value",)),
        ("training.epochs=[3", ("--set training.epochs=[3", "not valid YAML")),
        ("training.epochs.more=3", ("--set training.epochs.more", "epochs is a value, not a section")),
        ("training=3", ("training", "3")),
    ],
)
def test_a_wrong_override_is_named(refused, stage3, tmp_path, override, words):
    refused(continue_stage3, stage3() | {"set": [override]}, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name, value", [("num_samples", 0), ("num_steps", 0), ("num_steps", 101), ("batch_size", -1)])
def test_generate_refuses_numbers_that_make_no_sense(refused, generate, tmp_path, name, value):
    refused(generate_bad_latents, generate | {name: value}, f"--{name} {value}", "must be")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, value", [("epochs", 0), ("batch_size", 0), ("learning_rate", -1.0), ("learning_rate", "nan")]
)
def test_retrain_refuses_numbers_that_make_no_sense(refused, retrain, tmp_path, name, value):
    refused(retrain_discriminator, retrain | {name: value}, f"--{name} {value}", "must be")
    assert not (tmp_path / "out").exists()


def test_an_unknown_device_is_named(refused, generate, retrain, tmp_path):
    for device in ("gpu", "meta"):
        refused(generate_bad_latents, generate | {"device": device}, f"device {device}", "use auto, cpu or cuda")
        refused(retrain_discriminator, retrain | {"device": device}, f"device {device}", "use auto, cpu or cuda")
    assert files_below(tmp_path / "out") == []


def test_more_samples_than_originals_are_a_warning_and_all_are_used(generate, manifest, capsys):
    made = run(generate_bad_latents, generate | {"num_samples": 20})
    assert made["metrics"]["real_latents"] == 12 and made["metrics"]["bad_latents"] == 20
    assert len(list((generate["output_dir"] / "real_latents").glob("*.pt"))) == 12
    warning = capsys.readouterr().err.splitlines()[0]
    assert "num_samples 20 is above the 12 original layouts" in warning and str(manifest) in warning
