"""Synthetic furnished houses seen from above, drawn to belong beside the real layouts.

A house is planned on a coarse grid of cells (one id per room), built from it in metres (walls, doors,
furniture), and only then drawn at the scale that fills the frame. What keeps it habitable is reserved before
any furniture is placed: the floor at both sides of a door, and the way from one door of a room to its others.
"""

import csv
import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from core.palette import BACKGROUND, CLASS_NAMES, COLORS, WALL

MAX_ROOMS = 6
MANIFEST_COLUMNS = (
    "scene_id",
    "type",
    "room_id",
    "num_rooms",
    "layout_path",
    "is_empty",
    "is_augmented",
    "augmentation_id",
    "augmentation_type",
)

# Metres. The door zone and the path are wider than the 0.5 m body that must pass, so that rounding to pixels
# may not close them.
WALL_THICKNESS = 0.17
DOOR_ZONE = 0.9
PATH_WIDTH = 0.7
GAP = 0.005
CELL = (0.55, 0.64)

# A room side and the seam inside an L-shaped room have MIN_SIDE cells or more, a wall with a door MIN_SHARED.
MIN_SIDE = 4
MIN_SHARED = 3
OUTSIDE = -1
MARGIN = 16 / 512

# Square metres a room, by number of rooms: what gives the walls of the real houses their thickness in pixels.
ROOM_AREA = (29.0, 23.0, 21.5, 20.0, 18.0, 17.0)

BED, CABINET, CHAIR, LIGHTING, OTHERS, STOOL, SOFA, TABLE = (
    CLASS_NAMES.index(name) for name in ("bed", "cabinet", "chair", "lighting", "others", "stool", "sofa", "table")
)


def generate_layout(rng: np.random.Generator, num_rooms: int, size: int = 512) -> np.ndarray:
    """Class map of a random house with `num_rooms` furnished rooms (1 to 6): uint8 [size, size]."""
    if not 1 <= num_rooms <= MAX_ROOMS:
        raise ValueError(f"num_rooms must be 1 to {MAX_ROOMS}, got {num_rooms}")
    house = _build_house(rng, _plan_rooms(rng, num_rooms))
    return _draw(house, size)


