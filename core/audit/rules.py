"""The rules that a viable layout keeps: on_palette, enclosed, reachable, clear_doorways, no_fragments, furnished.

A rule is a set of statistics of the class map, each with a range. `core.audit.calibration` sets the ranges on real
layouts; `core.data.floor_survey` has the geometry of the measurements.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from core.data.floor_survey import (
    Pieces,
    Scale,
    find_interior,
    find_pieces,
    furniture_in_walls,
    loose_wall_share,
    open_share,
    opening_count,
    reachable_shares,
    wall_parts,
)
from core.data.palette import Mask, Palette

# The statistics of each rule, and where a layout breaks it: below the range, above it, or both.
RULES: dict[str, dict[str, str]] = {
    "on_palette": {"off_palette": "above"},
    "enclosed": {"interior_share": "below", "open_share": "above", "openings": "above", "loose_walls": "above"},
    "reachable": {"reached_share": "below", "connected_share": "below"},
    "clear_doorways": {"furniture_in_walls": "above"},
    "no_fragments": {"small_pieces": "above", "raggedness": "above", "wall_parts": "above"},
    "furnished": {
        "pieces": "both",
        "most_of_a_kind": "above",
        "largest_of_a_kind": "above",
        "furniture_share": "above",
        "furniture_outside": "above",
    },
}
VIABLE = "viable"

# Statistics by name, [N] each.
Statistics = dict[str, np.ndarray]


@dataclass(frozen=True)
class PieceRange:
    """By kind of furniture: cells below which a piece is small, cells of the largest, most pieces in a layout."""

    small: list[float]
    large: list[float]
    many: list[float]


@dataclass(frozen=True)
class Rules:
    """Calibrated rules: sizes in pixels, sizes and numbers of pieces, and the range (low, high) of each statistic.

    They judge layouts in the `palette`.
    """

    scale: Scale
    pieces: PieceRange
    bounds: dict[str, tuple[float, float]]
    palette: Palette

    def check(self, classes: np.ndarray, off_palette: np.ndarray) -> pd.DataFrame:
        """Whether each layout keeps each rule, bool [N, rules + 1]; the last column, `viable`, is all rules together.

        `classes` are uint8 class maps [N, H, W]; `off_palette` [N] is the share of pixels outside the palette.
        """
        return self.keeps(self.measure(classes, off_palette))

    def measure(self, classes: np.ndarray, off_palette: np.ndarray) -> pd.DataFrame:
        """Every statistic of the rules, one row per layout; arguments as of `check`."""
        return measure(classes, off_palette, self.scale, self.pieces, self.palette)

    def keeps(self, statistics: pd.DataFrame) -> pd.DataFrame:
        """What `check` returns, from the statistics of layouts."""
        kept = pd.DataFrame(
            {rule: are_within(statistics[list(names)], self.bounds) for rule, names in RULES.items()}, dtype=bool
        )
        return kept.assign(**{VIABLE: kept.all(axis=1)})

    def as_json(self) -> dict[str, Any]:
        """The rules as JSON values, for a record; `Rules.from_json` reads them."""
        return {
            "scale": asdict(self.scale),
            "pieces": asdict(self.pieces),
            "bounds": {name: [_bound(low), _bound(high)] for name, (low, high) in self.bounds.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], palette: Palette) -> "Rules":
        """The rules from the result of `as_json`, for layouts in the palette that they were calibrated in."""
        ends = {
            name: (-math.inf if low is None else low, math.inf if high is None else high)
            for name, (low, high) in data["bounds"].items()
        }
        return cls(Scale(**data["scale"]), PieceRange(**data["pieces"]), ends, palette)


def are_within(statistics: pd.DataFrame, bounds: Mapping[str, tuple[float, float]]) -> pd.Series:
    """Whether all `statistics` of each layout are within their bounds, bool [N]."""
    lows, highs = (np.array([bounds[name][end] for name in map(str, statistics.columns)]) for end in (0, 1))
    values = statistics.to_numpy()
    return pd.Series(((values >= lows) & (values <= highs)).all(axis=1), index=statistics.index)


def measure(
    classes: np.ndarray, off_palette: np.ndarray, scale: Scale, ranges: PieceRange, palette: Palette
) -> pd.DataFrame:
    """Every statistic of the rules, one row per layout."""
    floor = floor_statistics(classes, off_palette, scale, palette)
    return floor.assign(**piece_statistics(find_pieces(classes, palette), len(classes), ranges))


def floor_statistics(classes: np.ndarray, off_palette: np.ndarray, scale: Scale, palette: Palette) -> pd.DataFrame:
    """The statistics that do not need a `PieceRange`, one row per layout."""
    interior = find_interior(classes, scale.door, palette)
    statistics: Statistics = {"off_palette": off_palette}
    statistics |= _enclosed(classes, interior, scale, palette)
    statistics |= _reachable(classes, interior, scale, palette)
    statistics |= {"furniture_in_walls": furniture_in_walls(classes, scale, palette)}
    statistics |= {"wall_parts": wall_parts(classes, palette)}
    statistics |= _furnished(classes, interior, palette)
    return pd.DataFrame(statistics)


def _enclosed(classes: np.ndarray, interior: Mask, scale: Scale, palette: Palette) -> Statistics:
    """Rule `enclosed`: with doors closed, walls surround an interior; few openings lead out; few walls stand apart."""
    return {
        "interior_share": interior.mean(axis=(1, 2)),
        "open_share": open_share(interior, classes, palette),
        "openings": opening_count(interior, classes, palette),
        "loose_walls": loose_wall_share(interior, classes, scale.wall, palette),
    }


def _reachable(classes: np.ndarray, interior: Mask, scale: Scale, palette: Palette) -> Statistics:
    """Rule `reachable`: a body can walk from outside to the places inside where it can stand, and between them."""
    reached, connected = reachable_shares(interior, classes, scale.body, palette)
    return {"reached_share": reached, "connected_share": connected}


def _furnished(classes: np.ndarray, interior: Mask, palette: Palette) -> Statistics:
    """Rule `furnished`, without pieces: furniture's share of the interior, and the share of furniture outside it."""
    furniture = palette.is_furniture(classes)
    cells = np.maximum(1, furniture.sum(axis=(1, 2)))
    return {
        "furniture_share": (furniture & interior).sum(axis=(1, 2)) / np.maximum(1, interior.sum(axis=(1, 2))),
        "furniture_outside": (furniture & ~interior).sum(axis=(1, 2)) / cells,
    }


