"""Floor plans on a grid of cells: the room of each cell, the walls, and which walls have a door."""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from core.houses.rectangle import Rect

# Least and greatest side of a cell, in metres.
CELL = (0.55, 0.64)
OUTSIDE = -1

# Mean area of a room in square metres, by number of rooms. With it, walls are as thick in pixels as in real houses.
_ROOM_AREA = (29.0, 23.0, 21.5, 20.0, 18.0, 17.0)
MAX_ROOMS = len(_ROOM_AREA)

# Least length in cells: of a room's side and of the seam inside an L-shaped room; of a wall with a door.
_MIN_SIDE = 4
_MIN_SHARED = 3


class Wall(NamedTuple):
    """A straight wall between two rooms: its `line` in cells, the room `before` it (above or left) and `after` it."""

    line: Rect
    before: int
    after: int

    @property
    def outer(self) -> bool:
        """Whether one side of the wall is outside."""
        return OUTSIDE in (self.before, self.after)


class FloorPlan(NamedTuple):
    """Room id of each cell, int [rows, columns], or OUTSIDE; the one or two blocks of each room; all walls."""

    ids: np.ndarray
    blocks: list[list[Rect]]
    walls: list[Wall]

    def walls_of(self, room: int) -> list[Wall]:
        """The walls of one room. Rooms behind a wall do not divide it."""
        return list(_walls(np.where(self.ids == room, room, OUTSIDE)))


def plan_rooms(rng: np.random.Generator, num_rooms: int) -> FloorPlan:
    """A plan of `num_rooms` rooms, all connected by walls long enough for a door."""
    while True:
        outline = _outline(rng, num_rooms)
        extra = int(num_rooms > 1 and rng.random() < 0.35)
        leaves = _share_out(rng, outline, max(num_rooms + extra, len(outline)))
        blocks = _merge_until(rng, leaves, num_rooms)
        if len(blocks) != num_rooms:
            continue
        ids = _paint(blocks)
        plan = FloorPlan(ids, blocks, list(_walls(ids)))
        if len(_door_tree(rng, _wide_walls(plan, outer=False))) == num_rooms - 1:
            return plan


def walls_with_doors(rng: np.random.Generator, plan: FloorPlan) -> list[Wall]:
    """The walls with a door: inner walls that connect all rooms, a few more inner walls, one or two outer walls."""
    inner, outer = _wide_walls(plan, outer=False), _wide_walls(plan, outer=True)
    tree = _door_tree(rng, inner)
    more = [wall for wall in inner if wall not in tree and rng.random() < 0.15]
    entrances = 1 + int(rng.random() < 0.2)
    return [*tree, *more, *(outer[index] for index in rng.permutation(len(outer))[:entrances])]


def _outline(rng: np.random.Generator, num_rooms: int) -> list[Rect]:
    """The blocks of a rectangular or L-shaped outline, in cells."""
    area = num_rooms * _ROOM_AREA[num_rooms - 1] * rng.lognormal(0, 0.3)
    aspect = 1 + rng.triangular(0, 0.15, 0.9)
    long = max(2 * _MIN_SIDE - 2, round(math.sqrt(area * aspect) / np.mean(CELL)))
    short = max(_MIN_SIDE, round(math.sqrt(area / aspect) / np.mean(CELL)))
    width, height = (long, short) if rng.random() < 0.5 else (short, long)
    if width < _MIN_SIDE + 2 or height < 2 * _MIN_SIDE or rng.random() > 0.5:
        return [Rect(0, 0, width, height)]
    notch_x = int(rng.integers(2, width - _MIN_SIDE, endpoint=True))
    notch_y = int(rng.integers(_MIN_SIDE, height - _MIN_SIDE, endpoint=True))
    left = notch_x if rng.random() < 0.5 else 0
    blocks = [Rect(left, 0, left + width - notch_x, notch_y), Rect(0, notch_y, width, height)]
    if rng.random() < 0.5:
        blocks = [block._replace(top=height - block.bottom, bottom=height - block.top) for block in blocks]
    return blocks