def write_layouts(folder: Path, count: int, seed: int, rooms: tuple[int, int] = (1, 6)) -> Path:
    """Path of the manifest of `count` layouts written to `folder` as `images/{scene_id}_scene_layout.png`.

    Layout i depends only on (seed, i); its number of rooms is drawn from `rooms`, both ends included. The
    manifest appears last and at once, so where it exists the set is complete.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = [_write_layout(folder, seed, i, rooms) for i in tqdm(range(count), "layouts", disable=None)]
    manifest = folder / "manifest.csv"
    partial = folder / "manifest.csv.partial"
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, MANIFEST_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, manifest)
    return manifest


def _write_layout(folder: Path, seed: int, index: int, rooms: tuple[int, int]) -> dict[str, object]:
    """Manifest row of layout `index`, whose picture is written."""
    rng = np.random.default_rng([seed, index])
    num_rooms = int(rng.integers(rooms[0], rooms[1], endpoint=True))
    scene_id = f"generated_{index:05d}"
    path = f"images/{scene_id}_scene_layout.png"
    picture = Image.fromarray(generate_layout(rng, num_rooms)).convert("P")
    picture.putpalette(COLORS.tobytes())
    picture.convert("RGB").save(folder / path, compress_level=1)
    values = (scene_id, "scene", "scene", num_rooms, path, False, False, 0, "")
    return dict(zip(MANIFEST_COLUMNS, values, strict=True))


class _Rect(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    @property
    def center(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def grown(self, margin: float) -> "_Rect":
        return _Rect(self.left - margin, self.top - margin, self.right + margin, self.bottom + margin)

    def contains(self, x: float, y: float) -> bool:
        return self.left <= x <= self.right and self.top <= y <= self.bottom

    def overlaps(self, other: "_Rect") -> bool:
        left, top, right, bottom = other
        return self.left < right and left < self.right and self.top < bottom and top < self.bottom


class _Run(NamedTuple):
    """A straight wall on grid line `line`, cells `start` to `stop`, between rooms `before` and `after`."""

    horizontal: bool
    line: int
    start: int
    stop: int
    before: int
    after: int


@dataclass(frozen=True)
class _Face:
    """A wall as a room sees it: at `position` across, `start` to `stop` along, the room at side `inward`."""

    horizontal: bool
    position: float
    start: float
    stop: float
    inward: int

    def rect(self, along: float, length: float, near: float, depth: float) -> _Rect:
        """The rectangle from `along` to `along + length`, standing `near` to `near + depth` off the wall."""
        low, high = sorted((self.position + self.inward * near, self.position + self.inward * (near + depth)))
        if self.horizontal:
            return _Rect(along, low, along + length, high)
        return _Rect(low, along, high, along + length)


class _Piece(NamedTuple):
    """One furniture rectangle of class `kind`, turned by `angle` radians about its centre."""

    kind: int
    box: _Rect
    angle: float = 0.0


@dataclass
class _Room:
    floor: list[_Rect]
    faces: list[_Face] = field(default_factory=list)
    solid: list[_Rect] = field(default_factory=list)
    keep_clear: list[_Rect] = field(default_factory=list)
    pieces: list[_Piece] = field(default_factory=list)

    @property
    def area(self) -> float:
        return sum((right - left) * (bottom - top) for left, top, right, bottom in self.floor)

    def admits(self, body: _Rect, access: _Rect | None = None) -> bool:
        """Whether `body` finds free floor here and `access`, the floor to use it from, is not built over."""
        if not any(part.contains(*body.center) for part in self.floor):
            return False
        if any(body.overlaps(other) for other in itertools.chain(self.solid, self.keep_clear)):
            return False
        return access is None or not any(access.overlaps(other) for other in self.solid)

    def put(self, kind: int, box: _Rect, angle: float = 0.0) -> None:
        """Place a piece; the floor it covers is taken."""
        self.pieces.append(_Piece(kind, box, angle))
        self.solid.append(_turned_bounds(box, angle))


@dataclass(frozen=True)
class _Spot:
    """Where a piece stands along a wall: `rect` places it and what belongs to it."""

    face: _Face
    along: float

    def rect(self, offset: float, length: float, near: float, depth: float) -> _Rect:
        return self.face.rect(self.along + offset, length, near, depth)


@dataclass(frozen=True)
class _House:
    bounds: _Rect
    walls: list[_Rect]
    doors: list[_Rect]
    rooms: list[_Room]


# The plan: which cell belongs to which room.


class _Plan(NamedTuple):
    """Room id of each cell, int [rows, columns], OUTSIDE elsewhere; each room's blocks; all walls."""

    ids: np.ndarray
    blocks: list[list[_Rect]]
    runs: list[_Run]


def _plan_rooms(rng: np.random.Generator, num_rooms: int) -> _Plan:
    """A plan of `num_rooms` rooms, all connected by walls long enough for a door."""
    while True:
        outline = _outline(rng, num_rooms)
        extra = int(num_rooms > 1 and rng.random() < 0.35)
        leaves = _share_out(rng, outline, max(num_rooms + extra, len(outline)))
        blocks = _merge_until(rng, leaves, num_rooms)
        if len(blocks) != num_rooms:
            continue
        ids = _paint(blocks)
        runs = list(_wall_runs(ids))
        if len(_door_tree(rng, runs)) == num_rooms - 1:
            return _Plan(ids, blocks, runs)


def _outline(rng: np.random.Generator, num_rooms: int) -> list[_Rect]:
    """The blocks of a rectangular or L-shaped outline, in cells."""
    area = num_rooms * ROOM_AREA[num_rooms - 1] * rng.lognormal(0, 0.3)
    aspect = 1 + rng.triangular(0, 0.15, 0.9)
    long = max(2 * MIN_SIDE - 2, round(math.sqrt(area * aspect) / np.mean(CELL)))
    short = max(MIN_SIDE, round(math.sqrt(area / aspect) / np.mean(CELL)))
    width, height = (long, short) if rng.random() < 0.5 else (short, long)
    if width < MIN_SIDE + 2 or height < 2 * MIN_SIDE or rng.random() > 0.5:
        return [_Rect(0, 0, width, height)]
    notch_x = int(rng.integers(2, width - MIN_SIDE, endpoint=True))
    notch_y = int(rng.integers(MIN_SIDE, height - MIN_SIDE, endpoint=True))
    left = notch_x if rng.random() < 0.5 else 0
    arm = _Rect(left, 0, left + width - notch_x, notch_y)
    slab = _Rect(0, notch_y, width, height)
    return _flipped([arm, slab], height) if rng.random() < 0.5 else [arm, slab]


def _flipped(blocks: list[_Rect], height: float) -> list[_Rect]:
    return [_Rect(left, height - bottom, right, height - top) for left, top, right, bottom in blocks]


