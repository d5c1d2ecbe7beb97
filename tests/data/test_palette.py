"""Palettes: which pixels are of which class, files of other classes and colours, and files that are refused."""

import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from core.audit.calibration import calibrate
from core.audit.distribution import class_divergence
from core.audit.layout_features import FeatureSpace
from core.audit.memorisation import nearest_training
from core.audit.rules import RULES
from core.audit.second_judge import SecondJudge, doorless
from core.config.experiment import ExperimentConfig
from core.config.loss_sections import PerceptualLossSection
from core.data.layouts import resize_layout
from core.data.palette import DEFAULT_PALETTE, UNLABELLED, Palette
from core.data.palette_file import palette_input, read_palette
from core.houses.layout_generator import generate_layout
from core.runtime.errors import InputError
from tests.palettes import OWN, write_palette

pytest_plugins = ["tests.storage_servers"]


def configured(path, **artifacts):
    """A config whose palette is the file at `path`."""
    dataset = {"manifest": "/m.csv", "palette": str(path)}
    return ExperimentConfig.model_validate({"experiment": {"name": "x"}, "dataset": dataset, "artifacts": artifacts})


@pytest.fixture
def read(tmp_path):
    """The palette of a YAML with a given text."""

    def of_text(text):
        path = tmp_path / "palette.yaml"
        path.write_text(text)
        return read_palette(configured(path))

    return of_text


def test_the_default_palette_is_that_of_the_published_models():
    assert DEFAULT_PALETTE.names == (
        *("bed", "cabinet", "chair", "lighting", "others"),
        *("stool", "sofa", "table", "wall", "background"),
    )
    assert DEFAULT_PALETTE.colours[3] == (152, 78, 163) and DEFAULT_PALETTE.colours[9] == (240, 240, 240)
    assert (DEFAULT_PALETTE.wall, DEFAULT_PALETTE.background, DEFAULT_PALETTE.furniture) == (8, 9, tuple(range(8)))
    assert DEFAULT_PALETTE.tolerance == 12 and DEFAULT_PALETTE.half_way == 55


COLOURS = st.tuples(*[st.integers(0, 255)] * 3)


@st.composite
def palettes(draw):
    """Any palette: three to six classes in any order, whose colours can be told apart, two of them often just so."""
    colours = draw(st.lists(COLOURS, min_size=2, max_size=5, unique=True))
    near = draw(st.tuples(*[st.integers(-9, 9)] * 3))
    beside = tuple(min(255, max(0, value + off)) for value, off in zip(colours[0], near, strict=True))
    colours.append(beside)
    assume(len(set(colours)) == len(colours))
    names = draw(st.permutations(["wall", "background", *"abcd"[: len(colours) - 2]]))
    closest = min(
        sum(abs(a - b) for a, b in zip(one, other, strict=True)) for one in colours for other in colours if one != other
    )
    assume(closest > 12)
    return Palette.of(dict(zip(names, colours, strict=True))), closest


@settings(max_examples=50, deadline=None)  # each palette has a table of all colours
@given(palettes(), st.data())
def test_every_colour_up_to_the_tolerance_is_of_its_class_and_none_of_two(made, data):
    palette, closest = made
    assert 6 <= palette.tolerance <= 12 and 2 * palette.tolerance < closest and palette.half_way == closest / 2
    classes = np.array(data.draw(st.lists(st.integers(0, len(palette) - 1), min_size=1, max_size=20)))
    rgb = palette.rgb_from_classes(classes).astype(int)
    assert palette.classes_from_rgb(rgb.astype(np.uint8)).tolist() == classes.tolist()
    shift = np.array(data.draw(st.tuples(*[st.integers(-20, 20)] * 3)))
    shifted = np.clip(rgb + shift, 0, 255)
    distances = np.abs(shifted[:, None] - palette.rgb.astype(int)).sum(-1)
    within = distances.min(1) <= palette.tolerance
    expected = np.where(within, distances.argmin(1), UNLABELLED)
    assert palette.classes_from_rgb(shifted.astype(np.uint8)).tolist() == expected.tolist()
    assert palette.off_palette(shifted.astype(np.float32)).tolist() == (distances.min(1) > closest / 2).tolist()


@pytest.mark.parametrize("palette", [DEFAULT_PALETTE, OWN])
def test_a_pixel_is_off_the_palette_beyond_half_way_between_the_closest_colours(palette):
    away = [palette.half_way, palette.half_way + 1]
    colour = np.array(palette.colours[palette.wall], np.float32)
    pixels = np.stack([colour + np.array([0, distance, 0], np.float32) for distance in away])
    assert np.abs(pixels[:, None] - palette.rgb.astype(np.float32)).sum(-1).min(1).tolist() == away
    assert palette.off_palette(pixels).tolist() == [False, True]


