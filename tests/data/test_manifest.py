"""Manifests: the rows that count, the paths of their files, the groups of variants."""

import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.config.dataset_sections import DatasetSection
from core.data.layout_groups import VARIANTS, layout_group
from core.data.layouts import LayoutPictures, pictures_from_rgb, resize_layout
from core.data.manifest import choose_rows, is_augmented, originals, read_manifest, split_by_layout
from core.data.manifest_paths import resolve_paths
from core.data.palette import DEFAULT_PALETTE, UNLABELLED
from core.inputs.flags import flag
from core.runtime.errors import InputError

BACKGROUND, WALL = DEFAULT_PALETTE.background, DEFAULT_PALETTE.wall


def resolved(text: str, manifest: Path, remap: dict[str, str]) -> Path:
    return resolve_paths([text], manifest, remap)[text]


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
    assert resolved(text, manifest, remap).exists()


def test_no_layout_is_in_both_splits(folder):
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


@given(shift=st.integers(-2, 2), classes=st.lists(st.integers(0, len(DEFAULT_PALETTE) - 1), min_size=1, max_size=20))
def test_colours_off_by_rounding_keep_their_class(shift, classes):
    rgb = np.clip(DEFAULT_PALETTE.rgb[classes].astype(int) + shift, 0, 255).astype(np.uint8)
    assert DEFAULT_PALETTE.classes_from_rgb(rgb).tolist() == classes


def test_colours_off_the_palette_are_unlabelled():
    assert (
        DEFAULT_PALETTE.classes_from_rgb(np.array([[0, 0, 0], [255, 255, 255], [50, 50, 50]], np.uint8)).tolist()
        == [UNLABELLED] * 3
    )


def test_pictures_are_scaled_to_minus_one_to_one():
    pictures = pictures_from_rgb(np.array([[[[0, 127, 255]]]], np.uint8), DEFAULT_PALETTE)
    assert pictures.rgb.min() == -1 and pictures.rgb.max() == 1 and pictures.rgb.shape == (1, 3, 1, 1)


@pytest.mark.parametrize("size", [128, 64, 32])
def test_shrinking_keeps_walls_whole_and_colours_in_the_palette(size):
    classes = np.full((512, 512), BACKGROUND, np.uint8)
    classes[37:475, 201:206] = WALL
    shrunk = DEFAULT_PALETTE.classes_from_rgb(
        resize_layout(DEFAULT_PALETTE.rgb_from_classes(classes), size, DEFAULT_PALETTE)
    )
    rows = range(-(-37 * size // 512) + 1, 475 * size // 512 - 1)
    assert all((shrunk[row] == WALL).any() for row in rows)
    assert set(np.unique(shrunk)) == {BACKGROUND, WALL}


def test_pictures_are_read_once(folder):
    rows = read(folder / "augmented" / "manifest.csv")
    pictures = LayoutPictures(rows, "layout_path", 32, DEFAULT_PALETTE)
    first = pictures.batch([0, 1]).rgb
    Path(rows["layout_path"][0]).unlink()
    assert torch.equal(pictures.batch([0, 1]).rgb, first)


@given(
    word=st.sampled_from(["true", "YES", " on ", "1", "1.0", "Wahr", "VRAI", "Prawda", "ИСТИНА"]),
    other=st.text(max_size=6),
)
def test_a_flag_has_one_meaning(word, other):
    assert flag(word) is True and flag(True) is True and flag(0.0) is False and flag("Falsch") is False
    meaning = flag(other)
    assert meaning is flag(other.upper().strip()) or meaning is None or not other.isascii()
    assert flag(f"{word}x") is None and flag("") is None and flag(float("nan")) is None


@pytest.mark.parametrize("cell", ["maybe", "", "2", "x"])
def test_an_ambiguous_flag_is_named(folder, cell):
    manifest = folder / "augmented" / "manifest.csv"
    rows = pd.read_csv(manifest, dtype=str)
    rows.loc[4, "is_augmented"] = cell
    rows.to_csv(manifest, index=False)
    with pytest.raises(InputError, match=r"manifest\.csv: row 5: is_augmented is .*write true or false"):
        read(manifest)
    rows["is_augmented"] = ""
    rows.to_csv(manifest, index=False)
    assert len(originals(read(manifest))) == 10  # by the names, as without the column


_NAMES = st.from_regex(r"[a-c]{1,2}", fullmatch=True)


@settings(max_examples=60, deadline=None)
@given(
    houses=st.sets(st.tuples(_NAMES, _NAMES), min_size=2, max_size=6),
    variants=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(VARIANTS), st.sampled_from("abc")), max_size=8),
    prefix=st.sampled_from(["", "/data/set/", "D:\\\\data\\\\"]),
)
def test_a_house_is_never_in_both_splits_however_its_files_are_named(tmp_path_factory, houses, variants, prefix):
    houses = sorted(houses)
    rows = [{"layout_path": f"{prefix}{scene}/{name}.png", "is_augmented": "no"} for scene, name in houses]
    owners = list(range(len(houses)))
    for number, (house, variant, way) in enumerate(variants):
        scene, name = houses[house % len(houses)]
        path = {
            "a": f"{prefix}{scene}/{name}_{variant}.png",
            "b": f"augmented/{scene}\\{name}_{variant}.png",
            "c": f"other/{number}.png",
        }[way]
        source = f"E:\\x\\{scene}\\{name}.PNG" if way == "c" else None
        rows.append({"layout_path": path, "is_augmented": "yes", "original_path": source})
        owners.append(house % len(houses))
    path = tmp_path_factory.mktemp("manifest") / "m.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    try:
        groups = read(path)["group"].tolist()
    except InputError as refused:  # of a/b and a/b_b, say
        assert "rename one" in str(refused) or "original_path" in str(refused)
        return
    of_house = {owner: group for owner, group in zip(owners, groups, strict=True) if owner < len(houses)}
    assert len(set(groups[: len(houses)])) == len(houses)
    assert [of_house[owner] for owner in owners] == groups


