"""How many pixels a metre has in a layout picture."""

import math

import pandas as pd

from core.data.floor_survey import pixels_per_metre
from core.data.palette import classes_from_rgb
from core.data.picture_files import read_picture
from core.inputs.flags import number
from core.runtime.errors import InputError

# Of a manifest: the scale of each picture at the size that latents were encoded at, noted while it can be measured.
SCALE_COLUMN = "pixels_per_metre"


def picture_scale(path: str, size: int) -> float:
    """Pixels a metre, by the thickness of its walls, of the picture at `path` once it is shrunk to `size`."""
    classes = classes_from_rgb(read_picture(path))
    return pixels_per_metre(classes) * size / max(classes.shape)


def typical_scale(rows: pd.DataFrame, column: str, size: int) -> float:
    """Median scale of manifest rows whose pictures are in `column`: as noted, else measured on the pictures.

    InputError names the row of a noted one that is no number above 0, or by which no picture is a metre wide.
    """
    noted = _noted(rows, size) if SCALE_COLUMN in rows.columns else []
    return float(pd.Series(noted or [picture_scale(path, size) for path in rows[column]]).median())


def _noted(rows: pd.DataFrame, size: int) -> list[float]:
    """What the rows say, those left out that say nothing."""
    found = []
    for cell, row in zip(rows[SCALE_COLUMN], rows["manifest_row"], strict=True):
        scale = number(cell)
        if scale is None or not (math.isnan(scale) or 0 < scale <= size):
            raise InputError(
                f"manifest row {row + 1}: {SCALE_COLUMN} is {cell}, not a number above 0 and at most the {size} pixels "
                "of a picture: mend it, or leave the column out so that it is measured"
            )
        if not math.isnan(scale):
            found.append(scale)
    return found
