"""The fixed colours of room layouts and the class index each stands for."""

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

# Writers of augmented layouts truncate where they should round, so a colour may be off by one or two; the two
# closest palette colours are 110 apart (L1), so this tolerance cannot confuse classes.
TOLERANCE = 12


def classes_from_rgb(rgb: np.ndarray) -> np.ndarray:
    """Class index of every pixel: uint8 [..., H, W] from uint8 RGB [..., H, W, 3].

    A pixel further than `TOLERANCE` (L1) from every palette colour is `UNLABELLED`.
    """
    distance = np.abs(rgb[..., None, :].astype(np.int16) - COLORS.astype(np.int16)).sum(-1)
    classes = distance.argmin(-1).astype(np.uint8)
    classes[distance.min(-1) > TOLERANCE] = UNLABELLED
    return classes


def rgb_from_classes(classes: np.ndarray) -> np.ndarray:
    """Palette picture, uint8 [..., H, W, 3], of class indices in 0..9, [..., H, W]."""
    return COLORS[classes]
