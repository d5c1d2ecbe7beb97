"""What a user can get wrong ends in one line that says what to mend, and leaves nothing half-written."""

import contextlib
import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from prefect import Task
from torch.optim import Adam

from core.config.experiment import ExperimentConfig
from core.config.loading import config_bytes, load_config
from core.runtime.errors import InputError
from tasks.command_line import run_command
from tasks.continue_stage3 import continue_stage3
from tasks.generate_bad_latents import generate_bad_latents
from tasks.retrain_discriminator import retrain_discriminator

Options = dict[str, Any]
Refused = Callable[..., str]


class MakesFolder:
    """A pickle that makes a folder when it is loaded without care."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def arguments(options: Options) -> list[str]:
    """Command line of `options`; `config` is positional, a list is an option given several times."""
    line = [str(options["config"])] if "config" in options else []
    for name, value in options.items():
        if name != "config":
            values = value if isinstance(value, list) else [value]
            line += [part for one in values for part in (f"--{name}", str(one))]
    return line


def run(command: Task, options: Options) -> dict[str, Any]:
    return run_command(command.fn, arguments(options))


@pytest.fixture
def refused(capsys) -> Refused:
    """Runs a command that must exit with 2 and, last on stderr, one error line with all of the given words."""

    def check(command: Task, options: Options, *words: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run(command, options)
        assert stop.value.code == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        lines = printed.err.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], printed.err
        assert "Traceback" not in printed.err
        for word in words:
            assert str(word) in lines[-1]
        return lines[-1]

    return check


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def states(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Modification time and content of every file."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files_below(folder)}


def all_finite(checkpoint: Path) -> bool:
    weights = torch.load(checkpoint, weights_only=True)["state_dict"].values()
    return all(value.isfinite().all() for value in weights)


@pytest.fixture(scope="module")
def generated(tmp_path_factory, prepared, config) -> Options:
    """Options of a generate-bad-latents that was run; do not write to its folder."""
    options = {
        "manifest": config.dataset.manifest,
        "autoencoder_checkpoint": config.autoencoder.checkpoint,
        "diffusion_checkpoint": config.diffusion.stage2_checkpoint,
        "diffusion_config": prepared,
        "output_dir": tmp_path_factory.mktemp("generated") / "latents",
        "num_samples": 6,
        "num_steps": 2,
        "device": "cpu",
    }
    run(generate_bad_latents, options)
    return options


@pytest.fixture
def generate(generated, manifest, tmp_path) -> Options:
    """Options of a generate-bad-latents that reads all twelve originals, into a folder that is not there yet."""
    return generated | {"manifest": manifest, "num_samples": 12, "output_dir": tmp_path / "out"}


@pytest.fixture(scope="module")
def retrained(tmp_path_factory, generated) -> Options:
    """Options of a retrain-discriminator that was run; do not write to its folder."""
    options = {
        "real_latents": generated["output_dir"] / "real_latents_all.pt",
        "fake_latents": generated["output_dir"] / "bad_latents_all.pt",
        "output_dir": tmp_path_factory.mktemp("retrained") / "discriminator",
        "epochs": 1,
        "batch_size": 4,
        "device": "cpu",
    }
    run(retrain_discriminator, options)
    return options


@pytest.fixture
def retrain(retrained, tmp_path) -> Options:
    return retrained | {"output_dir": tmp_path / "out"}


@pytest.fixture(scope="module")
def rows(config) -> pd.DataFrame:
    """The encoded manifest, its paths absolute."""
    rows = pd.read_csv(config.dataset.manifest)
    folder = Path(config.dataset.manifest).parent
    for column in ("layout_path", "latent_path"):
        rows[column] = [str(folder / path) for path in rows[column]]
    return rows


@pytest.fixture(scope="module")
def ready(config, retrained) -> ExperimentConfig:
    """A Stage 3 config that names everything, so that it finds nothing under its root."""
    return config.with_values(
        {
            "discriminator.checkpoint": str(retrained["output_dir"] / "discriminator_best.pt"),
            "discriminator.trajectories.num_samples": 2,
            "rounds.bad_latents.num_steps": 2,
            "rounds.viability_samples": 2,
            "training.epochs": 1,
            "prerequisites": None,
            "artifacts.root": "/nonexistent",
        }
    )


@pytest.fixture
def stage3(ready, tmp_path) -> Callable[..., Options]:
    """Options of a continue-stage-3 with `values` at dotted keys, into a folder that is not there yet."""

    def options(**values: Any) -> Options:
        values = {"experiment.save_path": str(tmp_path / "out")} | values
        (tmp_path / "stage3.yaml").write_bytes(config_bytes(ready.with_values(values)))
        return {"config": tmp_path / "stage3.yaml"}

    return options


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ready) -> tuple[Path, Options]:
    """Folder and metrics of a continue-stage-3 that was run for one epoch; do not write there."""
    folder = tmp_path_factory.mktemp("finished")
    config = ready.with_values({"experiment.save_path": str(folder / "out")})
    (folder / "stage3.yaml").write_bytes(config_bytes(config))
    return folder / "out", run(continue_stage3, {"config": folder / "stage3.yaml"})["metrics"]


@pytest.fixture
def with_rows(tmp_path) -> Callable[[pd.DataFrame], Path]:
    def write(rows: pd.DataFrame) -> Path:
        rows.to_csv(tmp_path / "manifest.csv", index=False)
        return tmp_path / "manifest.csv"

    return write


def changed(rows: pd.DataFrame, position: int, column: str, value: Any) -> pd.DataFrame:
    rows = rows.copy()
    rows.loc[position, column] = value
    return rows


# Manifests


def test_a_missing_manifest_is_named(refused, generate, stage3, tmp_path):
    missing = tmp_path / "nowhere.csv"
    refused(generate_bad_latents, generate | {"manifest": missing}, "manifest", f"{missing} does not exist: give")
    refused(
        continue_stage3, stage3(**{"dataset.manifest": str(missing)}), missing, "does not exist", "dataset.manifest"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "is empty: it needs a header"),
        ("layout_path,latent_path,is_empty\n", "has no rows: it needs at least one layout"),
        ("a,b\n\x00\x01\x02\n\x03", "holds a NUL character in line 2"),
        ('a,b\n"1,2\n3,4,5,6\n', "is not a readable CSV file"),
    ],
    ids=["0 bytes", "header only", "binary", "torn quotes"],
)
def test_an_empty_or_unreadable_manifest_is_refused(refused, generate, stage3, tmp_path, content, words):
    path = tmp_path / "manifest.csv"
    path.write_text(content)
    refused(generate_bad_latents, generate | {"manifest": path}, f"manifest {path} {words}")
    refused(continue_stage3, stage3(**{"dataset.manifest": str(path)}), f"manifest {path} {words}")
    assert files_below(tmp_path / "out") == []


def test_a_manifest_without_a_needed_column_says_which_and_what_is_there(
    refused, generate, stage3, with_rows, rows, tmp_path
):
    path = with_rows(rows[["latent_path", "is_empty", "room_id"]])
    there = "it has latent_path, is_empty, room_id"
    refused(
        generate_bad_latents, generate | {"manifest": path}, path, "no column layout_path", there, "dataset.outputs"
    )
    path = with_rows(rows[["layout_path", "is_empty"]])
    options = stage3(**{"dataset.manifest": str(path)})
    refused(continue_stage3, options, path, "no column latent_path", "layout_path, is_empty", "dataset.outputs")
    assert files_below(tmp_path / "out") == []


def test_filters_that_leave_no_row_are_named(refused, generate, stage3, with_rows, rows, tmp_path):
    path = with_rows(rows.assign(is_empty=True))
    words = (path, "no row is left", "dataset.filters", "is_empty", "relax the filters")
    refused(generate_bad_latents, generate | {"manifest": path}, *words)
    refused(continue_stage3, stage3(**{"dataset.manifest": str(path)}), *words)


def test_a_filter_that_cannot_be_compared_names_the_column(refused, stage3, with_rows, rows):
    path = with_rows(rows.assign(area=1.5))
    values = {"dataset.manifest": str(path), "dataset.filters": {"area__lt": "large"}}
    refused(continue_stage3, stage3(**values), path, "dataset.filters", "area__lt", "large")
    values["dataset.filters"] = {"colour": ["red"]}
    refused(continue_stage3, stage3(**values), path, "no column colour to filter on")


def test_a_missing_or_corrupt_picture_names_its_row_and_path(refused, generate, manifest, with_rows, tmp_path):
    rows = pd.read_csv(manifest)
    rows["layout_path"] = [str(manifest.parent / path) for path in rows["layout_path"]]
    picture = tmp_path / "picture.png"
    options = generate | {"manifest": with_rows(changed(rows, 4, "layout_path", str(picture)))}
    refused(generate_bad_latents, options, "manifest row 5", picture, "does not exist", "correct the manifest")
    whole = Path(rows["layout_path"][4]).read_bytes()
    for content in (b"", b"no picture", whole[: len(whole) // 2]):
        picture.write_bytes(content)
        refused(generate_bad_latents, options, "manifest row 5", picture, "cannot be read", "replace the file")
    Image.new("1", (40000, 8)).save(picture)
    refused(generate_bad_latents, options, "manifest row 5", picture, "40000x8", "replace the file")
    assert files_below(tmp_path / "out") == []


def test_stage3_names_a_missing_picture_before_it_starts_and_a_corrupt_one_when_it_is_read(
    refused, stage3, with_rows, rows, tmp_path
):
    picture = tmp_path / "picture.png"
    options = stage3(**{"dataset.manifest": str(with_rows(changed(rows, 7, "layout_path", str(picture))))})
    refused(continue_stage3, options, "manifest row 8", picture, "does not exist")
    assert files_below(tmp_path / "out") == []
    picture.write_bytes(b"no picture")
    with_rows(rows.assign(layout_path=str(picture), original_path=rows["layout_path"]))
    refused(continue_stage3, options, "manifest row", picture, "cannot be read")
    assert not list((tmp_path / "out").rglob("*checkpoint*.pt"))


# Latents


@pytest.mark.parametrize(
    "value, words",
    [
        (None, ("does not exist: give",)),
        (b"", ("damaged or not a torch file",)),
        (b"hello world\n", ("damaged or not a torch file",)),
        (torch.zeros(4, 8, 9), ("shape [4, 8, 9]", "takes [4, 8, 8]", "autoencoder")),
        (torch.zeros(2, 4, 8, 8), ("shape [2, 4, 8, 8]", "takes [4, 8, 8]")),
        (torch.full((4, 8, 8), torch.nan), ("not finite", "encode the layouts")),
        ({"latent": torch.zeros(4, 8, 8)}, ("holds a dict", "encode the layouts")),
    ],
    ids=["missing", "empty", "text", "other shape", "two in one", "nan", "dict"],
)
def test_stage3_names_the_row_and_path_of_a_bad_latent(refused, stage3, with_rows, rows, tmp_path, value, words):
    latent = tmp_path / "latent.pt"
    if isinstance(value, bytes):
        latent.write_bytes(value)
    elif value is not None:
        torch.save(value, latent)
    manifest = with_rows(changed(rows, 10, "latent_path", str(latent)))
    refused(continue_stage3, stage3(**{"dataset.manifest": str(manifest)}), "manifest row 11", latent, *words)
    assert files_below(tmp_path / "out") == []


@pytest.mark.parametrize("axis", [[], [None]], ids=["three dimensions", "a leading one"])
def test_latents_in_single_files_are_the_same_latents(stage3, finished, with_rows, rows, tmp_path, axis):
    paths = [str(tmp_path / f"{row}.pt") for row in range(len(rows))]
    for path, latent in zip(paths, torch.from_numpy(np.load(rows["latent_path"][0])), strict=True):
        torch.save(latent[(*axis, ...)], path)
    manifest = with_rows(rows.drop(columns="latent_row").assign(latent_path=paths))
    _, metrics = finished
    assert run(continue_stage3, stage3(**{"dataset.manifest": str(manifest)}))["metrics"] == metrics


def packed(path: Path, latents: np.ndarray, size: int | None = None) -> Path:
    """The .npy file of `latents`, or its first `size` bytes."""
    np.save(path, latents)
    os.truncate(path, path.stat().st_size if size is None else size)
    return path


def test_stage3_refuses_packed_latents_that_are_not_whole_before_it_starts(refused, stage3, with_rows, rows, tmp_path):
    whole = np.load(rows["latent_path"][0])
    path = tmp_path / "packed.npy"
    manifest = with_rows(rows.assign(latent_path=str(path)))
    options = stage3(**{"dataset.manifest": str(manifest)})
    refused(continue_stage3, options, "manifest row ", path, "does not exist: give")
    for size in (0, 60, whole.nbytes):
        packed(path, whole, size)
        refused(continue_stage3, options, "manifest row ", path, "damaged, truncated or not a .npy file")
    packed(path, whole[..., :7])
    refused(continue_stage3, options, "manifest row ", path, "[96, 4, 8, 7]", "takes [N, 4, 8, 8]", "autoencoder")
    packed(path, whole.astype(np.complex64))
    refused(continue_stage3, options, "manifest row ", path, "hold complex numbers, not real numbers")
    assert files_below(tmp_path / "out") == []


@pytest.mark.parametrize("value", [96, -1, 1.5, "many", None])
def test_stage3_names_a_row_that_the_packed_latents_do_not_have(refused, stage3, with_rows, rows, tmp_path, value):
    rows["latent_row"] = rows["latent_row"].astype(object)
    manifest = with_rows(changed(rows, 10, "latent_row", value))
    options = stage3(**{"dataset.manifest": str(manifest)})
    refused(continue_stage3, options, "manifest row 11", "latent_row", rows["latent_path"][0], "rows 0 to 95")
    with_rows(rows.drop(columns="latent_row"))
    refused(continue_stage3, options, "manifest row ", "latent_row", rows["latent_path"][0], "rows 0 to 95")
    assert files_below(tmp_path / "out") == []


def test_a_packed_latent_that_is_not_finite_is_named_when_it_is_drawn(refused, stage3, with_rows, rows, tmp_path):
    latents = np.load(rows["latent_path"][0])
    # Half of each: both splits have some of them, and a training epoch does not leave all of those out.
    latents[::2, 0, 0, 0] = np.nan
    path = packed(tmp_path / "packed.npy", latents)
    options = stage3(**{"dataset.manifest": str(with_rows(rows.assign(latent_path=str(path))))})
    line = refused(continue_stage3, options, f"latent {path}, row ", "not finite", "encode the layouts")
    manifest_row, row = map(int, re.search(r"manifest row (\d+): .* row (\d+),", line).groups())
    assert manifest_row == row + 1 and row % 2 == 0
    assert not list((tmp_path / "out").rglob("*checkpoint*.pt"))


def test_retrain_needs_latents_that_fit_together(refused, retrain, tmp_path):
    odd = tmp_path / "odd.pt"
    torch.save(torch.zeros(6, 4, 16, 16), odd)
    words = ("[4, 8, 8]", "[4, 16, 16]", "same autoencoder")
    refused(retrain_discriminator, retrain | {"fake_latents": odd}, "real latents", "fake", *words)
    folder = tmp_path / "mixed"
    folder.mkdir()
    torch.save(torch.zeros(4, 8, 8), folder / "a.pt")
    torch.save(torch.zeros(1, 4, 8, 16), folder / "b.pt")
    refused(retrain_discriminator, retrain | {"real_latents": folder}, folder / "b.pt", "[4, 8, 16]", "[4, 8, 8]")
    torch.save(torch.zeros(6, 4, 8, 16), odd)
    options = retrain | {"real_latents": odd, "fake_latents": odd}
    refused(retrain_discriminator, options, odd, "[4, 8, 16]", "square")
    assert files_below(tmp_path / "out") == []


def test_retrain_names_latents_it_cannot_read(refused, retrain, tmp_path):
    folder = tmp_path / "folder"
    options = retrain | {"real_latents": folder}
    refused(retrain_discriminator, options, folder, "do not exist: give")
    folder.mkdir()
    (folder / "notes.txt").write_text("no latents")
    refused(retrain_discriminator, options, folder, "no .pt or .npy file", "give a file or folder of latents")
    one = folder / "one.pt"
    torch.save(torch.zeros(4, 8, 8), one)
    refused(retrain_discriminator, options, folder, "hold 1 latent", "at least two")
    for value, word in [
        ({"latent": 1}, "[N, C, h, w]"),
        (torch.zeros(3), "[N, C, h, w]"),
        (torch.full((3, 4, 8, 8), torch.inf), "not finite"),
    ]:
        torch.save(value, one)
        refused(retrain_discriminator, options, "latents", folder, word, "generate them again")
    one.write_bytes(b"\x80")
    refused(retrain_discriminator, options, one, "replace it")
    assert files_below(tmp_path / "out") == []


# Checkpoints


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


# Configs


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
        ("discriminator: {traj", "discriminator: {weight: .nan, traj", ("discriminator.weight", "finite", "nan")),
        ("learning_rate: 1.0e-4, eval", "learning_rate: 0, eval", ("training.learning_rate", "greater than 0")),
        ("name: tiny", "name: ../tiny", ("experiment.name", "../tiny")),
        ("experiment: {name: tiny}", "experiment: {}", ("experiment.name is missing: set it",)),
        ("depth: 2", "1: 2", ("unet", "1")),
        ("depth: 2", "depth: 9", ("unet.depth 9", "halves a 8x8 latent too often")),
        ("base_channels: 16", "base_channels: 20", ("base_channels 20", "multiple of norm_groups 8")),
        ("{manifest:", "{manifest: [", ("not valid YAML", "line", "correct the file")),
        ("experiment:", "\tx: 1\nexperiment:", ("not valid YAML", "line")),
        ("experiment:", "x: !!python/object/apply:os.getcwd []\nexperiment:", ("not valid YAML",)),
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


@pytest.mark.parametrize("content", [b"", b"- a\n- b\n", b"text", b"\xff\xfe\x00\x80"])
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
        ("training..epochs=3", ("--set training..epochs: this is not a key",)),
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


# Losses that are not finite


@contextlib.contextmanager
def huge_steps() -> Iterator[None]:
    """Stage 3 and the discriminator take steps of a length that neither config nor option can ask for."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("core.training.training_step.learning_rate", lambda *_: 1e30)
        patched.setattr(
            "core.training.train_discriminator.Adam", lambda *given, **options: Adam(*given, **options | {"lr": 1e30})
        )
        yield


