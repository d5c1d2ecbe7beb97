"""Measures of layouts for the second judge: of the outline, the walls, the openings, the floor and the furniture."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from core.data.palette import Palette

# Maps up to this side are doubled. Then a body of an odd number of pixels, which has a centre, fits any gap.
_DOUBLED = 128
# Pixels that are measured together: a few hundred MB of labels.
_CHUNK_PIXELS = 4 * 2**20

# Shares of a map's side: gaps in the outline up to the first count as openings; a square as wide as the second does
# not fit into a wall, and a part of a wall that is shorter is a crumb.
_SPAN, _BLOB = 0.6, 0.1
# A dot is a piece of furniture of at most this share of the map, or this many cells.
_DOT_AREA, _DOT_CELLS = 0.002, 2
# Names of classes that are rectangles but for what stands on or before them. Smaller pieces, as a share of the map,
# have no form to speak of.
_RECTANGULAR, _LARGE = ("bed", "cabinet", "sofa", "table"), 0.01
# Parts of a house are at least this share of its largest part.
_PART = 0.5
# Share of a house's inside that walls close off if nothing leads out.
_DOORLESS = 0.8

# Neighbours in the plane of a map. Floor is connected by edges, so that walls that touch by corners are closed; walls
# and furniture are connected by corners too.
_EDGES, _CORNERS = (
    np.pad(ndimage.generate_binary_structure(2, reach)[None], ((1, 1), (0, 0), (0, 0))) for reach in (1, 2)
)


class Parts(NamedTuple):
    """Connected parts of a stack of maps: their labels from 1; for each its map, its area and its bounding box."""

    labels: np.ndarray
    maps: np.ndarray
    area: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    left: np.ndarray
    right: np.ndarray

    @property
    def height(self) -> np.ndarray:
        """Pixels from the top to the bottom of each box."""
        height: np.ndarray = self.bottom - self.top
        return height

    @property
    def width(self) -> np.ndarray:
        """Pixels from the left to the right of each box."""
        width: np.ndarray = self.right - self.left
        return width

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum of `values`, one for each part, in each map: float64 [N]."""
        total: np.ndarray = np.bincount(self.maps, values, len(self.labels)).astype(float)
        return total

    def covered(self, mask: np.ndarray) -> np.ndarray:
        """Number of the pixels of each box that are in `mask` [N, H, W]."""
        sums = np.pad(mask.cumsum(1, np.int32).cumsum(2), ((0, 0), (1, 0), (1, 0)))
        below, above = (
            (sums[self.maps, row, self.right] - sums[self.maps, row, self.left]) for row in (self.bottom, self.top)
        )
        covered: np.ndarray = below - above
        return covered


class Plan(NamedTuple):
    """A stack of class maps in a palette and masks, [N, H, W], with an empty margin of one pixel.

    `house` is what the outer walls enclose, their openings closed; `outline` its outermost pixels. `cell` is the
    number of pixels to a side of a cell of the audited maps, `side` that of the maps, without the margin.
    """

    classes: np.ndarray
    palette: Palette
    wall: np.ndarray
    furniture: np.ndarray
    house: np.ndarray
    outline: np.ndarray
    cell: int
    side: int


def measure(classes: np.ndarray, body: float, palette: Palette) -> pd.DataFrame:
    """The measures of class maps in a palette, uint8 [N, S, S]: float64, a row for each map, a column for each measure.

    Lengths are shares of the map's side. `body`, such a share, is the width of what walks through the house. Measures
    do not change if a map is turned or mirrored. Raises ValueError for an array of another form.
    """
    return pd.concat([_measure(plan, body) for plan in _plans(classes, palette)], ignore_index=True)


def narrowest_openings(classes: np.ndarray, palette: Palette) -> np.ndarray:
    """Width of the narrowest opening in the outline of each map of `measure`, a share of its side; 0 without one."""
    return np.concatenate([_openings(plan)["narrowest_opening"] for plan in _plans(classes, palette)])


def doorless(classes: np.ndarray, palette: Palette) -> np.ndarray:
    """Which class maps, uint8 [N, S, S], are houses from which nothing leads out: bool [N].

    Their walls close off nearly all that is inside, whatever furniture stands where. A map whose walls enclose nothing
    is not such a house. Raises ValueError for an array of another form.
    """
    return np.concatenate([_shut_floor(plan) >= _DOORLESS for plan in _plans(classes, palette)])


