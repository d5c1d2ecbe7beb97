"""Text from outside as Markdown and in tables: shown as it is written, and never taken for a command."""

import re
from typing import IO

import pandas as pd

from core.runtime.errors import one_line

_MARKUP = re.compile(r"([\\`*_\[\]<>|!#~&$])")
# What a spreadsheet takes for a formula, or drops and then does.
_FORMULA = re.compile(r"^[\s\x00-\x1f]*[=+\-@]|^[\t\r\n]")
_NUMBER = re.compile(r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$")


def markdown_text(text: object) -> str:
    """`text` as one line of Markdown that reads like it: no markup, table cell, link or picture of its own."""
    return _MARKUP.sub(r"\\\1", one_line(str(text))).replace("://", "\\://")


def markdown_code(text: object) -> str:
    """`text` as code within a line of Markdown."""
    line = one_line(str(text))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    # A space keeps a backtick at an end apart from the fence, and is not shown.
    inner = f" {line} " if line.startswith("`") or line.endswith("`") else line
    return f"{fence}{inner}{fence}"


def write_csv(rows: pd.DataFrame, file: IO[bytes], as_they_are: tuple[str, ...] = (), **options: object) -> None:
    """Write a table that holds text from outside; cells that a spreadsheet would compute begin with an apostrophe.

    The columns `as_they_are` are read again and stay as they were.
    """
    changed = {
        name: rows[name].map(_inert)
        for name in rows.columns
        if name not in as_they_are and not pd.api.types.is_numeric_dtype(rows[name])
    }
    rows.assign(**changed).rename(columns=_inert).to_csv(file, index=False, **options)


def _inert(value: object) -> object:
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.match(value):
        return f"'{value}"
    return value