def test_stage3_stops_before_an_update_that_is_not_finite(refused, stage3, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "out")
    latest = tmp_path / "out" / "checkpoints" / "tiny_checkpoint_latest.pt"
    before = latest.read_bytes()
    options = stage3() | {"set": ["training.epochs=3"]}
    with huge_steps():
        refused(continue_stage3, options, "tiny", "noise loss is ", "epoch 2", "step 6", "lower training.learning_rate")
    assert latest.read_bytes() == before
    assert all_finite(latest)
    assert run(continue_stage3, stage3() | {"set": ["training.epochs=2"]})["metrics"]["epoch"] == 2


def test_stage3_saves_nothing_that_validates_as_not_finite(refused, stage3, finished, tmp_path):
    """One step an epoch: the step that breaks the model is the last before it is written."""
    shutil.copytree(finished[0], tmp_path / "out")
    latest = tmp_path / "out" / "checkpoints" / "tiny_checkpoint_latest.pt"
    before = latest.read_bytes()
    options = stage3(**{"training.batch_size": 77, "training.epochs": 2})
    with huge_steps():
        refused(continue_stage3, options, "tiny", "validation", "epoch 2", "lower training.learning_rate")
    assert latest.read_bytes() == before


@pytest.mark.parametrize("term", ["noise", "adversarial", "gradient of the"])
def test_the_term_that_is_not_finite_is_named(refused, stage3, with_rows, rows, ready, tmp_path, term):
    if term == "noise":
        huge = tmp_path / "huge.pt"
        torch.save(torch.full((4, 8, 8), 3e38), huge)
        values = {
            "dataset.manifest": str(with_rows(rows.assign(latent_path=str(huge), original_path=rows.layout_path)))
        }
    elif term == "gradient of the":
        # A loss of 1e30 is finite, the squares of its gradient are not.
        checkpoint = torch.load(ready.discriminator.checkpoint, weights_only=True)
        checkpoint["state_dict"]["patch.0.weight"] *= 1e28
        checkpoint["state_dict"]["patch.0.bias"] -= 1e30
        torch.save(checkpoint, tmp_path / "discriminator.pt")
        values = {"discriminator.checkpoint": str(tmp_path / "discriminator.pt"), "discriminator.balance": None}
    else:
        checkpoint = torch.load(ready.discriminator.checkpoint, weights_only=True)
        # Each is finite, their sum is not.
        checkpoint["state_dict"]["patch.0.bias"] -= 3e38
        checkpoint["state_dict"]["whole.bias"] -= 3e38
        torch.save(checkpoint, tmp_path / "discriminator.pt")
        values = {"discriminator.checkpoint": str(tmp_path / "discriminator.pt")}
    # What no step can have caused shows before the first.
    stepped = term == "gradient of the"
    where = ["epoch 1, step 1", "nothing was updated"] if stepped else ["the validation of epoch 0"]
    refused(continue_stage3, stage3(**values), f"tiny: the {term} loss is ", *where)
    assert not list((tmp_path / "out").rglob("*checkpoint*.pt"))