def _share_out(rng: np.random.Generator, outline: list[_Rect], count: int) -> list[_Rect]:
    """The blocks of the outline cut into `count` leaves, or fewer where they are too small."""
    if len(outline) == 1:
        return _split(rng, outline[0], count)
    first, second = outline
    areas = [(block.right - block.left) * (block.bottom - block.top) for block in outline]
    share = min(max(round(count * areas[0] / sum(areas)), 1), count - 1)
    return _split(rng, first, share) + _split(rng, second, count - share)


def _split(rng: np.random.Generator, block: _Rect, count: int) -> list[_Rect]:
    """`block` cut into `count` leaves across the longer side, fewer where a leaf would be too narrow."""
    width, height = block.right - block.left, block.bottom - block.top
    length = max(width, height)
    if count == 1 or length < 2 * MIN_SIDE:
        return [block]
    share = count // 2 + int(count % 2 and rng.random() < 0.5)
    cut = round(length * (share / count + rng.uniform(-0.13, 0.13)))
    cut = int(min(max(cut, MIN_SIDE), length - MIN_SIDE))
    if width >= height:
        halves = block._replace(right=block.left + cut), block._replace(left=block.left + cut)
    else:
        halves = block._replace(bottom=block.top + cut), block._replace(top=block.top + cut)
    return _split(rng, halves[0], share) + _split(rng, halves[1], count - share)


def _merge_until(rng: np.random.Generator, leaves: list[_Rect], count: int) -> list[list[_Rect]]:
    """Blocks of each room: one leaf, but with one leaf more than rooms, two leaves make one room."""
    if len(leaves) != count + 1:
        return [[leaf] for leaf in leaves]
    pairs = [pair for pair in itertools.combinations(leaves, 2) if _joinable(*pair)]
    if not pairs:
        return []
    pair = pairs[rng.integers(len(pairs))]
    return [list(pair), *([leaf] for leaf in leaves if leaf not in pair)]


def _joinable(first: _Rect, second: _Rect) -> bool:
    """Whether two blocks lie side by side along an edge long enough to be open."""
    left, top, right, bottom = _shared_edge(first, second)
    return min(right - left, bottom - top) == 0 and max(right - left, bottom - top) >= MIN_SIDE


def _shared_edge(first: _Rect, second: _Rect) -> _Rect:
    """The edge along which two neighbouring blocks meet, a rectangle without width or without height."""
    left, right = max(first.left, second.left), min(first.right, second.right)
    top, bottom = max(first.top, second.top), min(first.bottom, second.bottom)
    return _Rect(left, top, right, bottom)


def _paint(blocks: list[list[_Rect]]) -> np.ndarray:
    """Room id of each cell, int [rows, columns], OUTSIDE where there is no room."""
    corners = np.array([block[2:] for parts in blocks for block in parts], int).max(0)
    ids = np.full((corners[1], corners[0]), OUTSIDE)
    for room, parts in enumerate(blocks):
        for left, top, right, bottom in parts:
            ids[int(top) : int(bottom), int(left) : int(right)] = room
    return ids


def _wall_runs(ids: np.ndarray) -> Iterator[_Run]:
    """Every maximal straight stretch of wall between the same two rooms."""
    for horizontal, cells in ((True, ids), (False, ids.T)):
        padded = np.pad(cells, 1, constant_values=OUTSIDE)[:, 1:-1].tolist()
        for line, (before, after) in enumerate(itertools.pairwise(padded)):
            start = 0
            for pair, group in itertools.groupby(zip(before, after, strict=True)):
                stop = start + len(list(group))
                if pair[0] != pair[1]:
                    yield _Run(horizontal, line, start, stop, *pair)
                start = stop


def _door_tree(rng: np.random.Generator, runs: list[_Run]) -> list[_Run]:
    """The inner walls whose doors let every room be reached: a random spanning tree of the rooms."""
    inner = _inner(runs)
    group = {room: room for run in inner for room in run[4:]}
    tree = []
    for index in rng.permutation(len(inner)):
        run = inner[index]
        before, after = group[run.before], group[run.after]
        if before != after:
            group = {room: before if mark == after else mark for room, mark in group.items()}
            tree.append(run)
    return tree


def _inner(runs: list[_Run]) -> list[_Run]:
    """The walls between two rooms that are long enough for a door."""
    return [run for run in runs if OUTSIDE not in run[4:] and run.stop - run.start >= MIN_SHARED]


# The house: walls and doors in metres, then furniture.


