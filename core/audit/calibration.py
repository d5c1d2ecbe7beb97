"""Calibration of the rules: the strictest ranges that a wanted share of real layouts keeps."""

import math

import numpy as np
import pandas as pd

from core.audit.rules import RULES, PieceRange, Rules, are_within, floor_statistics, piece_statistics
from core.data.floor_survey import WALL_METRES, Pieces, Scale, find_interior, find_pieces
from core.data.palette import Palette
from core.runtime.errors import InputError

BODY_METRES = 0.5
# An opening wider than the calibrated door is a hole. With doors closed, this share of real layouts has an interior; an
# interior is at least this share of the picture.
_ENCLOSED_SHARE, _SMALLEST_INTERIOR = 0.993, 0.02
_FOLDS = 5
# How often layouts are dealt to the folds.
_REPEATS = 3
# How far a range may exceed that of all real layouts, as a share of its length.
_WIDEST = 0.5
_BISECTIONS = 20
# Quantiles of the areas of real pieces of a class below which a piece is small and above which it is large. The second
# is also that of the number of pieces in a layout.
_SMALL_TAIL, _LARGE_TAIL = 0.05, 0.995

# Statistics of the layouts that set the ranges, and of those that the ranges are tested on.
_Fold = tuple[pd.DataFrame, pd.DataFrame]


def calibrate(
    classes: np.ndarray, off_palette: np.ndarray, pixels_per_metre: float, pass_share: float, palette: Palette
) -> Rules:
    """The strictest rules that `pass_share` of real layouts keep, also of layouts that the rules were not set on.

    `classes` [N, H, W] are real layouts in the palette, `pixels_per_metre` is their scale. A layout without an interior
    breaks the rules in any case. Of the others, each statistic leaves out the same share at each end of its range that
    counts. Bisection finds this share by cross-validation: each fifth of the layouts is checked by the door, the pieces
    and the ranges of the other four.

    Raises InputError if walls enclose an interior in almost no layout.
    """
    # At small sizes a wall fills every cell that it touches, so a passage may be a cell too narrow.
    body = max(1, int(BODY_METRES * pixels_per_metre) - 1)
    layouts = _RealLayouts(classes, off_palette, body, max(1, round(WALL_METRES * pixels_per_metre)), palette)
    splits = _splits(len(classes))
    scale, ranges, statistics = layouts.measured_by(np.ones(len(classes), bool))
    enclosed = statistics["interior_share"] >= _SMALLEST_INTERIOR
    if any(not enclosed[others].any() for others, _ in splits):
        raise InputError(
            f"audit: walls enclose a room in {enclosed.sum()} of {len(classes)} real training layouts, too few to "
            "calibrate the rules: correct the pictures or dataset.image_size, or set audit: null"
        )
    folds: list[_Fold] = []
    for others, part in splits:
        measured = layouts.measured_by(others)[2]
        setting = others & (measured["interior_share"] >= _SMALLEST_INTERIOR).to_numpy()
        folds.append((measured[setting], measured[part]))
    # Aim one standard error above `pass_share`, unless that needs ranges wider than those of all real layouts.
    error = math.sqrt(pass_share * (1 - pass_share) / len(classes))
    tail = max(_largest_tail(folds, pass_share + error), min(0.0, _largest_tail(folds, pass_share)))
    return Rules(scale, ranges, _bounds(statistics[enclosed], tail), palette)


class _RealLayouts:
    """Real layouts that are measured with several scales; measurements that do not change are kept."""

    def __init__(self, classes: np.ndarray, off_palette: np.ndarray, body: int, wall: int, palette: Palette):
        self._classes, self._off_palette, self._body, self._wall = classes, off_palette, body, wall
        self._palette, self._pieces = palette, find_pieces(classes, palette)
        self._floor_by_door: dict[int, pd.DataFrame] = {}
        self._enclosed_by_door: dict[int, np.ndarray] = {}

    def measured_by(self, chosen: np.ndarray) -> tuple[Scale, PieceRange, pd.DataFrame]:
        """The scale and piece ranges of the `chosen` layouts, bool [N], and with them the statistics of all layouts."""
        door = self._widest_door(chosen)
        scale = Scale(door, self._body, self._wall)
        pieces = Pieces(*(values[chosen[self._pieces.layout]] for values in self._pieces))
        ranges = _piece_range(pieces, chosen, len(self._palette.furniture))
        if door not in self._floor_by_door:
            self._floor_by_door[door] = floor_statistics(self._classes, self._off_palette, scale, self._palette)
        statistics = self._floor_by_door[door].assign(**piece_statistics(self._pieces, len(chosen), ranges))
        return scale, ranges, statistics

    def _widest_door(self, chosen: np.ndarray) -> int:
        """The smallest width in pixels with which closed doors give almost all `chosen` layouts an interior."""
        side: int = self._classes.shape[1]
        for door in range(2, side // 2 + 1):
            if door not in self._enclosed_by_door:
                share = find_interior(self._classes, door, self._palette).mean(axis=(1, 2))
                self._enclosed_by_door[door] = share >= _SMALLEST_INTERIOR
            if self._enclosed_by_door[door][chosen].mean() >= _ENCLOSED_SHARE:
                return door
        return side // 2


def _splits(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(layouts of the other folds, layouts of the fold), bool [N] each, for every fold of every repeat.

    Every repeat deals the layouts to the folds in another order, so that chance matters less.
    """
    orders = [np.arange(count), *(np.random.default_rng(number).permutation(count) for number in range(1, _REPEATS))]
    return [(order % _FOLDS != part, order % _FOLDS == part) for order in orders for part in range(_FOLDS)]


def _largest_tail(folds: list[_Fold], share: float) -> float:
    """The largest share to leave out at each end of a range, so that `share` of the tested layouts keep all ranges."""
    low, high = -_WIDEST, 0.5
    for _ in range(_BISECTIONS):
        tail = (low + high) / 2
        kept = np.mean([are_within(tested, _bounds(setting, tail)).mean() for setting, tested in folds])
        low, high = (tail, high) if kept >= share else (low, tail)
    return low


def _bounds(statistics: pd.DataFrame, tail: float) -> dict[str, tuple[float, float]]:
    """The range of each statistic that leaves out a share `tail` of the layouts at each end that counts.

    A negative `tail` extends the whole range by that share of its length.
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


def _piece_range(pieces: Pieces, chosen: np.ndarray, kinds: int) -> PieceRange:
    """Sizes and numbers of the `pieces` of each kind, which are those of the `chosen` layouts, bool [N]."""
    small, large, many = [], [], []
    for kind in range(kinds):
        areas = pieces.area[pieces.kind == kind]
        numbers = np.bincount(pieces.layout[pieces.kind == kind], minlength=len(chosen))[chosen]
        known = areas if len(areas) else np.array([1])
        small.append(float(np.quantile(known, _SMALL_TAIL)))
        large.append(float(np.quantile(known, _LARGE_TAIL)))
        many.append(max(1.0, float(np.quantile(numbers, _LARGE_TAIL))))
    return PieceRange(small, large, many)
