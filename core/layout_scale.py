"""How many pixels a metre has in a layout picture."""

import pandas as pd

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
        return float(rows[SCALE_COLUMN].median())
    return float(pd.Series([picture_scale(path, size) for path in rows[column]]).median())