def _build_house(rng: np.random.Generator, plan: _Plan) -> _House:
    """The furnished house of a plan."""
    scale = rng.uniform(*CELL, 2)
    rows, columns = plan.ids.shape
    bounds = _Rect(0, 0, columns * scale[0], rows * scale[1]).grown(WALL_THICKNESS / 2)
    walls = [_wall_rect(run, scale) for run in plan.runs]
    rooms = [_empty_room(parts, scale, walls) for parts in plan.blocks]
    for run in plan.runs:
        for side, room in ((-1, run.before), (1, run.after)):
            if room != OUTSIDE:
                rooms[room].faces.append(_face(run, scale, side))
    for room in rooms:
        room.faces = _joined(room.faces)
    doors = _place_doors(rng, plan.runs, scale, rooms)
    for room, kind in zip(rooms, _room_kinds(rng, rooms), strict=True):
        _furnish(rng, room, kind)
    return _House(bounds, walls, doors, rooms)


def _empty_room(parts: list[_Rect], scale: np.ndarray, walls: list[_Rect]) -> _Room:
    floor = [
        _Rect(left * scale[0], top * scale[1], right * scale[0], bottom * scale[1])
        for left, top, right, bottom in parts
    ]
    near = [wall for wall in walls if any(wall.overlaps(part) for part in floor)]
    return _Room(floor, solid=near)


def _wall_rect(run: _Run, scale: np.ndarray) -> _Rect:
    along, across = (scale[0], scale[1]) if run.horizontal else (scale[1], scale[0])
    line, start, stop = run.line * across, run.start * along, run.stop * along
    edges = (start, line, stop, line) if run.horizontal else (line, start, line, stop)
    return _Rect(*edges).grown(WALL_THICKNESS / 2)


def _face(run: _Run, scale: np.ndarray, inward: int) -> _Face:
    along, across = (scale[0], scale[1]) if run.horizontal else (scale[1], scale[0])
    position = run.line * across + inward * WALL_THICKNESS / 2
    return _Face(run.horizontal, position, run.start * along, run.stop * along, inward)


def _joined(faces: list[_Face]) -> list[_Face]:
    """The faces with the stretches of one straight wall made one: what is behind a wall does not part it."""
    joined: list[_Face] = []
    for face in sorted(faces, key=lambda face: (face.horizontal, face.position, face.inward, face.start)):
        if joined and face == replace(joined[-1], start=joined[-1].stop, stop=face.stop):
            face = replace(face, start=joined.pop().start)
        joined.append(face)
    return joined


def _place_doors(rng: np.random.Generator, runs: list[_Run], scale: np.ndarray, rooms: list[_Room]) -> list[_Rect]:
    """Door openings; each room comes to keep clear its door zones and the paths between them."""
    doors = []
    thresholds: list[list[tuple[float, float]]] = [[] for _ in rooms]
    for run in _door_runs(rng, runs):
        face = _face(run, scale, 1)
        along, width = _door_span(rng, face, entrance=OUTSIDE in run[4:])
        doors.append(face.rect(along, width, -WALL_THICKNESS, WALL_THICKNESS))
        for side, room in ((-1, run.before), (1, run.after)):
            if room != OUTSIDE:
                zone = _face(run, scale, side).rect(along - 0.05, width + 0.1, 0, DOOR_ZONE)
                rooms[room].keep_clear.append(zone)
                thresholds[room].append(zone.center)
    for room, points in zip(rooms, thresholds, strict=True):
        room.keep_clear += _paths(rng, room, points)
    return doors


def _door_runs(rng: np.random.Generator, runs: list[_Run]) -> list[_Run]:
    """The walls with a door: a tree of inner ones, a few more inner ones, and one or two outer ones."""
    tree = _door_tree(rng, runs)
    more = [run for run in _inner(runs) if run not in tree and rng.random() < 0.15]
    outer = [run for run in runs if OUTSIDE in run[4:] and run.stop - run.start >= MIN_SHARED]
    entrances = 1 + int(rng.random() < 0.2)
    return [*tree, *more, *(outer[index] for index in rng.permutation(len(outer))[:entrances])]


def _door_span(rng: np.random.Generator, face: _Face, entrance: bool) -> tuple[float, float]:
    """Start and width of a door in a wall, clear of the walls that meet it."""
    start, stop = face.start + WALL_THICKNESS / 2 + 0.1, face.stop - WALL_THICKNESS / 2 - 0.1
    width = rng.uniform(0.85, 1.0)
    if rng.random() < (0.5 if entrance else 0.2):
        width = min(rng.uniform(1.2, 1.5), stop - start)
    return rng.uniform(start, stop - width), width