def piece_statistics(pieces: Pieces, count: int, ranges: PieceRange) -> Statistics:
    """Rules `no_fragments` and `furnished`: the statistics of the pieces of furniture in `count` layouts."""
    limits = np.array([ranges.small, ranges.large, ranges.many])[:, pieces.kind]
    of_a_kind = np.zeros((count, len(ranges.many)))
    np.add.at(of_a_kind, (pieces.layout, pieces.kind), 1)
    largest = np.zeros(count)
    np.maximum.at(largest, pieces.layout, pieces.area / limits[1])
    cells = np.maximum(1, _per_layout(pieces, pieces.area, count))
    return {
        "small_pieces": _per_layout(pieces, pieces.area < limits[0], count),
        "raggedness": _per_layout(pieces, pieces.box - pieces.area, count) / cells,
        "pieces": of_a_kind.sum(axis=1),
        "most_of_a_kind": (of_a_kind / np.array(ranges.many)).max(axis=1),
        "largest_of_a_kind": largest,
    }


def _per_layout(pieces: Pieces, values: np.ndarray, count: int) -> np.ndarray:
    """Sum of `values`, one per piece, in each layout."""
    return np.bincount(pieces.layout, values, minlength=count)


def _bound(value: float) -> float | None:
    """`value`, or None for an infinite one, which JSON does not have."""
    return value if math.isfinite(value) else None
