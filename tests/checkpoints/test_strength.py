"""Models between two checkpoints and beyond: their weights, the file they are taken away in, what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.checkpoints.loading import load_checkpoint, load_unet
from core.checkpoints.strength import load_unet_from
from core.inputs.tensor_files import save_tensors
from core.runtime.errors import InputError
from tasks.command_line import run_command
from tasks.export import export
from tasks.export_base import export_base


@pytest.fixture(scope="module")
def end(config, tmp_path_factory):
    """A checkpoint whose weights are those of Stage 2 plus 1."""
    made = load_checkpoint(config.diffusion.stage2_checkpoint, "checkpoint")
    moved = {name: value + 1 for name, value in made["state_dict"].items()}
    path = tmp_path_factory.mktemp("end") / "end.pt"
    save_tensors({"state_dict": moved, "config": made["config"]}, path)
    return path


def weights(unet):
    return torch.cat([value.flatten() for value in unet.state_dict().values()])


@settings(deadline=None, max_examples=20)
@given(strength=st.floats(0, 2))
def test_the_weights_are_start_plus_strength_times_the_way(config, end, strength):
    start = config.diffusion.stage2_checkpoint
    made = weights(load_unet_from(start, end, strength, config))
    torch.testing.assert_close(made, weights(load_unet(start, config)) + strength, rtol=0, atol=1e-5)


def test_0_is_the_start_and_1_the_end_to_the_bit(config, end):
    start = config.diffusion.stage2_checkpoint
    for strength, path in ((0.0, start), (1.0, end)):
        assert torch.equal(weights(load_unet_from(start, end, strength, config)), weights(load_unet(path, config)))


@pytest.mark.parametrize("strength", [-0.1, 2.1, float("nan"), float("inf")])
def test_a_strength_that_is_not_from_0_to_2_is_refused(config, end, strength):
    with pytest.raises(InputError, match="it must be from 0 to 2"):
        load_unet_from(end, end, strength, config)


def test_a_checkpoint_of_another_architecture_is_named(config, end, tmp_path):
    made = load_checkpoint(end, "checkpoint")
    odd = {name: value for name, value in made["state_dict"].items() if "conv_in.bias" not in name}
    save_tensors(made | {"state_dict": odd}, tmp_path / "odd.pt")
    for pair in ((end, tmp_path / "odd.pt"), (tmp_path / "odd.pt", end)):
        with pytest.raises(InputError, match=r"odd\.pt has another architecture"):
            load_unet_from(*pair, 0.5, config)


def test_an_exported_model_is_one_to_start_from(prepared, config, end, tmp_path):
    output = tmp_path / "half.safetensors"
    arguments = [str(prepared), "--checkpoint", str(end), "--strength", "0.5", "--output", str(output)]
    assert run_command(export, arguments) == str(output)
    wanted = load_unet_from(config.diffusion.stage2_checkpoint, end, 0.5, config)
    assert torch.equal(weights(load_unet(output, config)), weights(wanted))
    assert load_checkpoint(output, "checkpoint")["config"]["made_from"]["strength"] == 0.5
    with pytest.raises(InputError, match=r"half\.safetensors exists already, and nothing is overwritten"):
        export(end, prepared, output=output)


def test_a_model_without_a_strength_is_the_base_s_file(prepared, config, tmp_path):
    export_base(prepared, str(tmp_path / "base"))
    export(config.diffusion.stage2_checkpoint, prepared, output=tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "base/stage2.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "s3://bucket/model.safetensors"}, "is in a bucket"),
        ({"output": "model.pt"}, r"is not called \.safetensors"),
        ({"start": "a.pt"}, "--start goes with --strength"),
        ({"start": "a.pt", "strength": 0.5}, r"--start a\.pt does not exist"),
        (
            {"strength": 0.5, "overrides": ["artifacts.root=nowhere"]},
            "--strength needs the model to start from: give --start",
        ),
    ],
)
def test_what_makes_no_model_is_refused_before_anything_is_written(prepared, end, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        export(end, prepared, **{"output": tmp_path / "model.safetensors", **options})
    assert not list(tmp_path.iterdir())