def _paths(rng: np.random.Generator, room: _Room, points: list[tuple[float, float]]) -> list[_Rect]:
    """Strips of floor that join the first point to every other, in an L-shaped room by way of its seam."""
    strips: list[_Rect] = []
    for point in points[1:]:
        direct = _path(rng, room, points[0], point)
        if not direct:
            seam = _shared_edge(*room.floor).center
            direct = _path(rng, room, points[0], seam) + _path(rng, room, seam, point)
        strips += direct
    return strips


def _path(rng: np.random.Generator, room: _Room, start: tuple[float, float], end: tuple[float, float]) -> list[_Rect]:
    """Two straight strips of floor from `start` to `end` with one bend, none where walls stand in the way."""
    corners = [(start[0], end[1]), (end[0], start[1])]
    for x, y in corners if rng.random() < 0.5 else corners[::-1]:
        strips = [
            _Rect(min(x, to_x), min(y, to_y), max(x, to_x), max(y, to_y)).grown(PATH_WIDTH / 2)
            for to_x, to_y in (start, end)
        ]
        if not any(strip.overlaps(wall) for strip in strips for wall in room.solid):
            return strips
    return []


# Furniture: each function places one group of pieces in a room, or leaves the room as it was when it cannot.


def _room_kinds(rng: np.random.Generator, rooms: list[_Room]) -> list[str]:
    """A kind for each room: the smallest of several may be the bathroom, the largest is likely lived in."""
    order = sorted(range(len(rooms)), key=lambda index: rooms[index].area)
    kinds = [str(kind) for kind in rng.choice(tuple(_KIND_WEIGHTS), len(rooms), p=tuple(_KIND_WEIGHTS.values()))]
    if len(rooms) > 1:
        kinds[order[0]] = "bathroom" if rng.random() < 0.25 * (len(rooms) - 1) else kinds[order[0]]
        kinds[order[-1]] = "living room" if rng.random() < 0.5 else "bedroom"
    if len(rooms) > 2:
        kinds[order[1]] = "bedroom" if rng.random() < 0.6 else "kitchen"
    # A bathroom has few things in it: a large one would look forgotten.
    return [
        "bedroom" if kind == "bathroom" and room.area > 13 else kind for kind, room in zip(kinds, rooms, strict=True)
    ]


def _furnish(rng: np.random.Generator, room: _Room, kind: str) -> None:
    """Place the programme of a kind of room; a large room takes more, some of it another kind's."""
    programme = list(_PROGRAMMES[kind])
    if room.area > 18 and rng.random() < 0.6:
        second = str(rng.choice(("bedroom", "living room", "dining room", "office")))
        programme += [(place, 0.55 * mean) for place, mean in _PROGRAMMES[second] if place is not _clutter]
    for place, mean in programme:
        for _ in range(int(mean + rng.random())):
            place(rng, room)
    for _ in range(rng.poisson(0.03 * room.area)):
        _clutter(rng, room)


def _along_wall(rng: np.random.Generator, room: _Room, length: float, depth: float, access: float) -> _Spot | None:
    """A free place for a piece against a wall, often in a corner, with `access` metres of floor before it."""
    faces = [face for face in room.faces if face.stop - face.start > length + WALL_THICKNESS + 2 * GAP]
    for _ in range(16 if faces else 0):
        face = faces[rng.integers(len(faces))]
        start, stop = face.start + WALL_THICKNESS / 2 + GAP, face.stop - WALL_THICKNESS / 2 - GAP - length
        along = rng.uniform(start, stop)
        if rng.random() < 0.45:
            along = start if rng.random() < 0.5 else stop
        body, front = face.rect(along, length, GAP, depth), face.rect(along, length, GAP + depth, access)
        if room.admits(body, front):
            room.keep_clear.append(front)
            return _Spot(face, along)
    return None


def _in_the_open(rng: np.random.Generator, room: _Room, width: float, height: float) -> _Rect | None:
    """A free place for a group that needs no wall."""
    for _ in range(16):
        part = room.floor[rng.integers(len(room.floor))]
        span_x, span_y = part.right - part.left - width, part.bottom - part.top - height
        if min(span_x, span_y) <= WALL_THICKNESS:
            continue
        left, top = part.left + span_x * rng.beta(1.3, 1.3), part.top + span_y * rng.beta(1.3, 1.3)
        body = _Rect(left, top, left + width, top + height)
        if room.admits(body):
            return body
    return None