def _plans(classes: np.ndarray, palette: Palette) -> Iterator[Plan]:
    if classes.ndim != 3 or classes.shape[1] != classes.shape[2] or classes.dtype != np.uint8 or not classes.size:
        raise ValueError(f"class maps must be uint8 [N, S, S], got {classes.dtype} {list(classes.shape)}")
    cell = 2 if classes.shape[1] <= _DOUBLED else 1
    side = classes.shape[1] * cell
    rows = max(1, _CHUNK_PIXELS // side**2)
    for start in range(0, len(classes), rows):
        maps = classes[start : start + rows].repeat(cell, 1).repeat(cell, 2)
        maps = np.pad(maps, ((0, 0), (1, 1), (1, 1)), constant_values=palette.background)
        wall = maps == palette.wall
        house = _house(wall, _odd(_SPAN * side))
        furniture = palette.is_furniture(maps)
        yield Plan(maps, palette, wall, furniture, house, house & ~_eroded(house), cell, side)


def _house(wall: np.ndarray, span: int) -> np.ndarray:
    """What walls enclose if gaps narrower than `span` are closed, without small parts that lie apart."""
    reach = span // 2
    padded = np.pad(wall, ((0, 0), (reach, reach), (reach, reach)))
    closed = ndimage.maximum_filter(padded, (1, span, span), mode="constant")
    closed = ndimage.minimum_filter(closed, (1, span, span), mode="constant")[:, reach:-reach, reach:-reach]
    parts = _parts(closed | _closed_off(closed), _CORNERS)
    largest = np.zeros(len(wall))
    np.maximum.at(largest, parts.maps, parts.area)
    kept: np.ndarray = np.append(False, parts.area >= _PART * largest[parts.maps])[parts.labels]
    return kept


def _eroded(house: np.ndarray) -> np.ndarray:
    """The house without its outermost pixels, which are those with an edge to the outside."""
    eroded = np.zeros_like(house)
    eroded[:, 1:-1, 1:-1] = house[:, 2:, 1:-1] & house[:, :-2, 1:-1] & house[:, 1:-1, 2:] & house[:, 1:-1, :-2]
    return eroded


def _measure(plan: Plan, body: float) -> pd.DataFrame:
    floor = {"shut_floor": _shut_floor(plan), "unreached_floor": _unreached_floor(plan, body)}
    return pd.DataFrame(_outline(plan) | _walls(plan) | _openings(plan) | floor | _furniture(plan))


def _outline(plan: Plan) -> dict[str, np.ndarray]:
    rows, columns = plan.house.any(2).sum(1), plan.house.any(1).sum(1)
    return {
        "house_fill": _share(_sums(plan.house), rows * columns),
        "outline_corners": _corners(plan.house),
    }


def _walls(plan: Plan) -> dict[str, np.ndarray]:
    parts = _parts(plan.wall, _CORNERS)
    size = _odd(_BLOB * plan.side)
    blobs = ndimage.minimum_filter(plan.wall, (1, size, size), mode="constant")
    blobs = ndimage.maximum_filter(blobs, (1, size, size), mode="constant")
    loose = np.ones(len(parts.area), bool)
    loose[parts.labels[plan.wall & plan.outline] - 1] = False
    area = _sums(plan.wall)
    return {
        "wall_parts": parts.total(np.ones(len(parts.area))),
        "wall_crumbs": parts.total(np.maximum(parts.height, parts.width) < _BLOB * plan.side),
        "loose_wall": _share(parts.total(parts.area * loose), area),
        "wall_blobs": _share(_sums(blobs), area),
        "wall_corners": _corners(plan.wall),
    }


def _openings(plan: Plan) -> dict[str, np.ndarray]:
    parts = _parts(plan.outline & ~plan.wall, _CORNERS)
    # An opening one pixel deep has as many pixels as it is wide.
    width = parts.area / plan.side
    widest, narrowest = np.zeros(len(plan.wall)), np.full(len(plan.wall), np.inf)
    np.maximum.at(widest, parts.maps, width)
    np.minimum.at(narrowest, parts.maps, width)
    narrowest[np.isinf(narrowest)] = 0
    return {
        "openings": parts.total(np.ones(len(parts.area))),
        "narrowest_opening": narrowest,
        "widest_opening": widest,
    }


def _shut_floor(plan: Plan) -> np.ndarray:
    """Share of the inside of each house that walls close off from the outside."""
    inside = plan.house & ~plan.wall
    return _share(_sums(_closed_off(plan.wall) & inside), _sums(inside))


def _unreached_floor(plan: Plan, body: float) -> np.ndarray:
    """Share of the places inside where a body fits that it cannot reach from outside; 1 if it fits nowhere."""
    size = _odd(body * plan.side)
    taken = ndimage.maximum_filter(plan.wall | plan.furniture, (1, size, size), mode="constant")
    places = plan.house & ~taken
    standing = _sums(places)
    return np.where(standing > 0, _share(_sums(_closed_off(taken) & places), standing), 1)


def _furniture(plan: Plan) -> dict[str, np.ndarray]:
    count = len(plan.classes)
    number, dots, area, around, worst = (np.zeros(count) for _ in range(5))
    dot = max(_DOT_AREA * plan.side**2, _DOT_CELLS * plan.cell**2)
    for kind in plan.palette.furniture:
        parts = _parts(plan.classes == kind, _CORNERS)
        number += parts.total(np.ones(len(parts.area)))
        dots += parts.total(parts.area <= dot)
        area += parts.total(parts.area)
        around += parts.total(2 * (parts.height + parts.width))
        if plan.palette.names[kind] in _RECTANGULAR:
            # Another piece in the box may hide a part of this one.
            empty = 1 - parts.covered(plan.furniture) / (parts.height * parts.width)
            np.maximum.at(worst, parts.maps, np.where(parts.area >= _LARGE * plan.side**2, empty, 0))
    return {
        "pieces": number,
        "dots": dots,
        "empty_box": worst,
        "ragged_edges": np.where(around > 0, _share(_edges(plan), around) - 1, 0),
        "furnished_floor": _share(_sums(plan.furniture & plan.house), _sums(plan.house & ~plan.wall)),
        "furniture_outside": _share(_sums(plan.furniture & ~plan.house), area),
        "furniture_in_outline": _share(_sums(plan.furniture & plan.outline), _sums(plan.outline)),
    }


def _edges(plan: Plan) -> np.ndarray:
    """Number of pixel edges between a piece of furniture and something else in each map."""
    edges = np.zeros(len(plan.classes))
    for before, after in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:, :, :-1], np.s_[:, :, 1:]),
    ):
        differ = plan.classes[before] != plan.classes[after]
        edges += _sums(differ & plan.furniture[before]) + _sums(differ & plan.furniture[after])
    return edges


