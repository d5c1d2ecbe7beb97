"""Properties of every generated layout: determined by its seed, enclosed, walkable, without overlaps."""

import csv
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from core.data.palette import DEFAULT_PALETTE, UNLABELLED
from core.houses.floor_plan import MAX_ROOMS
from core.houses.furniture import BED, CABINET, CHAIR, OTHERS, TABLE
from core.houses.house import WALL_THICKNESS
from core.houses.layout_generator import furnished_house, generate_layout, write_layouts

BACKGROUND, WALL = DEFAULT_PALETTE.background, DEFAULT_PALETTE.wall

BODY = 0.5
REAL_COLUMNS = "scene_id,type,room_id,num_rooms,layout_path,is_empty,is_augmented,augmentation_id,augmentation_type"

houses = given(seed=st.integers(0, 2**32 - 1), num_rooms=st.integers(1, MAX_ROOMS))
few = settings(max_examples=20, deadline=None)


@dataclass
class Survey:
    """Measured on a picture alone: pixels per metre, free floor, the rooms, the door gaps along each axis."""

    metre: float
    free: np.ndarray
    rooms: list[np.ndarray]
    gaps: tuple[np.ndarray, np.ndarray]


def survey(classes: np.ndarray) -> Survey:
    classes = np.pad(classes, 100, constant_values=BACKGROUND)
    wall = classes == WALL
    metre = wall_thickness(wall) / WALL_THICKNESS
    # Longer than any door is wide, shorter than any two parallel walls are apart.
    gaps = tuple(closed_along(wall, axis, int(1.76 * metre)) & ~wall for axis in (0, 1))
    labels, count = ndimage.label(~(wall | gaps[0] | gaps[1]))
    rooms = [labels == label for label in range(1, count + 1) if label != labels[0, 0]]
    return Survey(metre, classes == BACKGROUND, rooms, gaps)


def wall_thickness(wall: np.ndarray) -> int:
    edges = np.diff(np.pad(wall, 1).astype(np.int8), axis=1)
    lengths = np.argwhere(edges == -1)[:, 1] - np.argwhere(edges == 1)[:, 1]
    return int(np.bincount(lengths).argmax())


def closed_along(mask: np.ndarray, axis: int, length: int) -> np.ndarray:
    length += 1 - length % 2
    return ndimage.minimum_filter1d(ndimage.maximum_filter1d(mask, length, axis), length, axis)


@few
@houses
def test_walls_enclose_every_room_once_the_doors_are_closed(seed: int, num_rooms: int) -> None:
    classes = generate_layout(np.random.default_rng(seed), num_rooms)

    assert classes.dtype == np.uint8 and classes.shape == (512, 512)
    assert classes.max() < len(DEFAULT_PALETTE)
    assert len(survey(classes).rooms) == num_rooms


@few
@houses
def test_house_fills_the_frame_and_is_centred(seed: int, num_rooms: int) -> None:
    rows, columns = np.nonzero(generate_layout(np.random.default_rng(seed), num_rooms) != BACKGROUND)

    margins = np.array([rows.min(), 511 - rows.max(), columns.min(), 511 - columns.max()])
    assert abs(margins.min() - 16) <= 1
    assert abs(margins[0] - margins[1]) <= 2 and abs(margins[2] - margins[3]) <= 2


@few
@houses
def test_a_body_can_walk_from_outside_into_every_room(seed: int, num_rooms: int) -> None:
    picture = survey(generate_layout(np.random.default_rng(seed), num_rooms))

    body = 2 * int(BODY * picture.metre / 2) + 1
    standing, _ = ndimage.label(ndimage.minimum_filter(picture.free, body, mode="nearest"))
    beyond_doors = ~ndimage.maximum_filter(picture.gaps[0] | picture.gaps[1], 2 * int(0.4 * picture.metre) + 1)
    reached = (standing == standing[0, 0]) & beyond_doors
    assert all((reached & room).any() for room in picture.rooms)


