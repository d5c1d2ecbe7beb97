"""What a class map alone tells of a house: its inside, where a body can stand and walk, its walls, its pieces.

Everything works on a stack of maps at once: uint8 [N, H, W] of class indices, background where the floor or the
outside is. Two cells are neighbours if they share an edge.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from core.data.palette import BACKGROUND, WALL

# Neighbours in the plane of one map only: by edge, and by edge or corner.
_NEIGHBOURS, _CORNERS = (
    np.pad(ndimage.generate_binary_structure(2, reach)[None], ((1, 1), (0, 0), (0, 0))) for reach in (1, 2)
)
WALL_METRES = 0.17
# (axis, step) to each of a cell's four neighbours.
_SIDES = ((1, 1), (1, -1), (2, 1), (2, -1))


@dataclass(frozen=True)
class Scale:
    """Sizes in pixels that a survey needs: widest opening of a door, side of a body, thickness of a wall."""

    door: int
    body: int
    wall: int


class Pieces(NamedTuple):
    """Connected pieces of furniture: the map each is in, its class, its area and that of its bounding box, in cells."""

    layout: np.ndarray
    kind: np.ndarray
    area: np.ndarray
    box: np.ndarray


def find_interior(classes: np.ndarray, door: int) -> np.ndarray:
    """What the walls enclose once openings narrower than `door` are closed: bool [N, H, W].

    A square of side `door` is moved about from the border: what it cannot touch without crossing a wall is inside.
    """
    margin = door + 1
    free = np.pad(classes != WALL, ((0, 0), (margin, margin), (margin, margin)), constant_values=True)
    outside = _swept(_joined_to_corner(_fits(free, door)), door)
    inside = slice(margin, -margin)
    return (free & ~outside)[:, inside, inside]


def open_share(interior: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Share of the interior's outline that is opening instead of wall, [N]; 0 where there is no interior."""
    outside = ~interior & (classes != WALL)
    to_outside, to_wall = (_shared_edges(interior, other) for other in (outside, classes == WALL))
    return to_outside / np.maximum(1, to_outside + to_wall)


