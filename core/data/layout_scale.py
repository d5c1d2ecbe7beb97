"""The scale of layout pictures, in pixels per metre."""

import math

import pandas as pd

from core.data.floor_survey import pixels_per_metre
from core.data.palette import Palette
from core.data.picture_files import read_picture
from core.inputs.flags import number
from core.runtime.errors import InputError

# Manifest column: the scale of each picture at the size at which its latent was encoded. It is recorded because it can
# only be measured on the full-size picture.
SCALE_COLUMN = "pixels_per_metre"


def picture_scale(path: str, size: int, palette: Palette) -> float:
    """Scale of the picture at `path` after shrinking to `size`, by the thickness of its walls; 0 without walls."""
    classes = palette.classes_from_rgb(read_picture(path, palette))
    return pixels_per_metre(classes, palette) * size / float(max(classes.shape))


def typical_scale(rows: pd.DataFrame, column: str, size: int, palette: Palette) -> float:
    """Median scale of the manifest `rows`, from `SCALE_COLUMN` if it is filled, else measured on pictures in `column`.

    Raises InputError, which names the row, for a scale that is not above 0 and at most `size`.
    """
    recorded = _recorded_scales(rows, size) if SCALE_COLUMN in rows.columns else []
    return float(pd.Series(recorded or [picture_scale(path, size, palette) for path in rows[column]]).median())


def _recorded_scales(rows: pd.DataFrame, size: int) -> list[float]:
    """The scales in `SCALE_COLUMN`, without empty cells."""
    found = []
    for cell, row in zip(rows[SCALE_COLUMN], rows["manifest_row"], strict=True):
        scale = number(cell)
        if scale is None or not (math.isnan(scale) or 0 < scale <= size):
            raise InputError(
                f"manifest row {row + 1}: {SCALE_COLUMN} is {cell}, not a number above 0 and at most the {size} pixels "
                "of a picture: correct it, or remove the column to have the scale measured"
            )
        if not math.isnan(scale):
            found.append(scale)
    return found
