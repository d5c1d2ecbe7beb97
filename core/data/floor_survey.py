"""Measurements of a house from its class map alone: interior, places to stand and walk, walls, pieces of furniture.

Every function takes a stack of maps: uint8 [N, H, W] of class indices of a palette, with background where the floor or
the outside is. Two cells are neighbours if they share an edge.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from core.data.palette import Mask, Palette

Figures = NDArray[np.float64]

# Neighbours within one map only: by edge, and by edge or corner.
_NEIGHBOURS, _CORNERS = (
    np.pad(ndimage.generate_binary_structure(2, reach)[None], ((1, 1), (0, 0), (0, 0))) for reach in (1, 2)
)
WALL_METRES = 0.17
# (axis, step) to each of a cell's four neighbours.
_SIDES = ((1, 1), (1, -1), (2, 1), (2, -1))


@dataclass(frozen=True)
class Scale:
    """Sizes in pixels: the widest opening that counts as a door, the side of a body, the thickness of a wall."""

    door: int
    body: int
    wall: int


class Pieces(NamedTuple):
    """Connected pieces of furniture: the map each lies in, its kind, its area and its bounding box's, in cells.

    A kind is the position of a class among the palette's `furniture`.
    """

    layout: np.ndarray
    kind: np.ndarray
    area: np.ndarray
    box: np.ndarray


def find_interior(classes: np.ndarray, door: int, palette: Palette) -> Mask:
    """The cells that walls enclose once openings narrower than `door` cells are closed: bool [N, H, W].

    A square of side `door` moves freely outside the walls. Every cell that it cannot cover is inside.
    """
    margin = door + 1
    free = np.pad(classes != palette.wall, ((0, 0), (margin, margin), (margin, margin)), constant_values=True)
    outside = _covered_by_squares(_connected_to_corner(_square_fits(free, door)), door)
    inside = slice(margin, -margin)
    interior: Mask = (free & ~outside)[:, inside, inside]
    return interior


def open_share(interior: Mask, classes: np.ndarray, palette: Palette) -> Figures:
    """Share of the interior's outline that is open instead of wall, [N]; 0 without an interior."""
    walls = classes == palette.wall
    outside = ~interior & ~walls
    to_outside, to_wall = (_shared_edges(interior, other) for other in (outside, walls))
    share: Figures = to_outside / np.maximum(1, to_outside + to_wall)
    return share


def opening_count(interior: Mask, classes: np.ndarray, palette: Palette) -> Figures:
    """Number of separate openings from the interior to the outside, [N]."""
    outside = ~interior & (classes != palette.wall)
    beside = np.logical_or.reduce([_shifted(outside, axis, step) for axis, step in _SIDES])
    labels, count = ndimage.label(interior & beside, _CORNERS)
    return np.bincount(_layout_of_labels(labels, count), minlength=len(classes)).astype(float)


def loose_wall_share(interior: Mask, classes: np.ndarray, wall: int, palette: Palette) -> Figures:
    """Share of wall cells that are further than a wall's thickness plus one cell from any interior, [N]."""
    near = ndimage.maximum_filter(interior, (1, 2 * wall + 3, 2 * wall + 3), mode="constant")
    walls = classes == palette.wall
    share: Figures = _count(walls & ~near) / np.maximum(1, _count(walls))
    return share


def reachable_shares(interior: Mask, classes: np.ndarray, body: int, palette: Palette) -> tuple[Figures, Figures]:
    """Two shares of the places inside where a body can stand, [N] each; 0 if there are none.

    The first is the share that can be reached from outside, the second that of the largest connected part.
    """
    margin = body + 1
    pad = ((0, 0), (margin, margin), (margin, margin))
    standing = _square_fits(np.pad(classes == palette.background, pad, constant_values=True), body)
    labels, count = ndimage.label(standing, _NEIGHBOURS)
    inside = np.pad(interior, pad) & standing
    total = np.maximum(1, _count(inside))
    from_outside = _count(inside & (labels == labels[:, :1, :1])) / total
    # Every label lies in one map only, so the largest part of each map is found for all labels at once.
    sizes = np.bincount(labels[inside], minlength=count + 1)
    layout_of = np.zeros(count + 1, int)
    layout_of[labels[inside]] = np.nonzero(inside)[0]
    largest = np.zeros(len(classes))
    np.maximum.at(largest, layout_of, sizes)
    return from_outside, largest / total