def opening_count(interior: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Number of separate openings from the interior to the outside, [N]."""
    outside = ~interior & (classes != WALL)
    beside = np.logical_or.reduce([_shifted(outside, axis, step) for axis, step in _SIDES])
    labels, count = ndimage.label(interior & beside, _CORNERS)
    return np.bincount(_layout_of_labels(labels, count), minlength=len(classes)).astype(float)


def loose_wall_share(interior: np.ndarray, classes: np.ndarray, wall: int) -> np.ndarray:
    """Share of wall cells further than a wall's thickness (and one cell) from any interior, [N]."""
    near = ndimage.maximum_filter(interior, (1, 2 * wall + 3, 2 * wall + 3), mode="constant")
    walls = classes == WALL
    return _count(walls & ~near) / np.maximum(1, _count(walls))


def reachable_shares(interior: np.ndarray, classes: np.ndarray, body: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the places inside where a body can stand: the share reached from outside, and that of the largest part
    within which one can walk everywhere, [N] each; 0 where there is no such place.
    """
    margin = body + 1
    pad = ((0, 0), (margin, margin), (margin, margin))
    standing = _fits(np.pad(classes == BACKGROUND, pad, constant_values=True), body)
    labels, count = ndimage.label(standing, _NEIGHBOURS)
    inside = np.pad(interior, pad) & standing
    total = np.maximum(1, _count(inside))
    from_outside = _count(inside & (labels == labels[:, :1, :1])) / total
    # A label is in one map only, so the largest part of each map is found over all labels at once.
    sizes = np.bincount(labels[inside], minlength=count + 1)
    layout_of = np.zeros(count + 1, int)
    layout_of[labels[inside]] = np.nonzero(inside)[0]
    largest = np.zeros(len(classes))
    np.maximum.at(largest, layout_of, sizes)
    return from_outside, largest / total


def furniture_in_walls(classes: np.ndarray, scale: Scale) -> np.ndarray:
    """Cells of furniture in a doorway or across a wall, [N].

    Such a cell lies in a straight gap of a wall, no longer than a door and no deeper than twice the wall's thickness,
    with no wall left on either side of it.
    """
    wall, furniture = classes == WALL, classes < WALL
    deep = 2 * scale.wall + 1
    found = np.zeros(classes.shape, bool)
    for along, across in ((1, 2), (2, 1)):
        # The wall that goes on beyond a gap; the walls at both ends of a narrow room do not.
        lengthwise = wall & ~_opened(wall, across, deep)
        near = ndimage.maximum_filter1d(lengthwise, 2 * scale.door + 1, along, mode="constant")
        gap = _closed(wall, along, scale.door) & ~wall & near
        thin = gap & ~_opened(gap, across, deep)
        passes = ~(_shifted(wall, across, 1) | _shifted(wall, across, -1))
        found |= thin & furniture & passes
    return _count(found)


def wall_parts(classes: np.ndarray) -> np.ndarray:
    """Number of walls that touch no other, not even at a corner, [N]: a door may part a wall, and so does a crack."""
    labels, count = ndimage.label(classes == WALL, _CORNERS)
    return np.bincount(_layout_of_labels(labels, count), minlength=len(classes)).astype(float)


def find_pieces(classes: np.ndarray) -> Pieces:
    """Every connected piece of furniture of one class."""
    parts = []
    for kind in range(WALL):
        labels, count = ndimage.label(classes == kind, _NEIGHBOURS)
        area = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        boxes = ndimage.find_objects(labels)
        box = [(rows.stop - rows.start) * (columns.stop - columns.start) for _, rows, columns in boxes]
        parts.append((_layout_of_labels(labels, count), np.full(count, kind), area, np.array(box, int)))
    return Pieces(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def pixels_per_metre(classes: np.ndarray) -> float:
    """Scale of one map [H, W] by its walls: the commonest length of a straight run of wall cells, along the axis where
    it is shorter, is `WALL_METRES`; 0 without walls.
    """
    thickness = []
    for wall in (classes == WALL, (classes == WALL).T):
        edges = np.diff(np.pad(wall, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        lengths = np.argwhere(edges == -1)[:, 1] - np.argwhere(edges == 1)[:, 1]
        thickness.append(int(np.bincount(lengths, minlength=1).argmax()))
    return min(thickness) / WALL_METRES


def _count(mask: np.ndarray) -> np.ndarray:
    return mask.sum(axis=(1, 2)).astype(float)


def _fits(free: np.ndarray, side: int) -> np.ndarray:
    """Where a square of `side` lies in free cells only; beyond the border all is free."""
    return ndimage.minimum_filter(free, (1, side, side), mode="constant", cval=True)


def _swept(places: np.ndarray, side: int) -> np.ndarray:
    """Cells that the squares at `places` cover; the inverse of the window of `_fits`, which is lopsided if even."""
    shift = -1 if side % 2 == 0 else 0
    return ndimage.maximum_filter(places, (1, side, side), mode="constant", origin=(0, shift, shift))


def _joined_to_corner(mask: np.ndarray) -> np.ndarray:
    labels, _ = ndimage.label(mask, _NEIGHBOURS)
    return labels == labels[:, :1, :1]


def _shared_edges(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Number of edges between a cell of `first` and one of `second`, [N]."""
    return sum(_count(first & _shifted(second, axis, step)) for axis, step in _SIDES)


def _shifted(mask: np.ndarray, axis: int, step: int) -> np.ndarray:
    """`mask` moved by one cell; nothing comes in from the border."""
    moved = np.roll(mask, step, axis)
    edge = [slice(None)] * 3
    edge[axis] = slice(0, 1) if step > 0 else slice(-1, None)
    moved[tuple(edge)] = False
    return moved


def _closed(mask: np.ndarray, axis: int, length: int) -> np.ndarray:
    """`mask` with gaps along `axis` shorter than `length` filled."""
    length += 1 - length % 2
    widened = ndimage.maximum_filter1d(mask, length, axis, mode="constant")
    return ndimage.minimum_filter1d(widened, length, axis, mode="constant")


def _opened(mask: np.ndarray, axis: int, length: int) -> np.ndarray:
    """`mask` without runs along `axis` shorter than `length`, which is odd."""
    narrowed = ndimage.minimum_filter1d(mask, length, axis, mode="constant")
    return ndimage.maximum_filter1d(narrowed, length, axis, mode="constant")


def _layout_of_labels(labels: np.ndarray, count: int) -> np.ndarray:
    """The map that each of the labels 1 to `count` is in."""
    layouts = np.zeros(count + 1, int)
    layouts[labels] = np.arange(len(labels))[:, None, None]
    return layouts[1:]
