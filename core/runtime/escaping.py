"""Escapes text from outside for Markdown, Mermaid and CSV, so that it is shown as written and never executed."""

import re
from typing import IO

import pandas as pd

from core.runtime.errors import one_line

_MARKUP = re.compile(r"([\\`*_\[\]<>|!#~&$])")
# Cells that a spreadsheet takes for a formula, also after it drops characters at their start.
_FORMULA = re.compile(r"^[\s\x00-\x1f]*[=+\-@]|^[\t\r\n]")
# All that a label of a drawing may hold as it is.
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 ._-]")
_NUMBER = re.compile(r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$")


def markdown_text(text: object) -> str:
    """`text` as one line of Markdown that shows it unchanged, without markup, table cells, links or pictures."""
    return _MARKUP.sub(r"\\\1", one_line(str(text))).replace("://", "\\://")


def markdown_code(text: object) -> str:
    """`text` as code in a line of Markdown."""
    line = one_line(str(text))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    # A space separates a backtick at an end from the fence; it is not shown.
    inner = f" {line} " if line.startswith("`") or line.endswith("`") else line
    return f"{fence}{inner}{fence}"


def mermaid_text(text: object) -> str:
    """`text` as one line in a quoted label of a Mermaid drawing, which shows it unchanged: odd characters by number."""
    return _NOT_PLAIN.sub(lambda found: f"#{ord(found[0])};", one_line(str(text)))


def write_csv(
    rows: pd.DataFrame, file: IO[bytes], as_they_are: tuple[str, ...] = (), float_format: str | None = None
) -> None:
    """Write a table that holds text from outside. Cells that a spreadsheet would compute get an apostrophe in front.

    The columns `as_they_are` are written unchanged, because they are read again.
    """
    changed = {
        name: rows[name].map(_inert)
        for name in rows.columns
        if name not in as_they_are and not pd.api.types.is_numeric_dtype(rows[name])
    }
    rows.assign(**changed).rename(columns=_inert).to_csv(file, index=False, float_format=float_format)


def _inert(value: object) -> object:
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.match(value):
        return f"'{value}"
    return value
