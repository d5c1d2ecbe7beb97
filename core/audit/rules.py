"""Rules that a viable layout keeps, with bounds calibrated on real layouts.

A rule is a few statistics of the class map, each within a range. The ranges are as strict as they can be while the
wanted share of real training layouts keeps every rule.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from core.data.floor_survey import (
    WALL_METRES,
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
from core.data.palette import WALL
from core.runtime.errors import InputError

BODY_METRES = 0.5
# Statistics of each rule, and on which side a layout may be too far out: below, above or both.
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
# Openings wider than the calibrated door are holes; this share of real layouts must be enclosed.
_ENCLOSED_SHARE = 0.993
_SMALLEST_INTERIOR = 0.02
# Calibration: folds, how often layouts are dealt to them, how far beyond all real layouts a range may reach, halvings
# of the search.
_FOLDS, _REPEATS, _WIDEST, _BISECTIONS = 5, 3, 0.5, 20
# A piece is small if so few real ones of its class are smaller; the largest and most numerous are the other end.
_SMALL_TAIL, _LARGE_TAIL = 0.05, 0.995


@dataclass(frozen=True)
class PieceRange:
    """Of each furniture class: cells below which a piece is small, cells of the largest, pieces in a layout at most."""

    small: list[float]
    large: list[float]
    many: list[float]


@dataclass(frozen=True)
class Rules:
    """Calibrated rules: sizes in pixels, ranges of pieces, and the range [low, high] of each statistic."""

    scale: Scale
    pieces: PieceRange
    bounds: dict[str, tuple[float, float]]

    def check(self, classes: np.ndarray, off_palette: np.ndarray) -> pd.DataFrame:
        """Which rules each class map keeps, bool; the last column, `viable`, is all of them together.

        `classes` uint8 [N, H, W]; `off_palette` [N], the share of a picture's pixels in no palette colour.
        """
        statistics = measure(classes, off_palette, self.scale, self.pieces)
        kept = pd.DataFrame(
            {rule: _within(statistics[list(names)], self.bounds) for rule, names in RULES.items()}, dtype=bool
        )
        return kept.assign(**{VIABLE: kept.all(axis=1)})

    def as_json(self) -> dict[str, Any]:
        """What a record keeps of the rules; `Rules.from_json` reads it back."""
        return {
            "scale": asdict(self.scale),
            "pieces": asdict(self.pieces),
            "bounds": {name: [_bound(low), _bound(high)] for name, (low, high) in self.bounds.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Rules":
        """The rules that `as_json` described."""
        ends = {
            name: (-math.inf if low is None else low, math.inf if high is None else high)
            for name, (low, high) in data["bounds"].items()
        }
        return cls(Scale(**data["scale"]), PieceRange(**data["pieces"]), ends)


def calibrate(classes: np.ndarray, off_palette: np.ndarray, pixels_per_metre: float, pass_share: float) -> Rules:
    """The strictest rules that `pass_share` of real layouts keep, those that were not calibrated on included.

    `classes` [N, H, W] are real layouts, `pixels_per_metre` is their scale. Layouts without an interior break the rules
    whatever the ranges are; of the others every statistic leaves out the same share at each end that counts. That
    share is found by bisection, judging each fifth of the layouts by rules made of the others alone: doors, pieces and
    ranges.

    Raises InputError if walls enclose an interior in next to no layout.
    """
    # At small sizes a wall takes the whole of every cell it touches, so a passage has lost up to a cell.
    body = max(1, int(BODY_METRES * pixels_per_metre) - 1)
    layouts = _Layouts(classes, off_palette, body, max(1, round(WALL_METRES * pixels_per_metre)))
    everything = np.ones(len(classes), bool)
    splits = [
        (order % _FOLDS != part, order % _FOLDS == part) for order in _orders(len(classes)) for part in range(_FOLDS)
    ]
    scale, ranges, statistics = layouts.judged_by(everything)
    enclosed = statistics["interior_share"] >= _SMALLEST_INTERIOR
    if any(not enclosed[others].any() for others, _ in splits):
        raise InputError(
            f"audit: walls enclose a room in {enclosed.sum()} of {len(classes)} real training layouts, too few to "
            "calibrate its rules on: mend the pictures or dataset.image_size, or set audit: null"
        )
    folds = []
    for others, part in splits:
        measured = layouts.judged_by(others)[2]
        made_of = others & (measured["interior_share"] >= _SMALLEST_INTERIOR).to_numpy()
        folds.append((measured[made_of], measured[part]))
    # Aim one standard error above `pass_share`, as far as ranges inside those of all real layouts allow.
    more = math.sqrt(pass_share * (1 - pass_share) / len(classes))
    tail = max(_largest_tail(folds, pass_share + more), min(0.0, _largest_tail(folds, pass_share)))
    return Rules(scale, ranges, _bounds(statistics[enclosed], tail))


def _largest_tail(folds: list[tuple[pd.DataFrame, pd.DataFrame]], share: float) -> float:
    """The share that every statistic may leave out at each end so that `share` of the layouts judged keep all ranges.

    Each of `folds` is the statistics of the layouts that ranges are made of and of those they judge.
    """
    low, high = -_WIDEST, 0.5
    for _ in range(_BISECTIONS):
        tail = (low + high) / 2
        kept = np.mean([_within(judged, _bounds(made_of, tail)).mean() for made_of, judged in folds])
        low, high = (tail, high) if kept >= share else (low, tail)
    return low


def measure(classes: np.ndarray, off_palette: np.ndarray, scale: Scale, ranges: PieceRange) -> pd.DataFrame:
    """Every statistic that the rules bound, a row a layout."""
    interior = find_interior(classes, scale.door)
    floor = _floor_statistics(classes, off_palette, interior, scale)
    return floor.assign(**_piece_statistics(find_pieces(classes), len(classes), ranges))


class _Layouts:
    """Real layouts, of which rules are made several times; what does not depend on that is measured once."""

    def __init__(self, classes: np.ndarray, off_palette: np.ndarray, body: int, wall: int):
        self._classes, self._off_palette, self._body, self._wall = classes, off_palette, body, wall
        self._pieces = find_pieces(classes)
        self._by_door: dict[int, tuple[np.ndarray, pd.DataFrame]] = {}
        self._enclosed: dict[int, np.ndarray] = {}

    def judged_by(self, chosen: np.ndarray) -> tuple[Scale, PieceRange, pd.DataFrame]:
        """Scale and ranges of pieces of the `chosen` layouts, bool [N], and by those the statistics of all."""
        door = self._widest_door(chosen)
        scale = Scale(door, self._body, self._wall)
        pieces = Pieces(*(values[chosen[self._pieces.layout]] for values in self._pieces))
        ranges = _piece_range(pieces, chosen)
        if door not in self._by_door:
            interior = find_interior(self._classes, door)
            self._by_door[door] = _floor_statistics(self._classes, self._off_palette, interior, scale)
        return scale, ranges, self._by_door[door].assign(**_piece_statistics(self._pieces, len(chosen), ranges))

    def _widest_door(self, chosen: np.ndarray) -> int:
        """The smallest opening, in pixels, that must be closed for nearly all `chosen` layouts to have an interior."""
        side = self._classes.shape[1]
        for door in range(2, side // 2 + 1):
            if door not in self._enclosed:
                share = find_interior(self._classes, door).mean(axis=(1, 2))
                self._enclosed[door] = share >= _SMALLEST_INTERIOR
            if self._enclosed[door][chosen].mean() >= _ENCLOSED_SHARE:
                return door
        return side // 2


def _orders(count: int) -> list[np.ndarray]:
    """Numbers by which the layouts are dealt to the folds: each time otherwise, so that chance counts for less."""
    return [np.arange(count), *(np.random.default_rng(number).permutation(count) for number in range(1, _REPEATS))]


def _floor_statistics(classes: np.ndarray, off_palette: np.ndarray, interior: np.ndarray, scale: Scale) -> pd.DataFrame:
    """Statistics that need no ranges of pieces."""
    reached, connected = reachable_shares(interior, classes, scale.body)
    furniture = classes < WALL
    cells = np.maximum(1, furniture.sum(axis=(1, 2)))
    return pd.DataFrame(
        {
            "off_palette": off_palette,
            "interior_share": interior.mean(axis=(1, 2)),
            "open_share": open_share(interior, classes),
            "openings": opening_count(interior, classes),
            "loose_walls": loose_wall_share(interior, classes, scale.wall),
            "reached_share": reached,
            "connected_share": connected,
            "furniture_in_walls": furniture_in_walls(classes, scale),
            "wall_parts": wall_parts(classes),
            "furniture_share": (furniture & interior).sum(axis=(1, 2)) / np.maximum(1, interior.sum(axis=(1, 2))),
            "furniture_outside": (furniture & ~interior).sum(axis=(1, 2)) / cells,
        }
    )


def _piece_statistics(pieces: Pieces, count: int, ranges: PieceRange) -> dict[str, np.ndarray]:
    """Statistics of the pieces of `count` layouts."""
    limits = np.array([ranges.small, ranges.large, ranges.many])[:, pieces.kind]
    of_a_kind = np.zeros((count, WALL))
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


def _piece_range(pieces: Pieces, chosen: np.ndarray) -> PieceRange:
    """Ranges of the `pieces` of the `chosen` layouts, bool [N], N being that of all."""
    small, large, many = [], [], []
    for kind in range(WALL):
        areas = pieces.area[pieces.kind == kind]
        numbers = np.bincount(pieces.layout[pieces.kind == kind], minlength=len(chosen))[chosen]
        known = areas if len(areas) else np.array([1])
        small.append(float(np.quantile(known, _SMALL_TAIL)))
        large.append(float(np.quantile(known, _LARGE_TAIL)))
        many.append(max(1.0, float(np.quantile(numbers, _LARGE_TAIL))))
    return PieceRange(small, large, many)


def _bounds(statistics: pd.DataFrame, tail: float) -> dict[str, tuple[float, float]]:
    """Range of each statistic that leaves out a share `tail` of layouts at each end that counts; a negative one widens
    the whole range by that share of its length.
    """
    sides = {name: side for names in RULES.values() for name, side in names.items()}
    values, share = statistics[list(sides)].to_numpy(), max(0.0, tail)
    lows = np.quantile(values, share, axis=0, method="lower")
    highs = np.quantile(values, 1 - share, axis=0, method="higher")
    more = max(0.0, -tail) * (highs - lows)
    return {
        name: (
            -math.inf if side == "above" else float(low),
            math.inf if side == "below" else float(high),
        )
        for (name, side), low, high in zip(sides.items(), lows - more, highs + more, strict=True)
    }


def _within(statistics: pd.DataFrame, bounds: Mapping[str, tuple[float, float]]) -> pd.Series:
    lows, highs = (np.array([bounds[name][end] for name in statistics]) for end in (0, 1))
    values = statistics.to_numpy()
    return pd.Series(((values >= lows) & (values <= highs)).all(axis=1), index=statistics.index)


def _per_layout(pieces: Pieces, values: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(pieces.layout, values, minlength=count)


def _bound(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if math.isfinite(value) else None