def _bed(rng: np.random.Generator, room: _Room) -> None:
    """A bed with its head to the wall, one or two pillows, sometimes a bedside table."""
    double = rng.random() < 0.5
    width = rng.uniform(1.5, 1.9) if double else rng.uniform(0.95, 1.25)
    length = rng.uniform(1.9, 2.15)
    spot = _along_wall(rng, room, width, length, 0.3)
    if spot is None:
        return
    room.put(BED, spot.rect(0, width, GAP, length))
    pillow = rng.uniform(0.32, 0.42)
    for share in (0.27, 0.73) if double and rng.random() < 0.7 else (0.5,):
        if rng.random() < 0.75:
            room.pieces.append(_Piece(OTHERS, spot.rect(share * width - pillow / 2, pillow, 0.15, 0.26)))
    for offset in (-0.47, width + 0.05):
        box = spot.rect(offset, 0.42, GAP, 0.4)
        if rng.random() < 0.35 and room.admits(box):
            room.put(OTHERS if rng.random() < 0.6 else CABINET, box)


def _cabinet(rng: np.random.Generator, room: _Room, length: float, depth: float, topped: float) -> None:
    """A cabinet flat along a wall, with something grey on it with probability `topped`."""
    spot = _along_wall(rng, room, length, depth, 0.55)
    if spot is None:
        return
    room.put(CABINET, spot.rect(0, length, GAP, depth))
    if rng.random() < topped:
        item, thickness = rng.uniform(0.5, 0.95) * length, rng.uniform(0.5, 0.8) * depth
        near = GAP + (depth - thickness) / 2
        room.pieces.append(_Piece(OTHERS, spot.rect((length - item) / 2, item, near, thickness)))


def _wardrobe(rng: np.random.Generator, room: _Room) -> None:
    _cabinet(rng, room, rng.uniform(1.0, 2.6), rng.uniform(0.55, 0.75), 0)


def _shelf(rng: np.random.Generator, room: _Room) -> None:
    _cabinet(rng, room, rng.uniform(0.6, 1.5), rng.uniform(0.22, 0.42), 0.12)


def _television(rng: np.random.Generator, room: _Room) -> None:
    _cabinet(rng, room, rng.uniform(1.0, 1.7), rng.uniform(0.38, 0.5), 0.8)


def _counter(rng: np.random.Generator, room: _Room) -> None:
    _cabinet(rng, room, rng.uniform(1.4, 3.0), rng.uniform(0.6, 0.85), 0.15)


def _fitted_block(rng: np.random.Generator, room: _Room) -> None:
    """A deep fitted cabinet, the size of a walk-in wardrobe or a kitchen block; the real houses have them."""
    _cabinet(rng, room, rng.uniform(1.6, 2.9), rng.uniform(1.2, 2.2), 0)


def _sofa(rng: np.random.Generator, room: _Room) -> None:
    """A sofa with its back to the wall, sometimes a low table before it."""
    length, depth = rng.uniform(1.6, 2.3), rng.uniform(0.75, 0.95)
    spot = _along_wall(rng, room, length, depth, 0.6)
    if spot is None:
        return
    room.put(SOFA, spot.rect(0, length, GAP, depth))
    low_table = rng.uniform(0.8, 1.2)
    box = spot.rect((length - low_table) / 2, low_table, depth + 0.65, rng.uniform(0.5, 0.65))
    if rng.random() < 0.45 and room.admits(box):
        room.put(TABLE, box)


def _armchair(rng: np.random.Generator, room: _Room) -> None:
    """An armchair at the wall, often with a floor lamp at its side."""
    side = rng.uniform(0.75, 0.98)
    lamp = rng.uniform(0.38, 0.48)
    turned = 1.45 * lamp
    lit = rng.random() < 0.6
    spot = _along_wall(rng, room, side + lit * (turned + 0.08), side, 0.45)
    if spot is None:
        return
    lamp_first = lit and rng.random() < 0.5
    room.put(SOFA, spot.rect(lamp_first * (turned + 0.08), side, GAP, side * rng.uniform(0.9, 1.0)))
    if lit:
        margin = (turned - lamp) / 2
        offset = 0 if lamp_first else side + 0.08
        room.put(LIGHTING, spot.rect(offset + margin, lamp, GAP + margin, lamp), rng.uniform(0, math.pi / 2))


def _lamp(rng: np.random.Generator, room: _Room) -> None:
    _standing(rng, room, LIGHTING, rng.uniform(0.36, 0.5), turned=0.5)


