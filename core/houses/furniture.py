"""Furniture, in metres: each `Place` puts one group of pieces into a room.

If no free place is found after a few tries, the room is left unchanged.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from core.data.palette import DEFAULT_PALETTE
from core.houses.house import WALL_THICKNESS, Face, Piece, Room
from core.houses.rectangle import Rect

BED, CABINET, CHAIR, LIGHTING, OTHERS, STOOL, SOFA, TABLE = (
    DEFAULT_PALETTE.names.index(name)
    for name in ("bed", "cabinet", "chair", "lighting", "others", "stool", "sofa", "table")
)
# Metres between a piece and the wall.
_GAP = 0.005
_TRIES = 16

Place = Callable[[np.random.Generator, Room], None]


@dataclass(frozen=True)
class WallPiece:
    """A piece along a wall with `access` metres of free floor before it; `topped`: probability of an object on it."""

    kind: int
    length: tuple[float, float]
    depth: tuple[float, float]
    access: float
    topped: float = 0.0

    def __call__(self, rng: np.random.Generator, room: Room) -> None:
        length, depth = rng.uniform(*self.length), rng.uniform(*self.depth)
        spot = _along_wall(rng, room, length, depth, self.access)
        if spot is None:
            return
        room.put(self.kind, spot.rect(0, length, _GAP, depth))
        if self.kind == CABINET and rng.random() < self.topped:
            item, thickness = rng.uniform(0.5, 0.95) * length, rng.uniform(0.5, 0.8) * depth
            near = _GAP + (depth - thickness) / 2
            room.pieces.append(Piece(OTHERS, spot.rect((length - item) / 2, item, near, thickness)))


@dataclass(frozen=True)
class StandingPiece:
    """A square piece near a wall, turned by a random angle with probability `turned`."""

    kind: int
    side: tuple[float, float]
    turned: float

    def __call__(self, rng: np.random.Generator, room: Room) -> None:
        side = rng.uniform(*self.side)
        angle = rng.uniform(0, math.pi / 2) if rng.random() < self.turned else 0.0
        extent = side * (math.cos(angle) + math.sin(angle))
        spot = _along_wall(rng, room, extent, extent, 0.1)
        if spot is not None:
            margin = (extent - side) / 2
            room.put(self.kind, spot.rect(margin, side, _GAP + margin, side), angle)


wardrobe = WallPiece(CABINET, length=(1.0, 2.6), depth=(0.55, 0.75), access=0.55)
shelf = WallPiece(CABINET, length=(0.6, 1.5), depth=(0.22, 0.42), access=0.55, topped=0.12)
television = WallPiece(CABINET, length=(1.0, 1.7), depth=(0.38, 0.5), access=0.55, topped=0.8)
counter = WallPiece(CABINET, length=(1.4, 3.0), depth=(0.6, 0.85), access=0.55, topped=0.15)
# As large as a walk-in wardrobe or a kitchen block, which real houses have.
fitted_block = WallPiece(CABINET, length=(1.6, 2.9), depth=(1.2, 2.2), access=0.55)
side_table = WallPiece(TABLE, length=(0.45, 1.2), depth=(0.4, 0.75), access=0.3)
lamp = StandingPiece(LIGHTING, side=(0.36, 0.5), turned=0.5)
stool = StandingPiece(STOOL, side=(0.3, 0.42), turned=0.1)
_box = WallPiece(OTHERS, length=(0.3, 1.0), depth=(0.3, 0.75), access=0.2)
_plant = StandingPiece(OTHERS, side=(0.15, 0.55), turned=0.4)


def clutter(rng: np.random.Generator, room: Room) -> None:
    """An object of class `others` (plant, basket, box, appliance) at a wall, sometimes in the open."""
    draw = rng.random()
    if draw < 0.88:
        (_plant if draw < 0.25 else _box)(rng, room)
        return
    box = _in_the_open(rng, room, *rng.uniform(0.35, 0.75, 2))
    if box is not None:
        room.put(OTHERS, box)


def bed(rng: np.random.Generator, room: Room) -> None:
    """A bed with its head to the wall, one or two pillows, sometimes a bedside table."""
    double = rng.random() < 0.5
    width = rng.uniform(1.5, 1.9) if double else rng.uniform(0.95, 1.25)
    length = rng.uniform(1.9, 2.15)
    spot = _along_wall(rng, room, width, length, 0.3)
    if spot is None:
        return
    room.put(BED, spot.rect(0, width, _GAP, length))
    pillow = rng.uniform(0.32, 0.42)
    for share in (0.27, 0.73) if double and rng.random() < 0.7 else (0.5,):
        if rng.random() < 0.75:
            room.pieces.append(Piece(OTHERS, spot.rect(share * width - pillow / 2, pillow, 0.15, 0.26)))
    for offset in (-0.47, width + 0.05):
        box = spot.rect(offset, 0.42, _GAP, 0.4)
        if rng.random() < 0.35 and room.admits(box):
            room.put(OTHERS if rng.random() < 0.6 else CABINET, box)


def sofa(rng: np.random.Generator, room: Room) -> None:
    """A sofa with its back to the wall, sometimes with a low table before it."""
    length, depth = rng.uniform(1.6, 2.3), rng.uniform(0.75, 0.95)
    spot = _along_wall(rng, room, length, depth, 0.6)
    if spot is None:
        return
    room.put(SOFA, spot.rect(0, length, _GAP, depth))
    low_table = rng.uniform(0.8, 1.2)
    box = spot.rect((length - low_table) / 2, low_table, depth + 0.65, rng.uniform(0.5, 0.65))
    if rng.random() < 0.45 and room.admits(box):
        room.put(TABLE, box)


def armchair(rng: np.random.Generator, room: Room) -> None:
    """An armchair at the wall, often with a floor lamp at its side."""
    side, lamp_side = rng.uniform(0.75, 0.98), rng.uniform(0.38, 0.48)
    lit = rng.random() < 0.6
    turned = 1.45 * lamp_side
    spot = _along_wall(rng, room, side + lit * (turned + 0.08), side, 0.45)
    if spot is None:
        return
    lamp_first = lit and rng.random() < 0.5
    room.put(SOFA, spot.rect(lamp_first * (turned + 0.08), side, _GAP, side * rng.uniform(0.9, 1.0)))
    if lit:
        margin = (turned - lamp_side) / 2
        offset = margin if lamp_first else side + 0.08 + margin
        room.put(LIGHTING, spot.rect(offset, lamp_side, _GAP + margin, lamp_side), rng.uniform(0, math.pi / 2))


def desk(rng: np.random.Generator, room: Room) -> None:
    """A desk at the wall, usually with a chair that is pulled out a little and turned."""
    length, depth = rng.uniform(1.1, 1.6), rng.uniform(0.55, 0.8)
    spot = _along_wall(rng, room, length, depth + 0.65, 0.1)
    if spot is None:
        return
    side = rng.uniform(0.45, 0.54)
    chair = spot.rect((length - side) * rng.uniform(0.35, 0.65), side, depth - rng.uniform(0.02, 0.15), side)
    _put_table(rng, room, spot.rect(0, length, _GAP, depth), [chair] if rng.random() < 0.85 else [])


def dining_table(rng: np.random.Generator, room: Room) -> None:
    """A table in the open with chairs tucked around it."""
    length, depth, reach = rng.uniform(1.0, 1.9), rng.uniform(0.7, 1.0), 0.55
    upright = rng.random() < 0.5
    width, height = (depth, length) if upright else (length, depth)
    place = _in_the_open(rng, room, width + 2 * reach, height + 2 * reach)
    if place is None:
        return
    table = place.grown(-reach)
    x, y = table.center
    chairs = []
    for along, across in _seats(rng, length, depth):
        seat_x, seat_y = (x + across, y + along) if upright else (x + along, y + across)
        chairs.append(Rect(seat_x, seat_y, seat_x, seat_y).grown(rng.uniform(0.22, 0.27)))
    _put_table(rng, room, table, chairs)
    room.solid.append(place)


def _seats(rng: np.random.Generator, length: float, depth: float) -> list[tuple[float, float]]:
    """Offsets in metres of two to six chairs from the centre of a table, along and across it."""
    shares = (-0.25, 0.25) if length > 1.3 else (0.0,)
    seats = [(share * length, side * (depth / 2 + 0.1)) for share in shares for side in (-1, 1)]
    heads = [(side * (length / 2 + 0.1), 0.0) for side in (-1, 1)]
    kept = [seat for seat in seats if rng.random() < 0.85] + [head for head in heads if rng.random() < 0.6]
    kept = kept if len(kept) > 1 else seats[:2]
    return [(along + rng.uniform(-0.05, 0.05), across + rng.uniform(-0.05, 0.05)) for along, across in kept]


def _put_table(rng: np.random.Generator, room: Room, table: Rect, chairs: list[Rect]) -> None:
    """Place a table with its chairs, drawn over or under the table top as in real layouts."""
    chairs_on_top = rng.random() < 0.7
    turned = [Piece(CHAIR, chair, min(max(rng.normal(0, 0.22), -0.45), 0.45)) for chair in chairs]
    top = Piece(TABLE, table)
    for kind, box, angle in [top, *turned] if chairs_on_top else [*turned, top]:
        room.put(kind, box, angle)


def _along_wall(rng: np.random.Generator, room: Room, length: float, depth: float, access: float) -> Face | None:
    """A free stretch of wall for a piece, often in a corner, with `access` metres of floor before it; None if none.

    The face returned starts where the piece starts.
    """
    faces = [face for face in room.faces if face.stop - face.start > length + WALL_THICKNESS + 2 * _GAP]
    for _ in range(_TRIES if faces else 0):
        face = faces[rng.integers(len(faces))]
        start, stop = face.start + WALL_THICKNESS / 2 + _GAP, face.stop - WALL_THICKNESS / 2 - _GAP - length
        along = rng.uniform(start, stop)
        if rng.random() < 0.45:
            along = start if rng.random() < 0.5 else stop
        spot = replace(face, start=along)
        front = spot.rect(0, length, _GAP + depth, access)
        if room.admits(spot.rect(0, length, _GAP, depth), front):
            room.keep_clear.append(front)
            return spot
    return None


def _in_the_open(rng: np.random.Generator, room: Room, width: float, height: float) -> Rect | None:
    """A free place for a group that needs no wall; None if none is found."""
    for _ in range(_TRIES):
        part = room.floor[rng.integers(len(room.floor))]
        span_x, span_y = part.width - width, part.height - height
        if min(span_x, span_y) <= WALL_THICKNESS:
            continue
        left, top = part.left + span_x * rng.beta(1.3, 1.3), part.top + span_y * rng.beta(1.3, 1.3)
        body = Rect(left, top, left + width, top + height)
        if room.admits(body):
            return body
    return None