def test_the_discriminator_saves_nothing_of_an_epoch_that_is_not_finite(refused, retrain):
    words = ("discriminator: the loss is ", "epoch 1; the epoch was not saved", "lower --learning_rate")
    with huge_steps():
        refused(retrain_discriminator, retrain, *words)
        # One step an epoch: the step that breaks the model is the last before it is written.
        refused(retrain_discriminator, retrain | {"batch_size": 64}, "validation", "epoch 1", "lower --learning_rate")
    assert files_below(retrain["output_dir"]) == []


# Where results go


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    yield from _mounted(tmp_path / "disk", "size=64k")


@pytest.fixture
def read_only_disk(tmp_path) -> Iterator[Path]:
    yield from _mounted(tmp_path / "disk", "size=64k,ro")


def _mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here: a full or read-only disk is not tested")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_generate_on_a_full_disk_says_so_and_leaves_no_partial_file(refused, generate, small_disk):
    refused(
        generate_bad_latents, generate | {"output_dir": small_disk / "out"}, small_disk, "no space left", "free some"
    )
    names = [path.name for path in files_below(small_disk)]
    assert not [name for name in names if "partial" in name or "record" in name or name == "stage.json"]
    for path in small_disk.rglob("*.pt"):
        torch.load(path, weights_only=True)