def _stool(rng: np.random.Generator, room: _Room) -> None:
    _standing(rng, room, STOOL, rng.uniform(0.3, 0.42), turned=0.1)


def _side_table(rng: np.random.Generator, room: _Room) -> None:
    length, depth = rng.uniform(0.45, 1.2), rng.uniform(0.4, 0.75)
    spot = _along_wall(rng, room, length, depth, 0.3)
    if spot is not None:
        room.put(TABLE, spot.rect(0, length, GAP, depth))


def _standing(rng: np.random.Generator, room: _Room, kind: int, side: float, turned: float) -> None:
    """A square thing near a wall, turned at random with probability `turned`."""
    angle = rng.uniform(0, math.pi / 2) if rng.random() < turned else 0.0
    extent = side * (math.cos(angle) + math.sin(angle))
    spot = _along_wall(rng, room, extent, extent, 0.1)
    if spot is not None:
        margin = (extent - side) / 2
        room.put(kind, spot.rect(margin, side, GAP + margin, side), angle)


def _clutter(rng: np.random.Generator, room: _Room) -> None:
    """A grey thing (plant, basket, box, appliance) at a wall, now and then in the open."""
    draw = rng.random()
    if draw < 0.25:
        _standing(rng, room, OTHERS, rng.uniform(0.15, 0.55), turned=0.4)
    elif draw < 0.88:
        length, depth = rng.uniform(0.3, 1.0), rng.uniform(0.3, 0.75)
        spot = _along_wall(rng, room, length, depth, 0.2)
        if spot is not None:
            room.put(OTHERS, spot.rect(0, length, GAP, depth))
    else:
        box = _in_the_open(rng, room, *rng.uniform(0.35, 0.75, 2))
        if box is not None:
            room.put(OTHERS, box)


def _desk(rng: np.random.Generator, room: _Room) -> None:
    """A desk at the wall and its chair, pulled out a little and turned."""
    length, depth = rng.uniform(1.1, 1.6), rng.uniform(0.55, 0.8)
    spot = _along_wall(rng, room, length, depth + 0.65, 0.1)
    if spot is None:
        return
    desk = spot.rect(0, length, GAP, depth)
    side = rng.uniform(0.45, 0.54)
    chair = spot.rect((length - side) * rng.uniform(0.35, 0.65), side, depth - rng.uniform(0.02, 0.15), side)
    _put_table(rng, room, desk, [chair] if rng.random() < 0.85 else [])


def _dining_table(rng: np.random.Generator, room: _Room) -> None:
    """A table in the open with chairs tucked around it."""
    length, depth = rng.uniform(1.0, 1.9), rng.uniform(0.7, 1.0)
    reach = 0.55
    upright = rng.random() < 0.5
    width, height = (depth, length) if upright else (length, depth)
    place = _in_the_open(rng, room, width + 2 * reach, height + 2 * reach)
    if place is None:
        return
    table = place.grown(-reach)
    x, y = table.center
    chairs = []
    for along, across in _seats(rng, length, depth):
        center_x, center_y = (x + across, y + along) if upright else (x + along, y + across)
        half = rng.uniform(0.22, 0.27)
        chairs.append(_Rect(center_x, center_y, center_x, center_y).grown(half))
    _put_table(rng, room, table, chairs)
    room.solid.append(place)


def _seats(rng: np.random.Generator, length: float, depth: float) -> list[tuple[float, float]]:
    """Offsets of two to six chairs from the centre of a table, along and across it."""
    shares = (-0.25, 0.25) if length > 1.3 else (0.0,)
    seats = [(share * length, side * (depth / 2 + 0.1)) for share in shares for side in (-1, 1)]
    heads = [(side * (length / 2 + 0.1), 0.0) for side in (-1, 1)]
    kept = [seat for seat in seats if rng.random() < 0.85] + [head for head in heads if rng.random() < 0.6]
    kept = kept if len(kept) > 1 else seats[:2]
    return [(along + rng.uniform(-0.05, 0.05), across + rng.uniform(-0.05, 0.05)) for along, across in kept]


def _put_table(rng: np.random.Generator, room: _Room, table: _Rect, chairs: list[_Rect]) -> None:
    """Place a table with its chairs, which show above or below the table top as in the real layouts."""
    chairs_on_top = rng.random() < 0.7
    if not chairs_on_top:
        for chair in chairs:
            room.put(CHAIR, chair, _tilt(rng))
    room.put(TABLE, table)
    if chairs_on_top:
        for chair in chairs:
            room.put(CHAIR, chair, _tilt(rng))