def test_one_name_in_many_folders_is_many_layouts(folder):
    paths = [f"scene_{number}/layout.png" for number in range(4)] + [f"scene_{n}/layout_rot90.png" for n in range(4)]
    manifest = folder / "m.csv"
    pd.DataFrame({"layout_path": paths}).to_csv(manifest, index=False)
    rows = read(manifest)
    assert rows["group"].tolist() == [f"scene_{number}_layout" for number in range(4)] * 2
    assert rows["stem"].is_unique and is_augmented(rows).tolist() == [False] * 4 + [True] * 4


def test_a_prefix_is_a_folder(tmp_path):
    for text, remap, expected in [
        ("/data/a.png", {"/data": "/new"}, "/new/a.png"),
        ("/data/a.png", {"/data/": "/new"}, "/new/a.png"),
        ("/database/a.png", {"/data": "/new"}, "/database/a.png"),
        ("d:\\data\\b\\a.png", {"D:/data": "/new"}, "/new/b/a.png"),
        ("a.png", {"": "/new"}, "/new/a.png"),
    ]:
        assert str(resolved(text, tmp_path / "m.csv", remap)) == expected


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_and_quotes_are_read(tmp_path, separator):
    path = tmp_path / "m.csv"
    cells = [["layout_path", "note"], [f'"a{separator}b.png"', "NA"], ["c.png", "1.5"]]
    path.write_text("\n".join(separator.join(line) for line in cells))
    rows = read(path)
    assert [Path(text).name for text in rows["layout_path"]] == [f"a{separator}b.png", "c.png"]
    assert rows["note"].isna().tolist() == [True, False]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("layout_path,a,a\n", "two columns called a"),
        ("layout_path,a\nx,1\ny,2,3\n", "has 3 cells in line 3, its header has 2"),
        ("layout_path\nx\ny\0\n", "NUL character in line 3"),
        ('layout_path\n"x\n', "not a readable CSV file"),
    ],
)
def test_a_damaged_manifest_is_refused_by_line(tmp_path, content, word):
    (tmp_path / "m.csv").write_text(content)
    with pytest.raises(InputError, match=word):
        read(tmp_path / "m.csv")


@pytest.mark.parametrize(
    "cell",
    [
        " images/a b.png ",
        '"images\\a b.png"',
        "file://{folder}/images/a%20b.png",
        "file:///D:/set/images/a%20b.png",
        "d:\\set\\images\\a b.png",
        "//SERVER/share/images/a b.png",
        "\\\\Server\\share\\images\\a b.png",
        "~/images/a b.png",
        "./images//a b.png",
    ],
)
def test_a_path_is_understood_as_other_systems_write_it(tmp_path, monkeypatch, cell):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a b.png").touch()
    remap = {"D:\\set": str(tmp_path), "\\\\server\\share": str(tmp_path)}
    assert resolved(cell.format(folder=tmp_path), tmp_path / "m.csv", remap) == tmp_path / "images" / "a b.png"


