"""Latents that are not what a command needs."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from core.training.step_figures import COST
from tasks.continue_stage3 import continue_stage3
from tasks.retrain_discriminator import retrain_discriminator
from tests.bad_input.command_line import changed, files_below, run


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
    again = run(continue_stage3, stage3(**{"dataset.manifest": str(manifest)}))["metrics"]
    ours, theirs = ({name: value for name, value in found.items() if name not in COST} for found in (again, metrics))
    assert ours == theirs


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