@few
@houses
def test_nothing_stands_in_or_before_a_doorway(seed: int, num_rooms: int) -> None:
    classes = generate_layout(np.random.default_rng(seed), num_rooms)
    picture = survey(classes)

    furniture = np.pad(classes, 100, constant_values=BACKGROUND) < WALL
    for axis, gaps in enumerate(picture.gaps):
        both_sides = ndimage.maximum_filter1d(gaps, 2 * int(BODY * picture.metre) + 1, 1 - axis)
        assert gaps.any() or picture.gaps[1 - axis].any()
        assert not (furniture & both_sides).any()


@few
@houses
def test_furniture_overlaps_neither_walls_nor_other_furniture(seed: int, num_rooms: int) -> None:
    house = furnished_house(np.random.default_rng(seed), num_rooms)

    # Pillows lie on beds, things stand on cabinets, chairs are tucked under tables and may touch each other.
    may_overlap = {frozenset(pair) for pair in ((BED, OTHERS), (CABINET, OTHERS), (TABLE, CHAIR), (CHAIR,))}
    for room in house.rooms:
        placed = [(piece.kind, piece.bounds.grown(-1e-6)) for piece in room.pieces]
        assert not any(box.overlaps(wall) for _, box in placed for wall in house.walls)
        overlapping = {frozenset((a, b)) for (a, p), (b, q) in combinations(placed, 2) if p.overlaps(q)}
        assert overlapping <= may_overlap


def test_layout_depends_only_on_seed_and_index(tmp_path: Path) -> None:
    few_layouts, more_layouts = tmp_path / "few", tmp_path / "more"
    write_layouts(few_layouts, 2, seed=5)
    write_layouts(more_layouts, 4, seed=5)
    write_layouts(tmp_path / "other", 2, seed=6)

    pictures = {path: path.read_bytes() for path in tmp_path.glob("*/images/generated_0000[01]_scene_layout.png")}
    for name in ("generated_00000_scene_layout.png", "generated_00001_scene_layout.png"):
        assert pictures[few_layouts / "images" / name] == pictures[more_layouts / "images" / name]
        assert pictures[few_layouts / "images" / name] != pictures[tmp_path / "other" / "images" / name]
    assert len(set(pictures.values())) == 4


def test_manifest_describes_the_files_beside_it(tmp_path: Path) -> None:
    path = write_layouts(tmp_path / "set", 8, seed=0, rooms=(2, 3))

    assert path == tmp_path / "set" / "manifest.csv"
    assert path.read_text().splitlines()[0] == REAL_COLUMNS
    assert path.read_text().splitlines()[1].startswith("generated_00000,scene,scene,")
    assert path.read_text().splitlines()[1].endswith(",False,False,0,")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == 8 and {row["num_rooms"] for row in rows} == {"2", "3"}
    for row in rows:
        assert row["layout_path"] == f"images/{row['scene_id']}_scene_layout.png"
        picture = Image.open(path.parent / row["layout_path"])
        assert picture.mode == "RGB" and picture.size == (512, 512)
        classes = DEFAULT_PALETTE.classes_from_rgb(np.asarray(picture))
        assert UNLABELLED not in classes
        assert len(survey(classes).rooms) == int(row["num_rooms"])


def test_manifest_is_absent_until_the_set_is_complete(tmp_path: Path) -> None:
    def fail_at_two(count: int) -> None:
        if count == 2:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_layouts(tmp_path, 4, seed=0, written=fail_at_two)

    assert list((tmp_path / "images").iterdir()) and not (tmp_path / "manifest.csv").exists()


@pytest.mark.parametrize("num_rooms", [0, MAX_ROOMS + 1])
def test_impossible_number_of_rooms_is_an_error(num_rooms: int) -> None:
    with pytest.raises(ValueError, match="num_rooms"):
        generate_layout(np.random.default_rng(0), num_rooms)
