"""The fixed colours of room layouts and the class index of each."""

import functools

import numpy as np

# Class index = position. Colours and order are the ten-class map of the published models; background is last.
PALETTE: dict[str, tuple[int, int, int]] = {
    "bed": (228, 26, 28),
    "cabinet": (55, 126, 184),
    "chair": (77, 175, 74),
    "lighting": (152, 78, 163),
    "others": (127, 127, 127),
    "stool": (255, 127, 0),
    "sofa": (255, 255, 51),
    "table": (166, 86, 40),
    "wall": (200, 200, 200),
    "background": (240, 240, 240),
}
CLASS_NAMES = tuple(PALETTE)
COLORS = np.array(list(PALETTE.values()), dtype=np.uint8)
NUM_CLASSES = len(CLASS_NAMES)
WALL = CLASS_NAMES.index("wall")
BACKGROUND = CLASS_NAMES.index("background")
UNLABELLED = 255

# Writers of augmented layouts truncate instead of rounding, so a colour may be off by one or two. The two closest
# palette colours are 110 apart (L1), so this tolerance cannot confuse classes.
TOLERANCE = 12
# Half the distance between those two.
_HALF_WAY = 55


def classes_from_rgb(rgb: np.ndarray) -> np.ndarray:
    """Class index of every pixel: uint8 [..., H, W] from uint8 RGB [..., H, W, 3].

    A pixel further than `TOLERANCE` (L1) from every palette colour is `UNLABELLED`.
    """
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    classes: np.ndarray = _class_of_color()[red << 16 | green << 8 | blue]
    return classes


@functools.cache
def _class_of_color() -> np.ndarray:
    """Class of every 24-bit colour, uint8 [2^24]. The neighbourhoods of the palette's colours do not overlap."""
    table = np.full(2**24, UNLABELLED, np.uint8)
    span = np.arange(-TOLERANCE, TOLERANCE + 1)
    shifts = np.stack(np.meshgrid(span, span, span), axis=-1).reshape(-1, 3)
    shifts = shifts[np.abs(shifts).sum(-1) <= TOLERANCE]
    for index, color in enumerate(COLORS.astype(np.int32)):
        near = color + shifts
        red, green, blue = near[((near >= 0) & (near <= 255)).all(-1)].T
        table[red << 16 | green << 8 | blue] = index
    return table


def rgb_from_classes(classes: np.ndarray) -> np.ndarray:
    """Palette picture, uint8 [..., H, W, 3], of class indices in 0..9, [..., H, W]."""
    rgb: np.ndarray = COLORS[classes]
    return rgb


def off_palette(rgb: np.ndarray) -> np.ndarray:
    """Which pixels of RGB [..., H, W, 3], 0 to 255, are not in a palette colour: bool [..., H, W].

    Their L1 distance from every palette colour is above half that of the two closest palette colours.
    """
    far = np.ones(rgb.shape[:-1], bool)
    for color in COLORS.astype(np.float32):
        far &= np.abs(rgb - color).sum(-1) > _HALF_WAY
    return far