def test_furniture_is_what_is_neither_wall_nor_background():
    assert (OWN.wall, OWN.background, OWN.furniture) == (0, 1, (2, 3, 4))
    assert OWN.is_furniture(np.arange(5)).tolist() == [False, False, True, True, True]


@pytest.fixture(scope="module")
def houses():
    return np.stack([generate_layout(np.random.default_rng([3, index]), 1 + index % 2, 128) for index in range(40)])


# The default classes in another order: what measures a layout must find the same.
ORDER = [9, 3, 8, 0, 5, 1, 7, 2, 6, 4]
TURNED = Palette.of({DEFAULT_PALETTE.names[index]: DEFAULT_PALETTE.colours[index] for index in ORDER})


def turned(maps):
    """Class maps of the default palette, in `TURNED`."""
    return np.argsort(ORDER).astype(np.uint8)[maps]


def in_both(houses, measured):
    """What `measured(maps, palette)` finds of the houses in the default palette and in the same in another order."""
    return measured(houses, DEFAULT_PALETTE), measured(turned(houses), TURNED)


def test_pictures_are_shrunk_alike_whatever_the_order_of_the_classes(houses):
    rgb = DEFAULT_PALETTE.rgb_from_classes(houses[0])
    assert np.array_equal(resize_layout(rgb, 32, DEFAULT_PALETTE), resize_layout(rgb, 32, TURNED))


def test_rules_judge_alike_whatever_the_order_of_the_classes(houses):
    def statistics(maps, palette):
        rules = calibrate(maps, np.zeros(len(maps)), 12.0, 0.9, palette)
        return rules.measure(maps, np.zeros(len(maps))), rules.check(maps, np.zeros(len(maps)))

    (one, kept), (other, also_kept) = in_both(houses, statistics)
    assert one.round(9).equals(other.round(9)) and kept.equals(also_kept)
    assert one["pieces"].min() > 0 and kept[list(RULES)].to_numpy().any()


def test_the_second_judge_judges_alike_whatever_the_order_of_the_classes(houses):
    def judged(maps, palette):
        judge = SecondJudge.calibrate(maps, palette)
        return judge.as_json(), judge.check(maps), doorless(maps, palette)

    one, other = in_both(houses, judged)
    assert one[0] == other[0] and one[1].equals(other[1]) and (one[2] == other[2]).all()


def test_figures_of_distributions_are_alike_whatever_the_order_of_the_classes(houses, trunk):
    def figures(maps, palette):
        space = FeatureSpace.fit(maps[:20], PerceptualLossSection(backbone=str(trunk)), palette)
        agreement = nearest_training(maps[20:], maps[:20], len(palette))
        return space(maps[20:24]), class_divergence(maps[:20], maps[20:], palette), agreement

    one, other = in_both(houses[:, ::4, ::4], figures)
    assert np.array_equal(one[0], other[0]) and one[1] == pytest.approx(other[1]) and np.array_equal(one[2], other[2])


def test_a_file_gives_names_and_colours_in_order(tmp_path):
    assert read_palette(configured(write_palette(tmp_path / "palette.yaml"))) == OWN


def test_the_same_file_gives_the_same_object_and_a_changed_one_another(tmp_path):
    config = configured(write_palette(tmp_path / "palette.yaml"))
    first = read_palette(config)
    assert read_palette(config) is first
    write_palette(tmp_path / "palette.yaml", TURNED)
    assert read_palette(config) == TURNED


def test_without_a_file_the_palette_is_the_default_one():
    config = ExperimentConfig.model_validate({"experiment": {"name": "x"}, "dataset": {"manifest": "/m.csv"}})
    assert read_palette(config) is DEFAULT_PALETTE and palette_input(config) == {}


def test_a_file_of_the_default_palette_is_no_other_palette(tmp_path):
    assert palette_input(configured(write_palette(tmp_path / "palette.yaml", DEFAULT_PALETTE))) == {}
    own = write_palette(tmp_path / "own.yaml")
    assert palette_input(configured(own)) == {"palette": str(own)}


def test_a_file_may_lie_in_a_bucket(moto_place, tmp_path):
    moto_place.overwrite("palettes/own.yaml", write_palette(tmp_path / "own.yaml").read_bytes())
    config = configured(f"{moto_place.uri}/palettes/own.yaml", **moto_place.artifacts.model_dump())
    assert read_palette(config) == OWN
    missing = config.with_values({"dataset.palette": f"{moto_place.uri}/palettes/other.yaml"})
    with pytest.raises(InputError, match=r"^s3://.*other\.yaml does not exist: give the address of an existing file$"):
        read_palette(missing)


