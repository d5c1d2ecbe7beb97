"""Synthetic furnished houses seen from above, drawn to look like the real layouts.

A house is planned on a coarse grid of cells, built and furnished in metres, and then drawn at the scale that fills the
frame. Its classes are those of the default palette.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from core.data.palette import DEFAULT_PALETTE
from core.houses.floor_plan import MAX_ROOMS, plan_rooms
from core.houses.house import WALL_THICKNESS, House, build_house
from core.houses.room_programme import furnish
from core.runtime.files import atomic_write
from core.runtime.progress import each

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

# Share of the frame that is left free at each side.
_MARGIN = 16 / 512


def generate_layout(rng: np.random.Generator, num_rooms: int, size: int = 512) -> np.ndarray:
    """Class map, uint8 [size, size], of a random house with `num_rooms` furnished rooms, 1 to 6; else ValueError."""
    if not 1 <= num_rooms <= MAX_ROOMS:
        raise ValueError(f"num_rooms must be 1 to {MAX_ROOMS}, got {num_rooms}")
    return _draw(furnished_house(rng, num_rooms), size)


def write_layouts(
    folder: Path,
    count: int,
    seed: int,
    rooms: tuple[int, int] = (1, 6),
    written: Callable[[int], None] = lambda _: None,
) -> Path:
    """Path of the manifest of `count` layouts written to `folder` as `images/{scene_id}_scene_layout.png`.

    Layout i depends only on (seed, i). Its number of rooms is drawn from `rooms`, both ends included. The manifest is
    written last and atomically: if it exists, the set is complete. `written` is called after each layout with the
    number written so far. Pictures that exist already are not drawn again.
    """
    rows = []
    for index in each(range(count), "layouts", "layouts"):
        rows.append(_write_layout(folder, seed, index, rooms))
        written(index + 1)
    manifest = folder / "manifest.csv"
    with atomic_write(manifest) as file:
        pd.DataFrame(rows, columns=MANIFEST_COLUMNS).to_csv(file, index=False, lineterminator="\n")
    return manifest


def _write_layout(folder: Path, seed: int, index: int, rooms: tuple[int, int]) -> dict[str, object]:
    """Manifest row of layout `index`, after writing its picture."""
    rng = np.random.default_rng([seed, index])
    num_rooms = int(rng.integers(rooms[0], rooms[1], endpoint=True))
    scene_id = f"generated_{index:05d}"
    path = f"images/{scene_id}_scene_layout.png"
    if not (folder / path).exists():
        picture = Image.fromarray(DEFAULT_PALETTE.rgb_from_classes(generate_layout(rng, num_rooms)))
        with atomic_write(folder / path, on_disk=False) as file:
            picture.save(file, format="PNG", compress_level=1)
    values = (scene_id, "scene", "scene", num_rooms, path, False, False, 0, "")
    return dict(zip(MANIFEST_COLUMNS, values, strict=True))


def furnished_house(rng: np.random.Generator, num_rooms: int) -> House:
    """A random house with its furniture, in metres."""
    house = build_house(rng, plan_rooms(rng, num_rooms))
    furnish(rng, house.rooms)
    return house


@dataclass(frozen=True)
class _Frame:
    """The part of the plane that a picture shows: its top left corner in metres, and `scale` in pixels per metre."""

    left: float
    top: float
    scale: float

    def pixel(self, x: float, y: float, back: float) -> tuple[int, int]:
        """The pixel of a point in metres, moved `back` pixels up and to the left."""
        return round((x - self.left) * self.scale - back), round((y - self.top) * self.scale - back)


def _draw(house: House, size: int) -> np.ndarray:
    """Class map of a house, uint8 [size, size]; its longer side fills the frame inside the margin."""
    scale = size * (1 - 2 * _MARGIN) / max(house.bounds.width, house.bounds.height)
    x, y = house.bounds.center
    frame = _Frame(x - size / scale / 2, y - size / scale / 2, scale)
    picture = Image.new("L", (size, size), DEFAULT_PALETTE.background)
    draw = ImageDraw.Draw(picture)
    # Polygons are drawn with their border pixels: half a pixel less at each side keeps their size.
    for piece in (piece for room in house.rooms for piece in room.pieces):
        corners = piece._replace(box=piece.box.grown(-0.5 / scale)).corners
        draw.polygon([frame.pixel(*corner, back=0.5) for corner in corners], fill=piece.kind)
    # Walls are drawn over furniture, whose rounded edges may touch them. Their thickness is rounded once and they are
    # placed by their centre lines, so that they meet without steps.
    thickness = max(1, round(WALL_THICKNESS * scale))
    for boxes, fill in (
        (house.walls, DEFAULT_PALETTE.wall),
        (house.doors, DEFAULT_PALETTE.background),
    ):
        for line in (box.grown(-WALL_THICKNESS / 2) for box in boxes):
            first = frame.pixel(line.left, line.top, thickness / 2)
            last = frame.pixel(line.right, line.bottom, thickness / 2)
            draw.rectangle((first, (last[0] + thickness - 1, last[1] + thickness - 1)), fill=fill)
    return np.asarray(picture)
