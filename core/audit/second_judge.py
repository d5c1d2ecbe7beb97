"""A second judge of layouts, with measures of its own: nothing that it finds is ever taught to a model.

A model that learns the audit's rules learns to keep them. Whether its layouts became better then shows here, where
other measures, on maps of another resolution, have bounds of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from core.audit.layout_measures import doorless, measure, narrowest_openings
from core.data.palette import Palette
from core.runtime.errors import InputError

__all__ = ["MEASURES", "SOUND", "Bounds", "SecondJudge", "doorless"]

SOUND = "sound"
# Least and greatest value of a measure; None where there is no bound.
Bounds = tuple[float | None, float | None]
# By measure: whether a layout can have too little of it, and too much.
MEASURES = {
    "house_fill": (True, False),
    "outline_corners": (False, True),
    "wall_parts": (False, True),
    "wall_crumbs": (False, True),
    "loose_wall": (False, True),
    "wall_blobs": (False, True),
    "wall_corners": (False, True),
    "openings": (False, True),
    "narrowest_opening": (True, False),
    "widest_opening": (False, True),
    "shut_floor": (False, True),
    "unreached_floor": (False, True),
    "pieces": (False, True),
    "dots": (False, True),
    "empty_box": (False, True),
    "ragged_edges": (False, True),
    "furnished_floor": (True, True),
    "furniture_outside": (False, True),
    "furniture_in_outline": (False, True),
}

# Share of real layouts, not used for the bounds, that are within all of them.
_PASS_SHARE = 0.95
# From strict to lenient: the share of real layouts beyond each bound, and by what share of itself the bound is then
# moved. Of few layouts even the extremes are no bounds unless moved.
_LENIENCE = [(tail, stretch) for tail in (0.02, 0.014, 0.01, 0.007, 0.005) for stretch in (0, 0.1, 0.2)]
_LENIENCE += [(0, stretch) for stretch in (0, 0.1, 0.2, 0.3, 0.5)]
_FOLDS = 5
# A body is narrower by this factor than what is narrow for a real opening: the share of layouts whose narrowest one is
# narrower.
_BODY, _NARROW = 0.75, 0.01
# So many layouts, and no more than twice as many, show what is narrow.
_ENOUGH = 500
# Bounds are compared up to rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class SecondJudge:
    """The bounds of each measure, and the width of a body that walks through the house, a share of the map's side.

    It judges layouts in the `palette`.
    """

    bounds: Mapping[str, Bounds]
    body: float
    palette: Palette

    @classmethod
    def calibrate(cls, classes: np.ndarray, palette: Palette) -> "SecondJudge":
        """The judge with the tightest bounds that about 95 % of real layouts keep that were not used for them.

        `classes` are real layouts in the palette, uint8 [N, S, S]. They are split in five: each part is tried on the
        bounds of the others. The bounds are then those of all layouts. Raises InputError if fewer than two of the
        layouts have walls, ValueError for an array of another form.
        """
        widths = narrowest_openings(classes[:: max(1, len(classes) // _ENOUGH)], palette)
        if (classes == palette.wall).any((1, 2)).sum() < 2:
            raise InputError(
                f"audit: fewer than two of {len(classes)} real layouts have walls: give pictures of houses"
            )
        open_widths = widths[widths > 0]
        body = _BODY * float(np.quantile(open_widths, _NARROW)) if len(open_widths) else 0.0
        values = measure(classes, body, palette)
        fold = np.arange(len(values)) % _FOLDS
        for lenience in _LENIENCE:
            kept = [
                _within(values[fold == part], _bounds(values[fold != part], *lenience)).all(axis=1)
                for part in range(min(_FOLDS, len(values)))
            ]
            if np.concatenate(kept).mean() >= _PASS_SHARE:
                break
        return cls(_bounds(values, *lenience), body, palette)

    def check(self, classes: np.ndarray) -> pd.DataFrame:
        """Which of `classes`, uint8 [N, S, S], are within the bounds of each measure: bool [N, measures + 1].

        The last column, `sound`, is true for those within all. Raises ValueError for an array of another form.
        """
        within = _within(measure(classes, self.body, self.palette), self.bounds)
        within[SOUND] = within.all(axis=1)
        return within

    def as_json(self) -> dict[str, Any]:
        """The bounds by measure and the body, as plain numbers."""
        rounded = {
            name: [None if bound is None else round(bound, 6) for bound in bounds]
            for name, bounds in self.bounds.items()
        }
        return {"body": round(self.body, 6), "bounds": rounded}


def _bounds(values: pd.DataFrame, tail: float, stretch: float) -> dict[str, Bounds]:
    bounds: dict[str, Bounds] = {}
    for name, (too_little, too_much) in MEASURES.items():
        column = values[name].to_numpy()
        low = float(np.quantile(column, tail, method="lower")) * (1 - stretch) if too_little else None
        high = float(np.quantile(column, 1 - tail, method="higher")) * (1 + stretch) if too_much else None
        bounds[name] = low, high
    return bounds


def _within(values: pd.DataFrame, bounds: Mapping[str, Bounds]) -> pd.DataFrame:
    within = {}
    for name, (low, high) in bounds.items():
        least, greatest = -np.inf if low is None else low, np.inf if high is None else high
        within[name] = values[name].between(least - _ROUNDING, greatest + _ROUNDING)
    return pd.DataFrame(within)
