"""The second judge: each measure moves when a good layout is damaged in its way, and real layouts are sound."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.audit import layout_measures
from core.audit.layout_measures import measure
from core.audit.second_judge import MEASURES, SOUND, SecondJudge, doorless
from core.data.layouts import resize_layout
from core.data.palette import DEFAULT_PALETTE
from core.data.variants import COUNT, variant_of_each
from core.houses.layout_generator import generate_layout
from core.runtime.errors import InputError

BACKGROUND, WALL = DEFAULT_PALETTE.background, DEFAULT_PALETTE.wall

BED, CHAIR, CABINET = (DEFAULT_PALETTE.names.index(name) for name in ("bed", "chair", "cabinet"))
BODY = 2 / 32


def generated(count: int, seed: int) -> np.ndarray:
    """Class maps, [count, 32, 32], of generated houses of one room."""
    drawn = [generate_layout(np.random.default_rng([seed, index]), 1) for index in range(count)]
    return np.stack(
        [
            DEFAULT_PALETTE.classes_from_rgb(
                resize_layout(DEFAULT_PALETTE.rgb_from_classes(layout), 32, DEFAULT_PALETTE)
            )
            for layout in drawn
        ]
    )


@pytest.fixture(scope="module")
def judge() -> SecondJudge:
    return SecondJudge.calibrate(generated(200, 1), DEFAULT_PALETTE)


@pytest.fixture(scope="module")
def held_out() -> np.ndarray:
    return generated(60, 2)


def good_house() -> np.ndarray:
    """A house of 24x26 cells, its walls one cell thick, with a door of 4 cells, a bed and a cabinet."""
    house = np.full((32, 32), BACKGROUND, np.uint8)
    house[4:28, 3:29] = WALL
    house[5:27, 4:28] = BACKGROUND
    house[27, 10:14] = BACKGROUND
    house[5:12, 5:11] = BED
    house[8:18, 25:28] = CABINET
    return house


# What is done to the good house: rows, columns and class. Then, by measure, its value before and after.
DAMAGE = {
    "stray wall inside": ([(16, 16, WALL)], {"wall_parts": (1, 2), "wall_crumbs": (0, 1), "loose_wall": (0, 1 / 93)}),
    "stray wall outside": (
        [(1, 1, WALL)],
        {"wall_crumbs": (0, 1), "loose_wall": (0, 1 / 93), "outline_corners": (4, 4)},
    ),
    "hole in the outline": ([(4, 20, BACKGROUND)], {"openings": (1, 2), "narrowest_opening": (4 / 32, 1 / 32)}),
    "wide hole": ([(4, slice(12, 24), BACKGROUND)], {"openings": (1, 2), "widest_opening": (4 / 32, 12 / 32)}),
    "walled-up door": (
        [(27, slice(10, 14), WALL)],
        {"openings": (1, 0), "narrowest_opening": (4 / 32, 0), "shut_floor": (0, 1), "unreached_floor": (0, 1)},
    ),
    "block of wall": ([(slice(5, 10), slice(13, 18), WALL)], {"wall_blobs": (0, 30 / 117), "outline_corners": (4, 4)}),
    "jagged outline": (
        [(3, slice(6, 9), WALL), (slice(15, 17), 2, WALL)],
        {"outline_corners": (4, 12), "wall_corners": (12, 20)},
    ),
    "missing side": ([(4, slice(4, 28), BACKGROUND)], {"house_fill": (1, None)}),
    "dots": ([(15, 8, CHAIR), (20, 20, CHAIR), (22, 6, BED)], {"dots": (0, 3), "pieces": (2, 5)}),
    "torn bed": (
        [(slice(5, 11, 2), slice(7, 11), BACKGROUND)],
        {"empty_box": (0, 12 / 42), "ragged_edges": (0, 16 / 52)},
    ),
    "bed before the door": ([(slice(25, 27), slice(4, 28), BED)], {"unreached_floor": (0, None)}),
    "full of furniture": ([(slice(13, 25), slice(5, 24), BED)], {"furnished_floor": (72 / 532, 300 / 532)}),
    "empty": ([(slice(5, 27), slice(4, 28), BACKGROUND)], {"furnished_floor": (72 / 532, 0), "pieces": (2, 0)}),
    "bed in the garden": ([(slice(29, 31), slice(5, 11), BED)], {"furniture_outside": (0, 12 / 84)}),
    "bed as a wall": ([(4, slice(5, 10), BED)], {"furniture_in_outline": (0, 10 / 196)}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_measure_moves_as_a_house_is_damaged(name):
    changes, expected = DAMAGE[name]
    damaged = good_house()
    for rows, columns, kind in changes:
        damaged[rows, columns] = kind
    before, after = measure(np.stack([good_house(), damaged]), BODY, DEFAULT_PALETTE).to_dict("records")
    for column, (good, bad) in expected.items():
        assert before[column] == pytest.approx(good), column
        assert after[column] != pytest.approx(good) if bad is None else after[column] == pytest.approx(bad), column


@given(gap=st.integers(1, 8), body=st.integers(1, 8), doubled=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_body_passes_exactly_the_gaps_that_are_as_wide(gap, body, doubled):
    house = good_house()
    house[27, 10:14] = WALL
    house[27, 12 : 12 + gap] = BACKGROUND
    house = house if doubled else house.repeat(8, 0).repeat(8, 1)
    found = measure(house[None], body / 32, DEFAULT_PALETTE).iloc[0]
    assert found["narrowest_opening"] == found["widest_opening"] == gap / 32
    assert (found["unreached_floor"] < 0.1) == (body <= gap)


@given(seed=st.integers(0, 2**32), share=st.floats(0, 0.3), index=st.integers(1, COUNT - 1))
@settings(max_examples=25, deadline=None)
def test_turned_and_mirrored_layouts_are_judged_alike(seed, share, index, held_out, judge):
    rng = np.random.default_rng(seed)
    maps = held_out[rng.integers(len(held_out), size=4)]
    maps = np.where(rng.random(maps.shape) < share, rng.integers(10, size=maps.shape), maps).astype(np.uint8)
    turned = variant_of_each(maps, index)
    np.testing.assert_allclose(measure(turned, BODY, DEFAULT_PALETTE), measure(maps, BODY, DEFAULT_PALETTE), atol=1e-9)
    assert (
        judge.check(turned).equals(judge.check(maps))
        and (doorless(turned, DEFAULT_PALETTE) == doorless(maps, DEFAULT_PALETTE)).all()
    )


def test_a_larger_picture_of_a_layout_has_the_same_measures(held_out):
    few = held_out[:8]
    larger = few.repeat(8, 1).repeat(8, 2)
    # A body on the finer grid finds other places to stand.
    same = [name for name in MEASURES if name != "unreached_floor"]
    np.testing.assert_allclose(
        measure(larger, BODY, DEFAULT_PALETTE)[same], measure(few, BODY, DEFAULT_PALETTE)[same], atol=1e-9
    )


def test_houses_of_which_nothing_leads_out_are_doorless():
    shut, two_rooms, diagonal = good_house(), good_house(), good_house()
    shut[27, 10:14] = WALL
    two_rooms[5:27, 18] = WALL  # one of them is shut
    diagonal[27, 10:14] = WALL
    diagonal[4, 3] = BACKGROUND  # walls that meet by their corners
    empty = np.full((32, 32), BACKGROUND, np.uint8)
    furnished = np.where(shut == WALL, BED, shut)  # furniture closes nothing off
    maps = np.stack([good_house(), shut, two_rooms, diagonal, empty, furnished]).astype(np.uint8)
    assert doorless(maps, DEFAULT_PALETTE).tolist() == [False, True, False, True, False, False]


def test_real_layouts_are_mostly_sound(judge, held_out):
    checked = judge.check(held_out)
    assert list(checked.columns) == [*MEASURES, SOUND] and all(dtype.kind == "b" for dtype in checked.dtypes)
    assert checked[SOUND].equals(checked.drop(columns=SOUND).all(axis=1))
    assert checked[SOUND].mean() >= 0.9
    assert not doorless(held_out, DEFAULT_PALETTE).any()


def stray_wall(maps: np.ndarray) -> None:
    maps[:, 15:17, 15] = WALL


def gaps(maps: np.ndarray) -> None:
    middle = maps[:, 15:18]
    middle[middle == WALL] = BACKGROUND


def walled_up(maps: np.ndarray) -> None:
    for layout in maps:
        rows, columns = np.nonzero(layout == WALL)
        box = layout[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        box[[0, -1]] = box[:, [0, -1]] = WALL


def dotted(maps: np.ndarray) -> None:
    maps[:, 1:31:4, 1:31:4] = CHAIR


def torn(maps: np.ndarray) -> None:
    rows, columns = np.indices(maps.shape[1:])
    maps[(maps < WALL) & ((rows + columns) % 3 == 0)] = BACKGROUND


@pytest.mark.parametrize(
    ("damage", "most"), [(stray_wall, 0.2), (gaps, 0.2), (walled_up, 0.05), (dotted, 0.0), (torn, 0.2)]
)
def test_damaged_layouts_are_unsound(damage, most, judge, held_out):
    damaged = held_out.copy()
    damage(damaged)
    assert judge.check(damaged)[SOUND].mean() <= most


def test_a_layout_is_judged_independently_of_others(judge, held_out, monkeypatch):
    together = judge.check(held_out[:12])
    monkeypatch.setattr(layout_measures, "_CHUNK_PIXELS", 5 * 64**2)
    assert judge.check(held_out[:12]).equals(together)
    assert judge.check(held_out[7:8]).iloc[0].equals(together.iloc[7].rename(0))


def test_few_layouts_are_enough_to_calibrate(held_out):
    judge = SecondJudge.calibrate(held_out[:2], DEFAULT_PALETTE)
    assert judge.check(held_out[:2])[SOUND].all()


def test_bounds_are_plain_numbers(judge):
    described = json.loads(json.dumps(judge.as_json(), allow_nan=False))
    assert 1 / 32 < described["body"] < 4 / 32 and described["bounds"].keys() == MEASURES.keys()
    assert described["bounds"]["shut_floor"] == [None, 0] and described["bounds"]["narrowest_opening"][1] is None
    low, high = described["bounds"]["furnished_floor"]
    assert 0 < low < 0.1 and 0.3 < high < 0.8


def test_layouts_without_walls_are_refused(held_out):
    with pytest.raises(InputError, match=r"^audit: fewer than two of 60 real layouts have walls: give pictures of ho"):
        SecondJudge.calibrate(np.where(held_out == WALL, BED, held_out).astype(np.uint8), DEFAULT_PALETTE)


@pytest.mark.parametrize(
    "maps",
    [
        np.zeros((2, 8, 9), np.uint8),
        np.zeros((8, 8), np.uint8),
        np.zeros((0, 8, 8), np.uint8),
        np.zeros((2, 8, 8), np.int64),
        np.zeros((2, 8, 8)),
    ],
)
def test_arrays_of_another_form_are_refused(maps, judge):
    readers = (
        lambda maps: SecondJudge.calibrate(maps, DEFAULT_PALETTE),
        judge.check,
        lambda maps: doorless(maps, DEFAULT_PALETTE),
    )
    for judged in readers:
        with pytest.raises(ValueError, match=r"class maps must be uint8 \[N, S, S\], got .*\["):
            judged(maps)
