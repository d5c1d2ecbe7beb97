"""The rules let real layouts pass and catch every kind of broken one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.audit.calibration import calibrate
from core.audit.rules import RULES, Rules
from core.data.floor_survey import Scale, find_interior, furniture_in_walls, pixels_per_metre, reachable_shares
from core.data.palette import DEFAULT_PALETTE
from core.houses.layout_generator import generate_layout
from core.runtime.errors import InputError

BACKGROUND, WALL = DEFAULT_PALETTE.background, DEFAULT_PALETTE.wall

SIZE, DOOR = 64, 18
BED, OTHERS, SOFA = (DEFAULT_PALETTE.names.index(name) for name in ("bed", "others", "sofa"))


def houses(count, first=0):
    """Class maps of generated houses of one to three rooms."""
    return np.stack([generate_layout(np.random.default_rng([7, first + i]), 1 + i % 3, SIZE) for i in range(count)])


def clean(maps):
    return np.zeros(len(maps))


@pytest.fixture(scope="module")
def training():
    return houses(200)


@pytest.fixture(scope="module")
def held_out():
    return houses(100, first=1000)


@pytest.fixture(scope="module")
def rules(training):
    return calibrate(training, clean(training), pixels_per_metre=7.0, pass_share=0.97, palette=DEFAULT_PALETTE)


def torn_walls(maps, rng):
    return np.where((maps == WALL) & (rng.random(maps.shape) < 0.1), BACKGROUND, maps)


def torn_in_two(maps, rng):
    """Without the walls of the middle third."""
    broken = maps.copy()
    third = broken[:, :, SIZE // 3 : 2 * SIZE // 3]
    third[third == WALL] = BACKGROUND
    return broken


def doors_walled_up(maps, rng):
    """Every opening to the outside, and between rooms, is wall."""
    interior = find_interior(maps, DOOR, DEFAULT_PALETTE)
    outline = np.zeros_like(interior)
    for axis in (1, 2):
        for step in (1, -1):
            outline |= interior & ~np.roll(interior, step, axis) & (np.roll(maps, step, axis) != WALL)
    return np.where(outline, WALL, maps)


def furniture_in_the_doors(maps, rng):
    """A sofa across every opening to the outside, through the thickness of the wall and beyond."""
    walled = doors_walled_up(maps, rng) != maps
    for axis in (1, 2):
        for step in (1, -1, 2, -2):
            walled = walled | np.roll(walled, step, axis)
    return np.where(walled & (maps != WALL), SOFA, maps)


def crumbs(maps, rng):
    interior = find_interior(maps, DOOR, DEFAULT_PALETTE)
    return np.where(interior & (maps == BACKGROUND) & (rng.random(maps.shape) < 0.02), OTHERS, maps)


def ragged_furniture(maps, rng):
    return np.where((maps < WALL) & (rng.random(maps.shape) < 0.4), BACKGROUND, maps)


def one_huge_bed(maps, rng):
    return np.where(find_interior(maps, DOOR, DEFAULT_PALETTE), BED, maps)


def furniture_outside(maps, rng):
    """The lower half of the garden, and all around, is a sofa."""
    garden = ~find_interior(maps, DOOR, DEFAULT_PALETTE) & (maps == BACKGROUND)
    garden[:, : SIZE // 2] = False
    return np.where(garden, SOFA, maps)


def nothing(maps, rng):
    return np.full_like(maps, BACKGROUND)


BROKEN = {
    torn_walls: "enclosed",
    torn_in_two: "enclosed",
    doors_walled_up: "reachable",
    furniture_in_the_doors: "reachable",
    crumbs: "no_fragments",
    ragged_furniture: "no_fragments",
    one_huge_bed: "furnished",
    furniture_outside: "furnished",
    nothing: "enclosed",
}


def test_held_out_layouts_pass(rules, training, held_out):
    assert rules.check(training, clean(training))["viable"].mean() >= 0.97
    assert rules.check(held_out, clean(held_out))["viable"].mean() >= 0.95


@pytest.mark.parametrize(("broken", "rule"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", value))
def test_layouts_broken_in_any_way_fail(broken, rule, rules, held_out):
    maps = broken(held_out, np.random.default_rng(0)).astype(np.uint8)
    kept = rules.check(maps, clean(maps))
    assert kept[rule].mean() < 0.3
    assert kept["viable"].mean() < 0.2


def test_colours_outside_the_palette_fail(rules, held_out):
    kept = rules.check(held_out, np.full(len(held_out), 0.3))
    assert not kept["on_palette"].any() and not kept["viable"].any()
    assert kept["enclosed"].mean() > 0.9


def test_viable_is_all_rules_together(rules, held_out):
    maps = torn_walls(held_out, np.random.default_rng(1))
    kept = rules.check(maps, clean(maps))
    assert list(kept.columns) == [*RULES, "viable"]
    assert (kept["viable"] == kept[list(RULES)].all(axis=1)).all()


@pytest.mark.parametrize("enclosed", [0, 1])
def test_layouts_without_walls_cannot_calibrate_rules(training, enclosed):
    open_ones = np.where(training == WALL, BACKGROUND, training)[:20]
    maps = np.concatenate([training[:enclosed], open_ones])
    with pytest.raises(InputError, match=rf"in {enclosed} of {20 + enclosed} real .*dataset.image_size.*audit: null"):
        calibrate(maps, clean(maps), pixels_per_metre=7.0, pass_share=0.97, palette=DEFAULT_PALETTE)


def test_rules_come_back_from_their_record(rules, held_out):
    again = Rules.from_json(rules.as_json(), DEFAULT_PALETTE)
    assert again == rules
    assert again.check(held_out, clean(held_out)).equals(rules.check(held_out, clean(held_out)))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), turns=st.integers(0, 3), mirrored=st.booleans())
def test_a_verdict_does_not_depend_on_the_orientation(rules, seed, turns, mirrored):
    maps = generate_layout(np.random.default_rng(seed), 2, SIZE)[None]
    turned = np.rot90(maps[:, :, ::-1] if mirrored else maps, turns, axes=(1, 2))
    assert rules.check(turned, clean(maps)).equals(rules.check(maps, clean(maps)))


def test_a_layout_is_checked_independently_of_others(rules, held_out):
    together = rules.check(held_out[:6], clean(held_out[:6]))
    alone = [rules.check(held_out[i : i + 1], clean(held_out[:1])).iloc[0] for i in range(6)]
    assert all((together.iloc[i] == alone[i]).all() for i in range(6))


def test_a_narrow_opening_is_closed_and_a_wide_one_is_not():
    room = np.full((1, 20, 20), BACKGROUND, np.uint8)
    room[0, 4:16, [4, 15]] = WALL
    room[0, [4, 15], 4:16] = WALL
    room[0, 15, 8:11] = BACKGROUND  # a door of three cells
    assert find_interior(room, 4, DEFAULT_PALETTE).sum() == 10 * 10 + 3
    assert find_interior(room, 3, DEFAULT_PALETTE).sum() == 0


def test_a_room_without_a_door_is_not_reached():
    two = np.full((1, 24, 24), BACKGROUND, np.uint8)
    two[0, 4:20, [4, 12, 19]] = WALL
    two[0, [4, 19], 4:20] = WALL
    two[0, 4, 6:9] = BACKGROUND  # a door to the first room only
    from_outside, largest = reachable_shares(find_interior(two, 5, DEFAULT_PALETTE), two, 2, DEFAULT_PALETTE)
    assert 0.5 < from_outside[0] < 0.65 and largest[0] == from_outside[0]
    two[0, 10:13, 12] = BACKGROUND  # and one to the second
    assert reachable_shares(find_interior(two, 5, DEFAULT_PALETTE), two, 2, DEFAULT_PALETTE)[0][0] == 1.0


def test_furniture_in_a_doorway_or_across_a_wall_is_counted_and_beside_one_is_not():
    room = np.full((1, 20, 20), BACKGROUND, np.uint8)
    room[0, 4:16, [4, 15]] = WALL
    room[0, [4, 15], 4:16] = WALL
    room[0, 15, 8:11] = BACKGROUND  # a door
    scale = Scale(door=5, body=2, wall=1)
    room[0, 12:15, 8:11] = SOFA  # before the door
    room[0, 6:9, 5:7] = SOFA  # along a wall
    assert furniture_in_walls(room, scale, DEFAULT_PALETTE)[0] == 0
    room[0, 15, 8:10] = SOFA  # in the door
    assert furniture_in_walls(room, scale, DEFAULT_PALETTE)[0] == 2
    room[0, 8, 3:6] = SOFA  # across a wall
    assert furniture_in_walls(room, scale, DEFAULT_PALETTE)[0] == 3


def test_walls_give_the_scale():
    classes = generate_layout(np.random.default_rng(3), 2)
    thickness = pixels_per_metre(classes, DEFAULT_PALETTE) * 0.17
    assert thickness == round(thickness) and 4 <= thickness <= 16
    assert pixels_per_metre(np.full((8, 8), BACKGROUND, np.uint8), DEFAULT_PALETTE) == 0