THREE = "wall: [200, 200, 200]\nbackground: [240, 240, 240]\n"
REFUSED = {
    "too few classes": (THREE, r"has 2 classes: give 3 to 64$"),
    "no class": ("{}", r"has 0 classes: give 3 to 64$"),
    "too many classes": (
        THREE + "".join(f"c{index}: [{4 * index}, 0, {255 - 3 * index}]\n" for index in range(63)),
        r"has 65 classes: give 3 to 64$",
    ),
    "a value above 255": (
        THREE + "bed: [256, 0, 0]",
        r"gives bed the colour \[256, 0, 0\]: give three whole numbers from 0 to 255, or text such as \"#e41a1c\"$",
    ),
    "a value below 0": (THREE + "bed: [-1, 0, 0]", r"gives bed the colour \[-1, 0, 0\]: give three whole numbers"),
    "a fraction": (THREE + "bed: [0.5, 0, 0]", r"gives bed the colour \[0\.5, 0, 0\]: give three whole numbers"),
    "true": (THREE + "bed: [true, 0, 0]", r"gives bed the colour \[True, 0, 0\]: give three whole numbers"),
    "two values": (THREE + "bed: [1, 2]", r"gives bed the colour \[1, 2\]: give three whole numbers"),
    "a name of a colour": (THREE + "bed: red", r"gives bed the colour 'red': give three whole numbers"),
    "a short hexadecimal": (THREE + 'bed: "#fff"', r"gives bed the colour '#fff': give three whole numbers"),
    "a hexadecimal without quotes": (THREE + "bed: #ffffff", r"gives bed the colour null: give three whole numbers"),
    "equal colours": (
        THREE + "bed: [1, 2, 3]\nsofa: [1, 2, 3]",
        r"gives bed and sofa the same colour \[1, 2, 3\]: change one$",
    ),
    "colours too close": (
        THREE + "bed: [236, 236, 236]",
        r"gives background and bed colours that differ by 12 in all channels together, too little to tell them "
        r"apart in pictures: let them differ by more than 12$",
    ),
    "equal names": (
        THREE + "bed: [1, 2, 3]\nbed: [200, 0, 0]",
        r"is not valid YAML at line 4 \(bed is given twice, first at line 3: keep one\): correct the file$",
    ),
    "no wall": (
        "walls: [200, 200, 200]\nbackground: [240, 240, 240]\nbed: [1, 2, 3]",
        r"has no class wall, which the rules of layouts need: give the class that name$",
    ),
    "no background": ("wall: [200, 200, 200]\nfloor: [240, 240, 240]\nbed: [1, 2, 3]", r"has no class background, "),
    "a list": (
        "[[1, 2, 3], [4, 5, 6]]",
        r"holds \[\[1, 2, 3\], \[4, 5, 6\]\], not a map of names and colours: write a line for each class, such as "
        r"bed: \[228, 26, 28\]$",
    ),
    "nothing": ("", r"holds null, not a map of names and colours: "),
    "text": ("bed", r"holds 'bed', not a map of names and colours: "),
    "a number as a name": (THREE + "7: [1, 2, 3]", r"has the class 7, which is not text: put the name in quotes$"),
    "an empty name": (THREE + '"": [1, 2, 3]', r"has the class '': give a name of 1 to 64 printable characters$"),
    "a long name": (THREE + f"{'n' * 65}: [1, 2, 3]", r"has the class 'n+.*: give a name of 1 to 64 printable"),
    "a name of two lines": (THREE + '"a\\nb": [1, 2, 3]', r"has the class 'a\\nb': give a name of 1 to 64 printable"),
}


@pytest.mark.parametrize("given_", REFUSED)
def test_a_file_that_is_no_palette_is_refused_in_one_line(read, tmp_path, given_):
    text, line = REFUSED[given_]
    with pytest.raises(InputError, match=rf"^dataset\.palette {re.escape(str(tmp_path))}/palette\.yaml {line}") as told:
        read(text)
    assert str(told.value).isprintable()


def test_colours_just_far_enough_apart_are_told_apart(read):
    palette = read(THREE + "bed: [235, 236, 236]")
    assert palette.tolerance == 6 and palette.half_way == 6.5
    off_by_two = np.array([[238, 242, 240], [233, 238, 234]], np.uint8)
    assert palette.classes_from_rgb(off_by_two).tolist() == [1, 2]


def test_a_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(InputError, match=r"^dataset\.palette .*/none\.yaml does not exist: give the path of "):
        read_palette(configured(tmp_path / "none.yaml"))


def test_generated_layouts_are_in_the_default_palette_only():
    with pytest.raises(ValueError, match=r"palette /p\.yaml is for pictures of a manifest, and synthetic layouts are"):
        ExperimentConfig.model_validate(
            {"experiment": {"name": "x"}, "dataset": {"synthetic": {}, "palette": "/p.yaml"}}
        )
