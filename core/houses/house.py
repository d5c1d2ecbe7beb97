"""A floor plan built in metres: walls, doors, and rooms with clear doors and paths.

Two kinds of floor are reserved before furniture is placed: both sides of every door, and a path from the first door of
a room to its other doors.
"""

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from core.houses.floor_plan import CELL, OUTSIDE, FloorPlan, walls_with_doors
from core.houses.rectangle import Point, Rect, bounding

# Metres. The door zone and the path are wider than the 0.5 m body that must pass, so that rounding to pixels does not
# close them.
WALL_THICKNESS = 0.17
_DOOR_ZONE = 0.9
_PATH_WIDTH = 0.7


@dataclass(frozen=True)
class Face:
    """A wall seen from a room: at `position` across, `start` to `stop` along; the room on side `inward`, 1 or -1."""

    horizontal: bool
    position: float
    start: float
    stop: float
    inward: int

    def rect(self, offset: float, length: float, near: float, depth: float) -> Rect:
        """The rectangle of `length` that begins at `start + offset` and lies `near` to `near + depth` off the wall."""
        along = self.start + offset
        low, high = sorted((self.position + self.inward * near, self.position + self.inward * (near + depth)))
        if self.horizontal:
            return Rect(along, low, along + length, high)
        return Rect(low, along, high, along + length)


class Piece(NamedTuple):
    """One furniture rectangle of class `kind`, turned by `angle` radians about its centre."""

    kind: int
    box: Rect
    angle: float = 0.0

    @property
    def corners(self) -> list[Point]:
        x, y = self.box.center
        half_x, half_y = self.box.width / 2, self.box.height / 2
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        offsets = ((-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y))
        return [(x + dx * cos - dy * sin, y + dx * sin + dy * cos) for dx, dy in offsets]

    @property
    def bounds(self) -> Rect:
        return bounding(self.corners) if self.angle else self.box


@dataclass
class Room:
    """A room in metres: its floor; its walls; what stands on the floor; what must stay walkable; its furniture."""

    floor: list[Rect]
    faces: list[Face]
    solid: list[Rect]
    keep_clear: list[Rect] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)

    @property
    def area(self) -> float:
        """Square metres."""
        return sum(part.width * part.height for part in self.floor)

    def admits(self, body: Rect, access: Rect | None = None) -> bool:
        """Whether `body` fits on free floor here and no piece or wall covers `access`, the floor to use it from."""
        if not any(part.contains(*body.center) for part in self.floor):
            return False
        if any(body.overlaps(other) for other in itertools.chain(self.solid, self.keep_clear)):
            return False
        return access is None or not any(access.overlaps(other) for other in self.solid)

    def put(self, kind: int, box: Rect, angle: float = 0.0) -> None:
        """Place a piece; the floor that it covers is then taken."""
        piece = Piece(kind, box, angle)
        self.pieces.append(piece)
        self.solid.append(piece.bounds)


@dataclass(frozen=True)
class House:
    """A house in metres from the corner of its plan; `bounds` contains the outer walls."""

    bounds: Rect
    walls: list[Rect]
    doors: list[Rect]
    rooms: list[Room]


def build_house(rng: np.random.Generator, plan: FloorPlan) -> House:
    """The house of a plan, not yet furnished."""
    scale: Point = tuple(rng.uniform(*CELL, 2))
    rows, columns = plan.ids.shape
    bounds = Rect(0, 0, columns, rows).scaled(*scale).grown(WALL_THICKNESS / 2)
    walls = [wall.line.scaled(*scale).grown(WALL_THICKNESS / 2) for wall in plan.walls]
    rooms = [_empty_room(plan, index, scale, walls) for index in range(len(plan.blocks))]
    doors = _place_doors(rng, plan, scale, rooms)
    for room in rooms:
        room.keep_clear += _paths(rng, room)
    return House(bounds, walls, doors, rooms)


def _empty_room(plan: FloorPlan, index: int, scale: Point, walls: list[Rect]) -> Room:
    floor = [part.scaled(*scale) for part in plan.blocks[index]]
    faces = [_face(wall.line.scaled(*scale), -1 if wall.before == index else 1) for wall in plan.walls_of(index)]
    near = [wall for wall in walls if any(wall.overlaps(part) for part in floor)]
    return Room(floor, sorted(faces, key=lambda face: (face.horizontal, face.position, face.start)), near)


def _face(line: Rect, inward: int) -> Face:
    """The face on side `inward` of the wall along `line`, in metres."""
    offset = inward * WALL_THICKNESS / 2
    if line.height == 0:
        return Face(True, line.top + offset, line.left, line.right, inward)
    return Face(False, line.left + offset, line.top, line.bottom, inward)


def _place_doors(rng: np.random.Generator, plan: FloorPlan, scale: Point, rooms: list[Room]) -> list[Rect]:
    """Door openings; adds the floor before each door to `keep_clear` of its rooms."""
    doors = []
    for wall in walls_with_doors(rng, plan):
        line = wall.line.scaled(*scale)
        start, width = _door_span(rng, _face(line, 1), wall.outer)
        doors.append(replace(_face(line, 1), start=start).rect(0, width, -WALL_THICKNESS, WALL_THICKNESS))
        for inward, room in ((-1, wall.before), (1, wall.after)):
            if room != OUTSIDE:
                doorway = replace(_face(line, inward), start=start)
                rooms[room].keep_clear.append(doorway.rect(-0.05, width + 0.1, 0, _DOOR_ZONE))
    return doors


def _door_span(rng: np.random.Generator, face: Face, entrance: bool) -> tuple[float, float]:
    """Start and width, in metres, of a door in a wall, away from the walls that meet it."""
    start, stop = face.start + WALL_THICKNESS / 2 + 0.1, face.stop - WALL_THICKNESS / 2 - 0.1
    width = rng.uniform(0.85, 1.0)
    if rng.random() < (0.5 if entrance else 0.2):
        width = min(rng.uniform(1.2, 1.5), stop - start)
    return rng.uniform(start, stop - width), width


def _paths(rng: np.random.Generator, room: Room) -> list[Rect]:
    """Strips of floor from the first door to every other door; in an L-shaped room, through its seam if needed."""
    first, *others = (zone.center for zone in room.keep_clear)
    strips: list[Rect] = []
    for point in others:
        direct = _path(rng, room, first, point)
        if not direct:
            seam = room.floor[0].shared_edge(room.floor[1]).center
            direct = _path(rng, room, first, seam) + _path(rng, room, seam, point)
        strips += direct
    return strips


def _path(rng: np.random.Generator, room: Room, start: Point, end: Point) -> list[Rect]:
    """Two straight strips of floor from `start` to `end` with one bend; [] if walls are in the way."""
    corners = [(start[0], end[1]), (end[0], start[1])]
    for corner in corners if rng.random() < 0.5 else corners[::-1]:
        strips = [bounding((corner, point)).grown(_PATH_WIDTH / 2) for point in (start, end)]
        if not any(strip.overlaps(wall) for strip in strips for wall in room.solid):
            return strips
    return []
