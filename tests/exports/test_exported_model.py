"""The command that exports a model: its weights, crashes, finished folders, buckets, refusals."""

from pathlib import Path

import pytest
import torch

from core.checkpoints.loading import load_checkpoint, load_unet
from core.checkpoints.strength import load_unet_from
from core.config.loading import config_bytes, load_config
from core.exports import diffusers_folder, exported_model
from core.inputs.safetensors_files import load_safetensors
from core.inputs.tensor_files import save_tensors
from core.records import stage_run
from core.storage import local_store
from core.storage.opening import open_store
from core.training.prerequisites import with_prerequisites
from tasks.command_line import run_command
from tasks.export import export
from tests.in_process import content, options, refusal
from tests.processes import killed_at

pytest_plugins = ["tests.storage_servers"]


def run_export(prepared, output_dir, **values):
    """What the command prints after exporting Stage 2 of the tiny experiment, or what `values` say."""
    stage2 = with_prerequisites(load_config(prepared)).diffusion.stage2_checkpoint
    given = {"checkpoint": stage2, "config": prepared, "output_dir": output_dir}
    chosen = {name: value for name, value in (given | values).items() if value is not None}
    return run_command(export, options(**chosen))


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
    line = refusal(run_export, prepared, **{"output_dir": tmp_path / "out"} | filled)
    assert line.startswith("error: ") and all(word in line for word in words), line
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before and not Path(
        "m.safetensors"
    ).exists()


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "unet/config.json", "state/mine.pt", "stage.json"])
def test_a_folder_with_other_files_is_refused_by_name(prepared, tmp_path, name):
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert name in refusal(run_export, prepared, tmp_path / "out")
    assert content(tmp_path) == ({} if name == "stage.json" else {f"out/{name}": b"mine"}) and mine.exists()


def test_a_folder_of_another_export_is_refused_by_what_differs(prepared, config, end, tmp_path):
    run_export(prepared, tmp_path / "out", checkpoint=end, strength=0.5)
    before = content(tmp_path)
    for values, words in (
        ({"checkpoint": end, "strength": 0.6}, "strength 0.5, now it is 0.6"),
        ({"checkpoint": end}, "strength 0.5, now it is None"),
        ({"checkpoint": config.diffusion.stage2_checkpoint, "strength": 0.5}, "input diffusion "),
    ):
        said = refusal(run_export, prepared, tmp_path / "out", **values)
        assert "holds a model made with" in said and words in said
    assert content(tmp_path) == before
