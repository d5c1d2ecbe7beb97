"""The meaning of a table's cell that holds yes or no, or a number, as different programs write them."""

import math
import re
from typing import Any

import numpy as np

# Words that mean yes or no in every language that has them: English, German, French, Spanish, Portuguese, Italian,
# Dutch, Scandinavian languages, Finnish, Polish, Czech, Hungarian, Turkish, Russian, Ukrainian.
_TRUE = (
    "true t yes y on wahr ja vrai oui verdadero sí verdadeiro sim vero sì waar sand sann sant tosi kyllä prawda tak "
    "pravda ano igaz igen doğru evet истина да істина так"
)
_FALSE = (
    "false f no n off falsch nein faux non falso não onwaar nee falsk usann nej nei epätosi fałsz nie nepravda hamis "
    "nem yanlış hayır ложь нет хибність ні"
)
# What programs write into a cell without a value.
MISSING = ("NA", "N/A", "#N/A", "n/a", "NaN", "nan", "-nan", "NULL", "null", "None", "<NA>")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_MEANING = dict.fromkeys(_TRUE.split(), True) | dict.fromkeys(_FALSE.split(), False)


def flag(cell: Any) -> bool | None:
    """True or False if `cell` clearly means it: a boolean, 0 or 1, or a word of a known language; otherwise None."""
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
    """The number in `cell`, with a decimal point or comma; NaN for an empty cell, None if it is not a number."""
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
