"""What a cell that says yes or no, or a number, means, whatever program wrote it."""

import math
import re
from typing import Any

import numpy as np

# Words that mean one of the two wherever they are used: what spreadsheets and people write in English, German, French,
# Spanish, Portuguese, Italian, Dutch, the northern languages, Polish, Czech, Hungarian, Turkish, Russian, Ukrainian.
_TRUE = (
    "true t yes y on wahr ja vrai oui verdadero sí verdadeiro sim vero sì waar sand sann sant tosi kyllä prawda tak "
    "pravda ano igaz igen doğru evet истина да істина так"
)
_FALSE = (
    "false f no n off falsch nein faux non falso não onwaar nee falsk usann nej nei epätosi fałsz nie nepravda hamis "
    "nem yanlış hayır ложь нет хибність ні"
)
# What programs write into a cell that has no value.
MISSING = ("NA", "N/A", "#N/A", "n/a", "NaN", "nan", "-nan", "NULL", "null", "None", "<NA>")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_MEANING = dict.fromkeys(_TRUE.split(), True) | dict.fromkeys(_FALSE.split(), False)


def flag(cell: Any) -> bool | None:
    """True or False if that is what `cell` of a table surely means: a truth value, 0 or 1, or a word; else None."""
    if isinstance(cell, bool | np.bool_):
        return bool(cell)
    text = str(cell).strip().casefold()
    if text in _MEANING:
        return _MEANING[text]
    try:
        return {0.0: False, 1.0: True}.get(float(text))
    except ValueError:
        return None


def number(cell: Any) -> float | None:
    """The number in `cell` of a table, with a point or, as spreadsheets write it in many countries, a comma; else None.

    A cell that says that there is none is NaN.
    """
    text = str(cell).strip()
    if is_empty_cell(cell) or text in MISSING:
        return math.nan
    try:
        return float(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text)
    except ValueError:
        return None


def is_empty_cell(cell: Any) -> bool:
    """Whether a cell of a table holds nothing."""
    return cell is None or (isinstance(cell, float) and math.isnan(cell)) or str(cell).strip() == ""
