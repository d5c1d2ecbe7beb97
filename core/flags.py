"""What a cell that says yes or no means, whatever program wrote it."""

import math
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


def is_empty_cell(cell: Any) -> bool:
    """Whether a cell of a table holds nothing."""
    return cell is None or (isinstance(cell, float) and math.isnan(cell)) or str(cell).strip() == ""