def _corners(mask: np.ndarray) -> np.ndarray:
    """Number of corners of the outlines of each mask: 4 for a rectangle, 6 for an L."""
    first, second, third, fourth = (mask[:, y : y - 1 or None, x : x - 1 or None] for y in (0, 1) for x in (0, 1))
    odd = first ^ second ^ third ^ fourth
    crossed = (first == fourth) & (second == third) & (first != second)
    corners: np.ndarray = _sums(odd) + 2 * _sums(crossed)
    return corners


def _closed_off(barrier: np.ndarray) -> np.ndarray:
    """What is no barrier and cannot be reached from the margin."""
    labels, count = ndimage.label(~barrier, _EDGES)
    outside = np.zeros(count + 1, bool)
    for margin in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        outside[margin.ravel()] = True
    outside[0] = True
    closed: np.ndarray = ~outside[labels]
    return closed


def _parts(mask: np.ndarray, structure: np.ndarray) -> Parts:
    labels, count = ndimage.label(mask, structure)
    boxes = [
        (at.start, rows.start, rows.stop, columns.start, columns.stop)
        for at, rows, columns in ndimage.find_objects(labels)
    ]
    maps, *sides = np.array(boxes, int).reshape(-1, 5).T
    return Parts(labels, maps, np.bincount(labels.ravel(), minlength=count + 1)[1:], *sides)


def _sums(mask: np.ndarray) -> np.ndarray:
    sums: np.ndarray = mask.sum((1, 2)).astype(float)
    return sums


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    share: np.ndarray = part / np.maximum(whole, 1)
    return share


def _odd(pixels: float) -> int:
    """The largest odd number of pixels that is at most `pixels`, but at least 1."""
    return max(1, 2 * int((pixels - 1) // 2) + 1)