def _share_out(rng: np.random.Generator, outline: list[Rect], count: int) -> list[Rect]:
    """The blocks of the outline cut into `count` leaves; fewer if the blocks are too small."""
    if len(outline) == 1:
        return _split(rng, outline[0], count)
    areas = [block.width * block.height for block in outline]
    share = min(max(round(count * areas[0] / sum(areas)), 1), count - 1)
    return _split(rng, outline[0], share) + _split(rng, outline[1], count - share)


def _split(rng: np.random.Generator, block: Rect, count: int) -> list[Rect]:
    """`block` cut into `count` leaves across its longer side; fewer if a leaf would be too narrow."""
    length = max(block.width, block.height)
    if count == 1 or length < 2 * _MIN_SIDE:
        return [block]
    share = count // 2 + int(count % 2 and rng.random() < 0.5)
    cut = round(length * (share / count + rng.uniform(-0.13, 0.13)))
    cut = int(min(max(cut, _MIN_SIDE), length - _MIN_SIDE))
    if block.width >= block.height:
        halves = block._replace(right=block.left + cut), block._replace(left=block.left + cut)
    else:
        halves = block._replace(bottom=block.top + cut), block._replace(top=block.top + cut)
    return _split(rng, halves[0], share) + _split(rng, halves[1], count - share)


def _merge_until(rng: np.random.Generator, leaves: list[Rect], count: int) -> list[list[Rect]]:
    """The blocks of each of `count` rooms. With one leaf too many, two leaves form one room; [] if no two can."""
    if len(leaves) != count + 1:
        return [[leaf] for leaf in leaves]
    pairs = [pair for pair in itertools.combinations(leaves, 2) if _joinable(*pair)]
    if not pairs:
        return []
    pair = pairs[rng.integers(len(pairs))]
    return [list(pair), *([leaf] for leaf in leaves if leaf not in pair)]


def _joinable(first: Rect, second: Rect) -> bool:
    """Whether two blocks share an edge that is long enough for an open passage."""
    edge = first.shared_edge(second)
    return min(edge.width, edge.height) == 0 and max(edge.width, edge.height) >= _MIN_SIDE


def _paint(blocks: list[list[Rect]]) -> np.ndarray:
    """Room id of each cell, int [rows, columns]; OUTSIDE where no room is."""
    columns, rows = np.array([block[2:] for parts in blocks for block in parts], int).max(0)
    ids = np.full((rows, columns), OUTSIDE)
    for room, parts in enumerate(blocks):
        for left, top, right, bottom in parts:
            ids[int(top) : int(bottom), int(left) : int(right)] = room
    return ids


def _walls(ids: np.ndarray) -> Iterator[Wall]:
    """Every maximal straight stretch of wall between the same two rooms."""
    for horizontal, cells in ((True, ids), (False, ids.T)):
        padded = np.pad(cells, 1, constant_values=OUTSIDE)[:, 1:-1].tolist()
        for at, (before, after) in enumerate(itertools.pairwise(padded)):
            start = 0
            for pair, group in itertools.groupby(zip(before, after, strict=True)):
                stop = start + len(list(group))
                if pair[0] != pair[1]:
                    yield Wall(Rect(start, at, stop, at) if horizontal else Rect(at, start, at, stop), *pair)
                start = stop


def _wide_walls(plan: FloorPlan, outer: bool) -> list[Wall]:
    """The outer or the inner walls that are long enough for a door."""
    walls = (wall for wall in plan.walls if wall.outer == outer)
    return [wall for wall in walls if max(wall.line.width, wall.line.height) >= _MIN_SHARED]


def _door_tree(rng: np.random.Generator, inner: list[Wall]) -> list[Wall]:
    """A random spanning tree of the rooms: inner walls whose doors connect every room."""
    group = {room: room for wall in inner for room in (wall.before, wall.after)}
    tree = []
    for index in rng.permutation(len(inner)):
        wall = inner[index]
        before, after = group[wall.before], group[wall.after]
        if before != after:
            group = {room: before if mark == after else mark for room, mark in group.items()}
            tree.append(wall)
    return tree
