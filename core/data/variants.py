"""The eight variants of a layout: four rotations, each plain and mirrored."""

import numpy as np

from core.data.layout_groups import VARIANTS

COUNT = len(VARIANTS) + 1


def variant(picture: np.ndarray, index: int) -> np.ndarray:
    """Variant `index` of a picture [H, W, ...]: 0 is the picture itself, 1..7 follow the order of `VARIANTS`."""
    name = VARIANTS[index - 1] if index else ""
    mirrored = np.flip(picture, axis=1) if name.startswith("mirror") else picture
    quarter_turns = {"rot90": 1, "rot180": 2, "rot270": 3}.get(name.removeprefix("mirror_"), 0)
    return np.rot90(mirrored, quarter_turns)


def variant_of_each(maps: np.ndarray, index: int) -> np.ndarray:
    """Variant `index` of each of the square `maps` [N, S, S], as a view."""
    return np.moveaxis(variant(np.moveaxis(maps, 0, -1), index), -1, 0)


def all_variants(maps: np.ndarray) -> np.ndarray:
    """Every variant of the square `maps` [N, S, S]: [8 N, S, S], the eight variants of a layout in sequence."""
    return np.stack([variant_of_each(maps, index) for index in range(COUNT)], axis=1).reshape(-1, *maps.shape[1:])
