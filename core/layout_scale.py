"""How many pixels a metre has in a layout picture."""

import math

import pandas as pd

from core.errors import InputError
from core.flags import is_empty_cell, number
from core.floor_survey import pixels_per_metre
from core.palette import classes_from_rgb
from core.picture_files import read_picture

# Of a manifest: the scale of each picture at the size that latents were encoded at, noted while it can be measured.
SCALE_COLUMN = "pixels_per_metre"


def picture_scale(path: str, size: int) -> float:
    """Pixels a metre, by the thickness of its walls, of the picture at `path` once it is shrunk to `size`."""
    classes = classes_from_rgb(read_picture(path))
    return pixels_per_metre(classes) * size / max(classes.shape)


def typical_scale(rows: pd.DataFrame, column: str, size: int) -> float:
    """Median scale of manifest rows whose pictures are in `column`: as noted, else measured on the pictures."""
    if SCALE_COLUMN in rows.columns:
        noted = [
            _noted(cell, row)
            for cell, row in zip(rows[SCALE_COLUMN], rows["manifest_row"], strict=True)
            if not is_empty_cell(cell)
        ]
        if noted:
            return float(pd.Series(noted).median())
    return float(pd.Series([picture_scale(path, size) for path in rows[column]]).median())


def _noted(cell: object, row: int) -> float:
    noted = number(cell)
    if noted is None or not 0 < noted < math.inf:
        raise InputError(
            f"manifest row {row + 1}: {SCALE_COLUMN} is {cell}, no number above 0: mend it, or leave the column out so "
            "that it is measured"
        )
    return noted
