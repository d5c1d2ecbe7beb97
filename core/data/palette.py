"""The classes of room layouts, the colour of each, and which pixel of a picture is of which class."""

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
Mask = NDArray[np.bool_]

UNLABELLED = 255
FEWEST_CLASSES, MOST_CLASSES = 3, 64
# Rules and figures need these two. Every other class is furniture.
WALL_NAME, BACKGROUND_NAME = "wall", "background"

# Writers of augmented layouts truncate instead of rounding, so a colour may be off by one or two in each channel. A
# pixel within the wide tolerance (L1) of a colour is of its class; where colours are closer to each other, the
# tolerance is smaller, so that no pixel is within that of two. It must leave room for being off by two.
_WIDE_TOLERANCE, _LEAST_TOLERANCE = 12, 6


@dataclass(frozen=True)
class Palette:
    """The classes of layouts: the name and colour of each. A class's index is its position.

    Raises ValueError for names or colours that layouts cannot have: too few or too many, equal or too similar ones,
    none called `wall` or `background`.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]

    def __post_init__(self) -> None:
        if not FEWEST_CLASSES <= len(self.names) <= MOST_CLASSES:
            raise ValueError(f"has {len(self.names)} classes: give {FEWEST_CLASSES} to {MOST_CLASSES}")
        if len(self.names) != len(self.colours):
            raise ValueError(f"has {len(self.names)} names and {len(self.colours)} colours: give one for each class")
        for name, colour in zip(self.names, self.colours, strict=True):
            if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
                raise ValueError(f"gives {name} the colour {list(colour)}: give three whole numbers from 0 to 255")
        twice = next((name for name in self.names if self.names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"names {twice} twice: give each class a name of its own")
        missing = next((name for name in (WALL_NAME, BACKGROUND_NAME) if name not in self.names), None)
        if missing is not None:
            raise ValueError(f"has no class {missing}, which the rules of layouts need: give the class that name")
        self._require_distinct_colours()

    def _require_distinct_colours(self) -> None:
        distance, first, second = _closest_pair(self.colours)
        if distance > 2 * _LEAST_TOLERANCE:
            return
        one, other = self.names[first], self.names[second]
        if distance == 0:
            raise ValueError(f"gives {one} and {other} the same colour {list(self.colours[first])}: change one")
        raise ValueError(
            f"gives {one} and {other} colours that differ by {distance} in all channels together, too little to tell "
            f"them apart in pictures: let them differ by more than {2 * _LEAST_TOLERANCE}"
        )

    @classmethod
    def of(cls, colours: Mapping[str, Colour]) -> "Palette":
        """The palette of these names and colours, in order; ValueError as above."""
        return cls(tuple(colours), tuple(colours.values()))

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.names)

    @functools.cached_property
    def rgb(self) -> NDArray[np.uint8]:
        """Colour of each class, uint8 [classes, 3], read-only."""
        colours = np.array(self.colours, dtype=np.uint8)
        colours.setflags(write=False)
        return colours

    @functools.cached_property
    def wall(self) -> int:
        """Index of the class of walls."""
        return self.names.index(WALL_NAME)

    @functools.cached_property
    def background(self) -> int:
        """Index of the class of floor and of what is outside."""
        return self.names.index(BACKGROUND_NAME)

    @functools.cached_property
    def furniture(self) -> tuple[int, ...]:
        """Indices of the classes of furniture: all others, in order."""
        return tuple(index for index in range(len(self)) if index not in (self.wall, self.background))

    @functools.cached_property
    def half_way(self) -> float:
        """Half the distance (L1) between the two closest colours."""
        return _closest_pair(self.colours)[0] / 2

    @functools.cached_property
    def tolerance(self) -> int:
        """Distance (L1) from its colour up to which a pixel is of a class; less than half that of any two colours."""
        return min(_WIDE_TOLERANCE, (_closest_pair(self.colours)[0] - 1) // 2)

    def is_furniture(self, classes: np.ndarray) -> Mask:
        """Which pixels of class maps without unlabelled ones are furniture: bool, of the shape of `classes`."""
        mask: Mask = (classes != self.wall) & (classes != self.background)
        return mask

    def classes_from_rgb(self, rgb: np.ndarray) -> np.ndarray:
        """Class index of every pixel: uint8 [..., H, W] from uint8 RGB [..., H, W, 3].

        A pixel further than `tolerance` (L1) from every colour is `UNLABELLED`.
        """
        red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
        classes: np.ndarray = _class_of_color(self)[red << 16 | green << 8 | blue]
        return classes

    def rgb_from_classes(self, classes: np.ndarray) -> np.ndarray:
        """Picture in the palette's colours, uint8 [..., H, W, 3], of class indices [..., H, W]."""
        picture: np.ndarray = self.rgb[classes]
        return picture

    def off_palette(self, rgb: np.ndarray) -> np.ndarray:
        """Which pixels of RGB [..., H, W, 3], 0 to 255, are not in one of the colours: bool [..., H, W].

        Their L1 distance from every colour is above half that of the two closest colours.
        """
        far = np.ones(rgb.shape[:-1], bool)
        for color in self.rgb.astype(np.float32):
            far &= np.abs(rgb - color).sum(-1) > self.half_way
        return far


def _closest_pair(colours: tuple[Colour, ...]) -> tuple[int, int, int]:
    """Distance (L1) between the two closest colours, and their positions."""
    distances = (
        (sum(abs(a - b) for a, b in zip(colours[one], colours[other], strict=True)), one, other)
        for one, other in itertools.combinations(range(len(colours)), 2)
    )
    return min(distances)


# Few palettes are in use at a time, and a table takes 16 MiB.
@functools.lru_cache(maxsize=4)
def _class_of_color(palette: Palette) -> np.ndarray:
    """Class of every 24-bit colour, uint8 [2^24]. The neighbourhoods of the palette's colours do not overlap."""
    table = np.full(2**24, UNLABELLED, np.uint8)
    span = np.arange(-palette.tolerance, palette.tolerance + 1)
    shifts = np.stack(np.meshgrid(span, span, span), axis=-1).reshape(-1, 3)
    shifts = shifts[np.abs(shifts).sum(-1) <= palette.tolerance]
    for index, color in enumerate(palette.rgb.astype(np.int32)):
        near = color + shifts
        red, green, blue = near[((near >= 0) & (near <= 255)).all(-1)].T
        table[red << 16 | green << 8 | blue] = index
    return table


# Colours and order are the ten-class map of the published models; background is last.
DEFAULT_PALETTE = Palette.of(
    {
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
)
