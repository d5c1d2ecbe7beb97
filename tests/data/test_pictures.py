"""Pictures: the files that are read, the meaning of their pixels, and the colours that are refused."""

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.data.latents import PackedLatents
from core.data.layout_colours import POOLED, SINGLE, count_colours, fault_of
from core.data.layouts import LayoutPictures
from core.data.palette import DEFAULT_PALETTE
from core.data.picture_files import decode_picture, read_picture
from core.houses.layout_generator import generate_layout
from core.inputs.tensor_files import load_tensors
from core.runtime.errors import InputError

SIZE = 128
BACKGROUND = DEFAULT_PALETTE.background


@pytest.fixture(scope="module")
def layouts():
    """Pictures of generated houses."""
    return [
        DEFAULT_PALETTE.rgb[generate_layout(np.random.default_rng(number), 1 + number % 3, SIZE)]
        for number in range(10)
    ]


def fault(pictures, bounds=POOLED):
    return fault_of([count_colours(np.asarray(rgb), DEFAULT_PALETTE) for rgb in pictures], bounds, DEFAULT_PALETTE)


def stored(rgb, format, **options):
    made = io.BytesIO()
    Image.fromarray(rgb).save(made, format=format, **options)
    return np.asarray(Image.open(made).convert("RGB"))


@pytest.mark.parametrize(
    "change",
    [
        lambda rgb: rgb,
        lambda rgb: rgb - 1,
        lambda rgb: stored(rgb, "JPEG", quality=95),
        lambda rgb: stored(rgb, "JPEG", quality=75),
        lambda rgb: stored(rgb, "JPEG", quality=50),
        lambda rgb: stored(rgb, "WEBP", quality=80),
        lambda rgb: Image.fromarray(rgb).resize((64, 64), Image.Resampling.LANCZOS),
        lambda rgb: Image.fromarray(rgb).resize((32, 32), Image.Resampling.BILINEAR),
    ],
    ids=["exact", "one lower", "jpeg 95", "jpeg 75", "jpeg 50", "webp", "half the size", "a quarter of the size"],
)
def test_compressed_and_smooth_pictures_are_in_the_palette(layouts, change):
    changed = [change(rgb) for rgb in layouts]
    assert fault(changed) is None
    assert not any(fault([rgb], SINGLE) for rgb in changed)


@settings(max_examples=30, deadline=None)
@given(colours=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=10, max_size=10))
def test_any_other_palette_is_found(layouts, colours):
    other = np.array(colours, np.uint8)
    changed = [other[DEFAULT_PALETTE.classes_from_rgb(rgb)] for rgb in layouts]
    foreign = np.mean([(DEFAULT_PALETTE.classes_from_rgb(rgb) == 255).mean() for rgb in changed])
    if foreign > 0.15:
        assert fault(changed) is not None


def test_the_reason_says_what_pictures_seem_to_be(layouts):
    maps = [DEFAULT_PALETTE.classes_from_rgb(rgb) for rgb in layouts]
    words = {
        "class indices (0 to 9)": [np.dstack([m] * 3) for m in maps],
        "red and blue seem to be exchanged": [rgb[..., ::-1] for rgb in layouts],
        "red and green seem to be exchanged": [rgb[..., [1, 0, 2]] for rgb in layouts],
        "shades of grey": [Image.fromarray(rgb).convert("L").convert("RGB") for rgb in layouts],
        "another palette, most often (1, 2, 3)": [np.where((m == BACKGROUND)[..., None], (1, 2, 3), r).astype(np.uint8)
                                                  for m, r in zip(maps, layouts, strict=True)],
    }  # fmt: skip
    for word, pictures in words.items():
        reason = fault(pictures)
        assert reason is not None and word in reason and "%" in reason, reason


def test_one_odd_picture_among_many_is_named(layouts, tmp_path):
    for number, rgb in enumerate(layouts):
        Image.fromarray(DEFAULT_PALETTE.classes_from_rgb(rgb) if number == 7 else rgb).save(tmp_path / f"{number}.png")
    paths = [str(tmp_path / f"{number}.png") for number in range(10)]
    with pytest.raises(InputError, match=r"manifest row 8: picture .*7\.png"):
        LayoutPictures(pd.DataFrame({"path": paths, "manifest_row": range(10)}), "path", 32, DEFAULT_PALETTE)
    with pytest.raises(InputError, match=r"7\.png: 100 % of the pixels"):
        read_picture(paths[7], DEFAULT_PALETTE)


@settings(max_examples=60, deadline=None)
@given(
    format=st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "TGA"]),
    position=st.integers(0, 400),
    flipped=st.integers(1, 255),
    kept=st.integers(0, 2000),
)
def test_damaged_bytes_are_a_picture_or_one_line(tmp_path_factory, format, position, flipped, kept):
    made = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), 240, np.uint8)).save(made, format=format)
    data = bytearray(made.getvalue())
    data[position % len(data)] ^= flipped
    path = tmp_path_factory.mktemp("picture") / "a.png"
    path.write_bytes(data[: max(1, kept)])
    try:
        rgb = decode_picture(path, DEFAULT_PALETTE)
    except InputError as refused:
        assert "a.png" in str(refused)
    else:
        assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3


def test_a_turned_photograph_is_turned(tmp_path):
    rgb = np.full((16, 32, 3), 240, np.uint8)
    rgb[0] = DEFAULT_PALETTE.rgb[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "a.png", DEFAULT_PALETTE), np.rot90(rgb, -1))


def test_walls_in_a_colour_of_structure_are_found_even_where_they_are_few(layouts):
    painted = [np.where((rgb == 200).all(-1, keepdims=True), 0, rgb).astype(np.uint8) for rgb in layouts]
    wide = [np.pad(rgb, ((0, 64), (0, 64), (0, 0)), constant_values=240) for rgb in painted]
    reason = fault(wide)
    assert reason is not None and "(0, 0, 0)" in reason
    # Beside walls of their own colour they are floors and ceilings, which have no class.
    assert fault([*wide[:2], *layouts[2:]]) is None


def test_pictures_that_are_mostly_noise_are_refused(layouts):
    rng = np.random.default_rng(0)
    noisy = [(rgb + rng.normal(0, 10, rgb.shape)).clip(0, 255).astype(np.uint8) for rgb in layouts]
    assert "by noise or strong compression: save the picture as PNG" in fault(noisy)
    slightly = [(rgb + rng.normal(0, 2, rgb.shape)).clip(0, 255).astype(np.uint8) for rgb in layouts]
    assert fault(slightly) is None


def test_a_damaged_note_in_a_picture_does_not_matter(tmp_path):
    rgb = np.full((16, 32, 3), 240, np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=b"Exif\0\0garbage!!")
    assert np.array_equal(read_picture(tmp_path / "a.png", DEFAULT_PALETTE), rgb)


@pytest.mark.parametrize(
    ("start", "word"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"GIF89a", "it is a GIF picture"),
        (b"\0" * 300, "nothing but zeros"),
    ],
)
@pytest.mark.parametrize(
    "read",
    [lambda path: decode_picture(path, DEFAULT_PALETTE), lambda path: load_tensors(path, "latent"), PackedLatents],
)
def test_what_a_file_is_instead_is_said(tmp_path, read, start, word):
    path = tmp_path / "a.bin"
    path.write_bytes(start)
    with pytest.raises(InputError, match=word):
        read(path, (4, 8, 8)) if read is PackedLatents else read(path)