def furniture_in_walls(classes: np.ndarray, scale: Scale, palette: Palette) -> Figures:
    """Number of furniture cells in a doorway or across a wall, [N].

    Such a cell lies in a straight gap of a wall. The gap is at most as long as a door and twice as deep as the wall is
    thick, and no wall remains on either side of the cell.
    """
    wall, furniture = classes == palette.wall, palette.is_furniture(classes)
    deep = 2 * scale.wall + 1
    found = np.zeros(classes.shape, bool)
    for along, across in ((1, 2), (2, 1)):
        # Walls that run along this axis, as a wall does beyond a gap. Those at both ends of a narrow room run across.
        lengthwise = wall & ~_opening(wall, across, deep)
        near = ndimage.maximum_filter1d(lengthwise, 2 * scale.door + 1, along, mode="constant")
        gap = _closing(wall, along, scale.door) & ~wall & near
        thin = gap & ~_opening(gap, across, deep)
        passes = ~(_shifted(wall, across, 1) | _shifted(wall, across, -1))
        found |= thin & furniture & passes
    return _count(found)


def wall_parts(classes: np.ndarray, palette: Palette) -> Figures:
    """Number of connected parts of the walls, [N]. Cells that touch at a corner are connected; a crack separates."""
    labels, count = ndimage.label(classes == palette.wall, _CORNERS)
    return np.bincount(_layout_of_labels(labels, count), minlength=len(classes)).astype(float)


def find_pieces(classes: np.ndarray, palette: Palette) -> Pieces:
    """Every connected piece of furniture of one class."""
    parts = []
    for kind, index in enumerate(palette.furniture):
        labels, count = ndimage.label(classes == index, _NEIGHBOURS)
        area = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        boxes = ndimage.find_objects(labels)
        box = [(rows.stop - rows.start) * (columns.stop - columns.start) for _, rows, columns in boxes]
        parts.append((_layout_of_labels(labels, count), np.full(count, kind), area, np.array(box, int)))
    return Pieces(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def pixels_per_metre(classes: np.ndarray, palette: Palette) -> float:
    """Scale of one map [H, W] by its walls, whose thickness is `WALL_METRES`; 0 without walls.

    The thickness is the commonest length of a straight run of wall cells, on the axis where that is shorter.
    """
    thickness = []
    for wall in (classes == palette.wall, (classes == palette.wall).T):
        edges = np.diff(np.pad(wall, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        lengths = np.argwhere(edges == -1)[:, 1] - np.argwhere(edges == 1)[:, 1]
        thickness.append(int(np.bincount(lengths, minlength=1).argmax()))
    return min(thickness) / WALL_METRES


def _count(mask: Mask) -> Figures:
    """Number of cells in each mask, [N]."""
    cells: Figures = mask.sum(axis=(1, 2)).astype(float)
    return cells


def _square_fits(free: Mask, side: int) -> Mask:
    """Positions where a square of `side` covers only free cells; beyond the border every cell is free."""
    fits: Mask = ndimage.minimum_filter(free, (1, side, side), mode="constant", cval=True)
    return fits


def _covered_by_squares(positions: Mask, side: int) -> Mask:
    """Cells that squares of `side` at these `positions` of `_square_fits` cover."""
    shift = -1 if side % 2 == 0 else 0  # the window of an even side is not symmetric
    covered: Mask = ndimage.maximum_filter(positions, (1, side, side), mode="constant", origin=(0, shift, shift))
    return covered


def _connected_to_corner(mask: Mask) -> Mask:
    """Cells with the same label as the top left corner of their map."""
    labels, _ = ndimage.label(mask, _NEIGHBOURS)
    connected: Mask = labels == labels[:, :1, :1]
    return connected


def _shared_edges(first: Mask, second: Mask) -> Figures:
    """Number of edges between a cell of `first` and one of `second`, [N]."""
    edges: Figures = np.sum([_count(first & _shifted(second, axis, step)) for axis, step in _SIDES], axis=0)
    return edges


def _shifted(mask: Mask, axis: int, step: int) -> Mask:
    """`mask` moved by one cell; cells that enter at the border are False."""
    moved = np.roll(mask, step, axis)
    edge = [slice(None)] * 3
    edge[axis] = slice(0, 1) if step > 0 else slice(-1, None)
    moved[tuple(edge)] = False
    return moved


def _closing(mask: Mask, axis: int, length: int) -> Mask:
    """Morphological closing: `mask` with gaps along `axis` that are shorter than `length` filled."""
    length += 1 - length % 2
    widened = ndimage.maximum_filter1d(mask, length, axis, mode="constant")
    closed: Mask = ndimage.minimum_filter1d(widened, length, axis, mode="constant")
    return closed


def _opening(mask: Mask, axis: int, length: int) -> Mask:
    """Morphological opening: `mask` without runs along `axis` that are shorter than `length`, an odd number."""
    narrowed = ndimage.minimum_filter1d(mask, length, axis, mode="constant")
    opened: Mask = ndimage.maximum_filter1d(narrowed, length, axis, mode="constant")
    return opened


def _layout_of_labels(labels: np.ndarray, count: int) -> np.ndarray:
    """The map in which each of the labels 1 to `count` lies."""
    layouts = np.zeros(count + 1, int)
    layouts[labels] = np.arange(len(labels))[:, None, None]
    return layouts[1:]
