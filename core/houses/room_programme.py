"""The use of a room and the furniture that goes with it."""

import numpy as np

from core.houses.furniture import (
    Place,
    armchair,
    bed,
    clutter,
    counter,
    desk,
    dining_table,
    fitted_block,
    lamp,
    shelf,
    side_table,
    sofa,
    stool,
    television,
    wardrobe,
)
from core.houses.house import Room

_KIND_WEIGHTS = {
    "bedroom": 0.36,
    "living room": 0.24,
    "kitchen": 0.14,
    "bathroom": 0.06,
    "dining room": 0.11,
    "office": 0.09,
}

# What each kind of room gets, in the order of placing, and the mean number of each.
_PROGRAMMES: dict[str, dict[Place, float]] = {
    "bedroom": {
        bed: 1.1,
        fitted_block: 0.1,
        wardrobe: 0.7,
        desk: 0.45,
        shelf: 0.4,
        armchair: 0.3,
        clutter: 1.0,
        lamp: 0.1,
    },
    "living room": {
        sofa: 0.75,
        television: 0.6,
        dining_table: 0.6,
        armchair: 0.45,
        shelf: 0.4,
        side_table: 0.3,
        clutter: 1.1,
        lamp: 0.15,
        stool: 0.25,
    },
    "kitchen": {fitted_block: 0.3, counter: 0.9, dining_table: 0.65, clutter: 2.0, side_table: 0.3, stool: 0.6},
    "bathroom": {shelf: 0.6, clutter: 2.6, stool: 0.2, side_table: 0.2},
    "dining room": {dining_table: 1.2, counter: 0.4, shelf: 0.6, clutter: 1.2, lamp: 0.2},
    "office": {desk: 1.2, shelf: 1.0, wardrobe: 0.4, armchair: 0.5, side_table: 0.3, clutter: 1.0, lamp: 0.2},
}


def furnish(rng: np.random.Generator, rooms: list[Room]) -> None:
    """Furnish every room by a random kind; large rooms get more furniture, some of it of a second kind."""
    for room, kind in zip(rooms, _room_kinds(rng, rooms), strict=True):
        programme = list(_PROGRAMMES[kind].items())
        if room.area > 18 and rng.random() < 0.6:
            second = str(rng.choice(("bedroom", "living room", "dining room", "office")))
            programme += [(place, 0.55 * mean) for place, mean in _PROGRAMMES[second].items() if place is not clutter]
        for place, mean in programme:
            for _ in range(int(mean + rng.random())):
                place(rng, room)
        for _ in range(rng.poisson(0.03 * room.area)):
            clutter(rng, room)


def _room_kinds(rng: np.random.Generator, rooms: list[Room]) -> list[str]:
    """A kind for each room. Of several, the smallest may be a bathroom; the largest is a living room or bedroom."""
    order = sorted(range(len(rooms)), key=lambda index: rooms[index].area)
    kinds = [str(kind) for kind in rng.choice(tuple(_KIND_WEIGHTS), len(rooms), p=tuple(_KIND_WEIGHTS.values()))]
    if len(rooms) > 1:
        if rng.random() < 0.25 * (len(rooms) - 1):
            kinds[order[0]] = "bathroom"
        kinds[order[-1]] = "living room" if rng.random() < 0.5 else "bedroom"
    if len(rooms) > 2:
        kinds[order[1]] = "bedroom" if rng.random() < 0.6 else "kitchen"
    # Bathrooms get little furniture: a large one would look empty.
    return [
        "bedroom" if kind == "bathroom" and room.area > 13 else kind for kind, room in zip(kinds, rooms, strict=True)
    ]
