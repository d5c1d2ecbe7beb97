"""Manifests: which rows count, where their files are, which belong together."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.config import DatasetSection
from core.layout_groups import VARIANTS, layout_group
from core.layouts import LayoutPictures, pictures_from_rgb, resize_layout
from core.manifest import choose_rows, is_augmented, originals, read_manifest, split_by_layout
from core.manifest_paths import resolve_path
from core.palette import BACKGROUND, COLORS, NUM_CLASSES, UNLABELLED, WALL, classes_from_rgb, rgb_from_classes


@pytest.fixture
def folder(tmp_path):
    """A published augmented set: originals first, then seven variants of each."""
    images = tmp_path / "augmented" / "images"
    images.mkdir(parents=True)
    stems = [f"scene{i:02d}_scene_layout" for i in range(10)]
    names = stems + [f"{stem}_{variant}" for stem in stems for variant in VARIANTS]
    for name in names:
        Image.new("RGB", (32, 32), (240, 240, 240)).save(images / f"{name}.png")
    rows = pd.DataFrame({"layout_path": [f"augmented/images/{name}.png" for name in names]})
    rows["is_empty"], rows["mystery"] = "false", range(len(rows))
    rows["is_augmented"] = [name not in stems for name in names]
    rows.to_csv(tmp_path / "augmented" / "manifest.csv", index=False)
    return tmp_path


def read(path, **dataset):
    return read_manifest(path, ["layout_path"], DatasetSection(**dataset))


def test_published_paths_are_found(folder):
    rows = read(folder / "augmented" / "manifest.csv")
    assert len(rows) == 80
    assert all(Path(path).is_absolute() and Path(path).exists() for path in rows["layout_path"])
    assert rows["mystery"].tolist() == list(range(80))


@pytest.mark.parametrize(
    "text",
    [
        "images/scene00_scene_layout.png",
        "augmented/images/scene00_scene_layout.png",
        "augmented/augmented/images/scene00_scene_layout.png",
        "/elsewhere/images/scene00_scene_layout.png",
    ],
)
def test_every_published_way_to_write_a_path(folder, text):
    manifest = folder / "augmented" / "manifest.csv"
    remap = {"/elsewhere": str(folder / "augmented")}
    assert resolve_path(text, manifest, remap).exists()


def test_no_layout_straddles_the_split(folder):
    training, validation = split_by_layout(read(folder / "augmented" / "manifest.csv"), 0.8, 42)
    assert not set(training["group"]) & set(validation["group"])
    assert (len(training), len(validation)) == (64, 16)
    again, _ = split_by_layout(read(folder / "augmented" / "manifest.csv"), 0.8, 42)
    assert training["group"].tolist() == again["group"].tolist()


@given(
    variant=st.sampled_from(["", "_orig", "_aug02", *(f"_{name}" for name in VARIANTS)]),
    stem=st.from_regex(r"[a-z]{1,8}_[0-9]{3}", fullmatch=True),
)
def test_variants_share_a_group(variant, stem):
    assert layout_group(f"{stem}{variant}") == stem


def test_an_original_path_names_the_group(folder):
    manifest = folder / "augmented" / "manifest.csv"
    rows = pd.read_csv(manifest)
    rows["original_path"] = rows["layout_path"].str.replace(r"_(rot|mirror).*", ".png", regex=True)
    rows["layout_path"] = rows["layout_path"].sample(frac=1, random_state=0).tolist()
    rows.loc[:9, "original_path"] = None
    rows.to_csv(manifest, index=False)
    groups = read(manifest)["group"]
    assert groups[10:].tolist() == [Path(path).stem for path in rows["original_path"][10:]]
    assert groups[:10].tolist() == [layout_group(Path(path).stem) for path in rows["layout_path"][:10]]


def test_the_name_not_the_folder_says_what_is_augmented(folder):
    rows = read(folder / "augmented" / "manifest.csv").drop(columns="is_augmented")
    assert (~is_augmented(rows)).sum() == 10
    chosen = choose_rows(originals(rows), 4, seed=0)
    assert len(chosen) == 4 and not is_augmented(chosen).any()
    assert len(choose_rows(originals(rows), 100, seed=0)) == 10


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"mystery": 3}, 1),
        ({"mystery": [3, 4]}, 2),
        ({"mystery__lt": 3}, 3),
        ({"mystery__le": 3}, 4),
        ({"mystery__gt": 77}, 2),
        ({"mystery__ge": 77}, 3),
        ({"mystery__ne": 3}, 79),
        ({"is_augmented": [False]}, 10),
        ({"is_empty": [False]}, 80),
    ],
)
def test_documented_filters(folder, filters, expected):
    assert len(read(folder / "augmented" / "manifest.csv", filters=filters)) == expected


def test_flags_may_be_numbers(folder):
    manifest = folder / "augmented" / "manifest.csv"
    rows = pd.read_csv(manifest)
    rows["is_augmented"], rows["is_empty"] = rows["is_augmented"].astype(int), [1] * 3 + [0] * 77
    rows.to_csv(manifest, index=False)
    kept = read(manifest, filters={"is_empty": [False]})
    assert len(kept) == 77 and len(originals(kept)) == 7
    assert len(read(manifest, filters={"is_empty": True})) == 3
    assert len(read(manifest, filters={"is_augmented__ne": True})) == 10


def test_rows_without_a_path_are_dropped(folder):
    manifest = folder / "augmented" / "manifest.csv"
    rows = pd.read_csv(manifest)
    rows.loc[5, "layout_path"] = None
    rows.to_csv(manifest, index=False)
    assert len(read(manifest)) == 79


@given(shift=st.integers(-2, 2), classes=st.lists(st.integers(0, NUM_CLASSES - 1), min_size=1, max_size=20))
def test_colours_off_by_rounding_keep_their_class(shift, classes):
    rgb = np.clip(COLORS[classes].astype(int) + shift, 0, 255).astype(np.uint8)
    assert classes_from_rgb(rgb).tolist() == classes


def test_colours_off_the_palette_are_unlabelled():
    assert classes_from_rgb(np.array([[0, 0, 0], [255, 255, 255], [50, 50, 50]], np.uint8)).tolist() == [UNLABELLED] * 3


def test_pictures_are_scaled_to_minus_one_to_one():
    pictures = pictures_from_rgb(np.array([[[[0, 127, 255]]]], np.uint8))
    assert pictures.rgb.min() == -1 and pictures.rgb.max() == 1 and pictures.rgb.shape == (1, 3, 1, 1)


@pytest.mark.parametrize("size", [128, 64, 32])
def test_shrinking_keeps_walls_whole_and_colours_in_the_palette(size):
    classes = np.full((512, 512), BACKGROUND, np.uint8)
    classes[37:475, 201:206] = WALL
    shrunk = classes_from_rgb(resize_layout(rgb_from_classes(classes), size))
    rows = range(-(-37 * size // 512) + 1, 475 * size // 512 - 1)
    assert all((shrunk[row] == WALL).any() for row in rows)
    assert set(np.unique(shrunk)) == {BACKGROUND, WALL}


def test_pictures_are_read_once(folder):
    rows = read(folder / "augmented" / "manifest.csv")
    pictures = LayoutPictures(rows, "layout_path", 32)
    first = pictures.batch([0, 1]).rgb
    Path(rows["layout_path"][0]).unlink()
    assert torch.equal(pictures.batch([0, 1]).rgb, first)
