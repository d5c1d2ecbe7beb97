"""Whether pictures are layouts in the palette's colours, and a diagnosis if they are not.

Pictures may be compressed by JPEG or have smooth edges. Measured on 40 real layouts, pooled (and for the worst single
picture): with JPEG at quality 30 to 95, WebP, and reductions to 32 to 256 pixels by every filter, at most 9 % (18 %) of
the pixels are far from every palette colour, and at most 0.4 % (2.9 %) lie in a flat block of a colour outside the
palette. Without compression and reduction, both are 0. Swapped red and blue, grey furniture, black walls, a white
background and one class in another colour put 1.8 to 80 % of the pixels in such flat blocks. With class indices and
other palettes, more than 90 % of the pixels are far from the palette, which was the default one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from core.data.palette import DEFAULT_PALETTE, UNLABELLED, Palette

# Colours of floor, structure and ceiling in published layouts. They have no class and stay unlabelled.
_STRUCTURE = np.array([(50, 50, 50), (49, 49, 49), (0, 0, 0), (255, 255, 255), (211, 211, 211)])
_EXCHANGES = {"red and blue": [2, 1, 0], "red and green": [1, 0, 2], "green and blue": [0, 2, 1]}
# Pixels a side of a first look at a picture. If all of them are in the palette, the picture is accepted.
_LOOK = 128
# Fewer far pixels than this say nothing about exchanged channels.
_FEWEST_EXCHANGED = 8
# Pictures with only values below this seem to hold class indices, not dark colours.
_MOST_INDICES = 64


class Bounds(NamedTuple):
    """Greatest shares of the pixels that may be outside the palette.

    `unlabelled` bounds all of them, `far` those far from every colour, `flat` those in flat blocks without the colours
    of structure, `with_structure` those with them. Above the share `exchanged` of far pixels, exchanged channels are
    looked for.
    """

    unlabelled: float
    far: float
    flat: float
    with_structure: float
    exchanged: float


POOLED = Bounds(unlabelled=0.75, far=0.25, flat=0.01, with_structure=0.05, exchanged=0.01)
# For one picture, which may be unusual.
SINGLE = Bounds(unlabelled=0.9, far=0.5, flat=0.1, with_structure=0.5, exchanged=0.05)


class Colours(NamedTuple):
    """Counts of a picture's pixels by their relation to the palette, and what its unlabelled pixels look like."""

    pixels: int
    unlabelled: int
    far: int  # from every palette colour
    flat: int  # unlabelled, in flat blocks
    foreign: int  # those in flat blocks that do not have a colour of structure
    exchanged: tuple[int, ...]  # far after each exchange of channels
    largest: int  # value of an unlabelled pixel
    grey: bool  # whether every unlabelled pixel is
    commonest: tuple[int, tuple[int, ...]]  # colour in flat blocks, after its count
    walls: int


def count_colours(rgb: np.ndarray, palette: Palette) -> Colours:
    """Counts of the colours of a picture, uint8 [H, W, 3]."""
    step = max(1, max(rgb.shape[:2]) // _LOOK)
    look = rgb[::step, ::step]
    pixels = rgb.shape[0] * rgb.shape[1]
    classes = palette.classes_from_rgb(look)
    if not (classes == UNLABELLED).any():
        walls = round((classes == palette.wall).mean() * pixels)
        return Colours(pixels, 0, 0, 0, 0, (0,) * len(_EXCHANGES), 0, True, (0, ()), walls)
    classes = palette.classes_from_rgb(rgb)
    unlabelled, walls = classes == UNLABELLED, int((classes == palette.wall).sum())
    odd = rgb[unlabelled]
    packed = _packed(rgb)
    numbers, counts = np.unique(packed[unlabelled & _flat(packed)], return_counts=True)
    foreign = int(counts[~np.isin(numbers, _packed(_STRUCTURE))].sum())
    most = int(counts.argmax()) if len(counts) else 0
    colour = tuple(int(numbers[most]) >> shift & 255 for shift in (16, 8, 0)) if len(counts) else ()
    commonest = (int(counts[most]) if len(counts) else 0, colour)
    far, *exchanged = (
        round(palette.off_palette(look[..., order]).mean() * pixels) for order in ([0, 1, 2], *_EXCHANGES.values())
    )
    grey = bool((odd == odd[:, :1]).all())
    flat, largest = int(counts.sum()), int(odd.max()) if len(odd) else 0
    return Colours(pixels, len(odd), far, flat, foreign, tuple(exchanged), largest, grey, commonest, walls)


def fault_of(pictures: Sequence[Colours], bounds: Bounds, palette: Palette) -> str | None:
    """What is wrong with pictures of these colours and what to do about it; None if they are in the palette."""
    pixels, unlabelled, far, flat, foreign = np.array([colours[:5] for colours in pictures]).sum(0) / 1.0
    exchanged = np.array([colours.exchanged for colours in pictures]).sum(0)
    share = f"{100 * unlabelled / pixels:.3g} % of the pixels are not in a colour of the palette"
    if far > max(bounds.exchanged * pixels, _FEWEST_EXCHANGED) and exchanged.min() < far / 4:
        channels = list(_EXCHANGES)[int(exchanged.argmin())]
        return f"{share}; {channels} seem to be exchanged: write the picture in the order red, green, blue"
    # Real layouts have walls. If these have none, their walls may be drawn in a colour of structure.
    walled = len(pictures) == 1 or any(colours.walls for colours in pictures)
    structure = bounds.with_structure if walled else bounds.flat
    if far <= bounds.far * pixels and foreign <= bounds.flat * pixels and flat <= structure * pixels:
        if unlabelled <= bounds.unlabelled * pixels:
            return None
        return f"{share}, close to one but not in it, as by noise or strong compression: save the picture as PNG"
    grey, largest = all(colours.grey for colours in pictures), max(colours.largest for colours in pictures)
    if grey and largest < _MOST_INDICES and unlabelled > 0.9 * pixels:
        return f"{share}; they seem to be class indices (0 to {largest}): write each class in its colour"
    kind = "shades of grey" if grey else "colours of another palette"
    count, colour = max(colours.commonest for colours in pictures)
    most = f", most often {colour}" if count else ""
    known = (
        "core/data/palette.py, or name yours in dataset.palette" if palette == DEFAULT_PALETTE else "dataset.palette"
    )
    return f"{share}; they seem to be {kind}{most}: write each class in its colour of {known}"


def _packed(rgb: np.ndarray) -> np.ndarray:
    """Each of the colours [..., 3] as one number, int32 [...]."""
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _flat(packed: np.ndarray) -> np.ndarray:
    """Which pixels have the same colour as their neighbours above, left and above left: bool [H, W]."""
    flat = np.zeros(packed.shape, bool)
    here = packed[1:, 1:]
    flat[1:, 1:] = (here == packed[:-1, 1:]) & (here == packed[1:, :-1]) & (here == packed[:-1, :-1])
    return flat