def _tilt(rng: np.random.Generator) -> float:
    return float(np.clip(rng.normal(0, 0.22), -0.45, 0.45))


_Place = Callable[[np.random.Generator, _Room], None]

_KIND_WEIGHTS = {
    "bedroom": 0.36,
    "living room": 0.24,
    "kitchen": 0.14,
    "bathroom": 0.06,
    "dining room": 0.11,
    "office": 0.09,
}

# For each kind of room what is placed, in that order, and how many on average.
_PROGRAMMES: dict[str, tuple[tuple[_Place, float], ...]] = {
    "bedroom": (
        (_bed, 1.1),
        (_fitted_block, 0.1),
        (_wardrobe, 0.7),
        (_desk, 0.45),
        (_shelf, 0.4),
        (_armchair, 0.3),
        (_clutter, 1.0),
        (_lamp, 0.1),
    ),
    "living room": (
        (_sofa, 0.75),
        (_television, 0.6),
        (_dining_table, 0.6),
        (_armchair, 0.45),
        (_shelf, 0.4),
        (_side_table, 0.3),
        (_clutter, 1.1),
        (_lamp, 0.15),
        (_stool, 0.25),
    ),
    "kitchen": (
        (_fitted_block, 0.3),
        (_counter, 0.9),
        (_dining_table, 0.65),
        (_clutter, 2.0),
        (_side_table, 0.3),
        (_stool, 0.6),
    ),
    "bathroom": ((_shelf, 0.6), (_clutter, 2.6), (_stool, 0.2), (_side_table, 0.2)),
    "dining room": ((_dining_table, 1.2), (_counter, 0.4), (_shelf, 0.6), (_clutter, 1.2), (_lamp, 0.2)),
    "office": (
        (_desk, 1.2),
        (_shelf, 1.0),
        (_wardrobe, 0.4),
        (_armchair, 0.5),
        (_side_table, 0.3),
        (_clutter, 1.0),
        (_lamp, 0.2),
    ),
}


# The drawing.


def _turned_bounds(box: _Rect, angle: float) -> _Rect:
    if angle == 0:
        return box
    xs, ys = zip(*_corners(box, angle), strict=True)
    return _Rect(min(xs), min(ys), max(xs), max(ys))


def _corners(box: _Rect, angle: float) -> list[tuple[float, float]]:
    x, y = box.center
    half_x, half_y = (box.right - box.left) / 2, (box.bottom - box.top) / 2
    cos, sin = math.cos(angle), math.sin(angle)
    offsets = ((-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y))
    return [(x + dx * cos - dy * sin, y + dx * sin + dy * cos) for dx, dy in offsets]


def _draw(house: _House, size: int) -> np.ndarray:
    """Class map of a house, uint8 [size, size], its longer side filling the frame but for the margin."""
    left, top, right, bottom = house.bounds
    scale = size * (1 - 2 * MARGIN) / max(right - left, bottom - top)
    origin_x, origin_y = ((left + right) / 2 - size / scale / 2, (top + bottom) / 2 - size / scale / 2)
    picture = Image.new("L", (size, size), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    # A polygon is drawn with its border pixels: half a pixel less at each side keeps its size.
    for piece in itertools.chain.from_iterable(room.pieces for room in house.rooms):
        corners = _corners(piece.box.grown(-0.5 / scale), piece.angle)
        points = [((x - origin_x) * scale - 0.5, (y - origin_y) * scale - 0.5) for x, y in corners]
        draw.polygon([(round(x), round(y)) for x, y in points], fill=piece.kind)
    # Walls come after the furniture, whose rounded edges may touch them; their thickness is rounded once.
    thickness = max(1, round(WALL_THICKNESS * scale))
    for boxes, fill in ((house.walls, WALL), (house.doors, BACKGROUND)):
        for box in boxes:
            draw.rectangle(_pixels(box, (origin_x, origin_y), scale, thickness), fill=fill)
    return np.asarray(picture)


def _pixels(box: _Rect, origin: tuple[float, float], scale: float, thickness: int) -> tuple[int, int, int, int]:
    """First and last pixels of a wall or door, rounded by its centre line: so walls meet without steps."""
    line = box.grown(-WALL_THICKNESS / 2)
    left, right = (round((x - origin[0]) * scale - thickness / 2) for x in (line.left, line.right))
    top, bottom = (round((y - origin[1]) * scale - thickness / 2) for y in (line.top, line.bottom))
    return left, top, right + thickness - 1, bottom + thickness - 1