def test_stage3_on_a_full_disk_says_so_and_leaves_no_partial_file(refused, stage3, tmp_path, small_disk):
    options = stage3(**{"experiment.save_path": str(small_disk / "out")})
    refused(continue_stage3, options, small_disk, "no space left", "free some", "run the same command again")
    assert not [path for path in files_below(small_disk) if "partial" in path.name or "checkpoint_" in path.name]


def test_retrain_on_a_full_disk_says_so(refused, retrain, small_disk):
    refused(retrain_discriminator, retrain | {"output_dir": small_disk / "out"}, small_disk, "no space left")
    assert files_below(small_disk) == []


def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    refused, generate, retrain, stage3, tmp_path, monkeypatch
):
    def no_work(*_: object) -> None:
        raise AssertionError("worked before it knew where to write")

    monkeypatch.setattr("core.training.bad_latents._generate", no_work)
    monkeypatch.setattr("core.training.train_discriminator._train", no_work)
    monkeypatch.setattr("core.training.continue_stage3.build_training", no_work)
    file = tmp_path / "file"
    file.write_text("kept")
    for target in (file, file / "below", Path("/proc/nowhere")):
        refused(generate_bad_latents, generate | {"output_dir": target}, target, "choose another")
        refused(retrain_discriminator, retrain | {"output_dir": target}, target, "choose another")
        refused(continue_stage3, stage3(**{"experiment.save_path": str(target)}), target, "choose another")
    assert file.read_text() == "kept"