@pytest.mark.parametrize("kinds", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_in_another_normal_form(tmp_path, kinds):
    there, written = (unicodedata.normalize(kind, "Häuser/ü.png") for kind in kinds)
    (tmp_path / there).parent.mkdir()
    (tmp_path / there).touch()
    assert resolved(written, tmp_path / "m.csv", {}) == tmp_path / there


def test_an_address_in_a_cell_is_refused_without_its_password(tmp_path):
    with pytest.raises(InputError, match=r"https://\*\*\*@host/a.png, which is an address.*path_remap"):
        resolved("https://me:secret@host/a.png", tmp_path / "m.csv", {})
    assert resolved("s3://b/a.png", tmp_path / "m.csv", {"s3://b": "/data"}) == Path("/data/a.png")


def test_blank_rows_and_sums_of_a_spreadsheet_are_dropped(folder):
    path = folder / "augmented" / "manifest.csv"
    path.write_text(path.read_text() + ",,,\r\n" * 3 + " ,,80,\n")
    assert len(read(path, filters={"is_empty": [False]})) == 80
    path.write_text("layout_path,is_empty\n,\n,x\n")
    with pytest.raises(InputError, match="no row has layout_path"):
        read(path)


def test_names_of_columns_may_differ_in_case_and_separators(folder):
    path = folder / "m.csv"
    path.write_text("Layout Path;IS-EMPTY;Is_Augmented\na.png;no;no\nb.png;yes;yes\n")
    assert read(path, filters={"is_empty": [False]})["layout_path"].tolist() == [str(folder / "a.png")]
    path.write_text("Layout_Path,layout_path\na.png,b.png\n")
    assert read(path, filters={})["layout_path"].tolist() == [str(folder / "b.png")]


@pytest.mark.parametrize("wanted", [False, "false", "No", 0, [False], ["nein"]])
def test_a_flag_may_be_asked_for_in_words(folder, wanted):
    path = folder / "m.csv"
    path.write_text("layout_path,is_empty\na.png,WAHR\nb.png,FALSCH\n")
    assert len(read(path, filters={"is_empty": wanted})) == 1


def test_numbers_with_a_comma_are_compared_and_words_are_named(folder):
    path = folder / "m.csv"
    path.write_text("layout_path;area\na.png;12,5\nb.png;7\nc.png;NA\nd.png;\n")
    assert len(read(path, filters={"area__ge": 7.5})) == 1
    path.write_text("layout_path;area\na.png;12,5\nb.png;wide\n")
    with pytest.raises(InputError, match=r"row 2: area is 'wide', not a number.*area__ge"):
        read(path, filters={"area__ge": 7.5})


@pytest.mark.parametrize("start", ["sep=;\r\n", '"sep=;"\r\n', "SEP=;;\r", "\ufeffsep=;\n"])
def test_the_first_line_may_give_the_separator(folder, start):
    path = folder / "m.csv"
    path.write_bytes(f"{start}layout_path;is_empty\r\na.png;no\r\n".encode())
    assert len(read(path)) == 1


def test_text_in_utf_16_needs_no_mark_and_cells_may_be_long(folder):
    path = folder / "m.csv"
    for encoding in ("utf-16-le", "utf-16-be"):
        path.write_bytes(f"layout_path,note\na.png,{'x' * 200_000}\n".encode(encoding))
        assert len(read(path)["note"][0]) == 200_000


def test_our_own_columns_in_a_table_are_ignored(folder):
    path = folder / "m.csv"
    path.write_text("layout_path,manifest_row,stem,group\na.png,7,x,y\nb.png,8,x,y\n")
    rows = read(path)
    assert rows["manifest_row"].tolist() == [0, 1] and rows["group"].tolist() == ["a", "b"]


@pytest.mark.parametrize("word", ["nan", "None", "NULL", "N/A", "-"])
def test_a_word_for_none_is_not_an_original(folder, word):
    rows = [f"h{n}.png,false,{word}" for n in range(6)] + [f"x{n}.png,true,h{n}.png" for n in range(6)]
    (folder / "m.csv").write_text("\n".join(["layout_path,is_augmented,original_path", *rows]))
    assert read(folder / "m.csv")["group"].tolist() == [f"h{n}" for n in range(6)] * 2


def test_variants_of_variants_and_of_pictures_with_a_source_are_in_one_group(folder):
    rows = [f"h{n}.png,false,raw/{n}.obj" for n in range(4)] + [f"x{n}.png,true,h{n}.png" for n in range(4)]
    rows += [f"y{n}.png,true,x{n}.png" for n in range(4)] + [f"h{n}_rot90.png,true," for n in range(4)]
    (folder / "m.csv").write_text("\n".join(["layout_path,is_augmented,original_path", *rows]))
    assert read(folder / "m.csv")["group"].tolist() == [str(n) for n in range(4)] * 4


def test_a_path_that_is_not_a_picture_is_named_before_any_is_read(folder):
    image = str(folder / "augmented" / "images" / "scene00_scene_layout.png")
    for cell, word in [(str(folder), "is a folder"), ("x" * 300, "File name too long"), ("no.png", "path_remap")]:
        rows = pd.DataFrame({"layout_path": [image] * 50 + [cell], "manifest_row": range(51)})
        with pytest.raises(InputError, match=rf"manifest row 51: picture .*{word}"):
            LayoutPictures(rows, "layout_path", 32, DEFAULT_PALETTE)
