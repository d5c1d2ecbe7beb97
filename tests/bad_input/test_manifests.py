"""Manifests that a user can get wrong."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tasks.continue_stage3 import continue_stage3
from tasks.generate_bad_latents import generate_bad_latents
from tests.bad_input.command_line import changed, files_below


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
    ],
    ids=["0 bytes", "header only"],
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