def test_a_read_only_disk_is_refused(refused, generate, retrain, stage3, read_only_disk):
    for target in (read_only_disk, read_only_disk / "out"):
        refused(generate_bad_latents, generate | {"output_dir": target}, target, "choose another")
        refused(retrain_discriminator, retrain | {"output_dir": target}, target, "choose another")
        refused(continue_stage3, stage3(**{"experiment.save_path": str(target)}), target, "choose another")


def test_an_unwritable_file_is_named(refused, retrain, monkeypatch):
    """Root may write everywhere, so the refusal is made here."""

    def denied(source: str, target: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(target))

    monkeypatch.setattr(os, "replace", denied)
    refused(retrain_discriminator, retrain, "discriminator_best.pt", "Permission denied", "change its permissions")
    assert files_below(retrain["output_dir"]) == []


# What Stage 3 starts from


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


# Folders that hold results


def test_results_of_other_settings_are_refused_and_those_of_the_same_left_alone(refused, generated, retrained, capsys):
    for command, options, name, value in [
        (generate_bad_latents, generated, "num_steps", 3),
        (generate_bad_latents, generated, "seed", 7),
        (retrain_discriminator, retrained, "epochs", 2),
        (retrain_discriminator, retrained, "learning_rate", 0.5),
    ]:
        before = states(options["output_dir"])
        said = [options["output_dir"], f"now it is {value}", "choose another folder"]
        refused(command, options | {name: value}, f"{name} ", *said)
        assert run(command, options)["output_dir"] == str(options["output_dir"])
        assert "already done" in capsys.readouterr().err
        assert states(options["output_dir"]) == before
    folder = generated["output_dir"] / "bad_latents"
    refused(retrain_discriminator, retrained | {"fake_latents": folder}, "input fake", "choose another folder")
    swapped = retrained | {"fake_latents": retrained["real_latents"]}
    refused(retrain_discriminator, swapped, "input fake", "choose another folder")


def test_a_damaged_record_is_named(refused, retrained, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(retrained["output_dir"], folder)
    for content, cause in (("{", "not JSON"), ("[]", "valid dictionary"), ("{}", "outputs: is missing")):
        (folder / "stage.json").write_text(content)
        options = retrained | {"output_dir": folder}
        # Not to remove anything: the stage may have taken days, and the record may be another program's.
        told = refused(retrain_discriminator, options, folder / "stage.json", "damaged or another program's", cause)
        assert "choose another folder" in told and "remove" not in told


def test_latents_that_no_record_names_are_not_joined_by_others(refused, generate):
    """Latents that lie there already are the user's: they are neither overwritten nor mixed with new ones."""
    mine = generate["output_dir"] / "bad_latents" / "bad_latent_00009.pt"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    said = "bad_latents/bad_latent_00009.pt, which another program made, or"
    refused(generate_bad_latents, generate, said)
    assert files_below(generate["output_dir"]) == [mine]
