"""Reads CSV files as spreadsheets and programs write them. Errors name the damaged line."""

import codecs
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from core.inputs.flags import MISSING
from core.runtime.errors import InputError
from core.runtime.files import open_input

_SEPARATORS = (",", ";", "\t", "|")
# Byte order marks. UTF-32 first: its mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# Cells may hold outlines or documents. The default limit of the csv module is 128 KiB.
csv.field_size_limit(2**31 - 1)


def read_table(path: Path, what: str, text_columns: Sequence[str], known: Sequence[str] = ()) -> pd.DataFrame:
    """Rows of the CSV file at `path`. Columns of numbers become numbers, `text_columns` and all others text.

    A column gets the name of one of `known` that differs from its own only in capitals, blanks and dashes. The header
    line decides on the separator, the encoding is UTF-8 or given by a byte order mark. Empty cells are missing values.
    Raises InputError, which begins with `what` and the path, if the file is not such a table, or is damaged: a NUL, a
    row with more cells than the header, a column given twice. It names the line if one is damaged.
    """
    with open_input(path, what) as file:
        text = _text(file.read(), f"{what} {path}")
    text, separator = _separated(text)
    text, names = _checked(text, separator, f"{what} {path}")
    names = _as_known(names, (*text_columns, *known))
    try:
        rows = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            header=0,
            names=names,
            index_col=False,
            keep_default_na=False,
            na_values=[""],
            dtype={name: str for name in text_columns if name in names},
        )
    except (ValueError, OverflowError, pd.errors.ParserError) as error:
        raise InputError(f"{what} {path} is not a readable CSV file ({error}): replace it") from None
    for name in names:
        if name not in text_columns and not pd.api.types.is_numeric_dtype(rows[name]):
            rows[name] = _with_numbers(rows[name])
    return rows


def _text(data: bytes, name: str) -> str:
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    try:
        text = data[len(mark) :].decode(_MARKS.get(mark) or _unmarked(data))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, len(mark) + error.start) + 1
        raise InputError(f"{name} is not UTF-8 text in line {line}: save it as CSV in UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{name} holds a NUL character in line {line}, so it is damaged or not text: replace it")
    if not text.strip():
        raise InputError(f"{name} is empty: it needs a header and at least one row")
    return text


def _unmarked(data: bytes) -> str:
    """The encoding of text without a byte order mark: UTF-16 if every other byte at its start is 0, else UTF-8."""
    zeros = [byte == 0 for byte in data[:8]]
    if zeros == [False, True] * 4:
        return "utf-16-le"
    return "utf-16-be" if zeros == [True, False] * 4 else "utf-8"


def _separated(text: str) -> tuple[str, str]:
    """The text and its separator. A first line `sep=;`, as spreadsheets write it, is removed."""
    declared = re.match(r'"?sep=(.)"?\1*(?:\r\n|\r|\n)', text, re.IGNORECASE)
    if declared:
        return text[declared.end() :], declared.group(1)
    header = re.sub(r'"[^"]*"', "", text.lstrip().splitlines()[0])
    # The first one if several are equally frequent, so a comma if there is none.
    return text, max(_SEPARATORS, key=header.count)


def _checked(text: str, separator: str, name: str) -> tuple[str, list[str]]:
    """The text without empty cells after those of the header, and the names of its columns."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    kept: list[list[str]] = []
    beyond = False
    try:
        for cells in reader:
            if not any(cells) and len(cells) < 2:
                continue
            if kept and len(cells) > len(kept[0]):
                if any(cells[len(kept[0]) :]):
                    raise InputError(
                        f"{name} has {len(cells)} cells in line {reader.line_num}, its header has {len(kept[0])}: "
                        "correct the line (a cell that holds the separator needs quotes)"
                    )
                beyond, cells = True, cells[: len(kept[0])]
            kept.append(cells)
    except csv.Error as error:
        raise InputError(f"{name} is not a readable CSV file (line {reader.line_num}: {error}): replace it") from None
    names = [cell.strip() or f"Unnamed: {number}" for number, cell in enumerate(kept[0])]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InputError(f"{name} has two columns called {repeated}: remove or rename one")
    if len(kept) == 1:
        raise InputError(f"{name} has no rows: it needs at least one layout")
    if beyond:
        written = io.StringIO(newline="")
        csv.writer(written, delimiter=separator).writerows(kept)
        text = written.getvalue()
    return text, names


def _as_known(names: list[str], known: Sequence[str]) -> list[str]:
    """`names` with each missing name of `known` put in place of the only name that is the same in other spelling."""
    folded = [re.sub(r"[\s-]+", "_", name.casefold()) for name in names]
    renamed = list(names)
    for name in known:
        same = [at for at, form in enumerate(folded) if form == name.casefold()]
        if name not in names and len(same) == 1 and renamed[same[0]] not in known:
            renamed[same[0]] = name
    return renamed


def _with_numbers(cells: "pd.Series[Any]") -> "pd.Series[Any]":
    """The column as numbers if all cells are numbers or words for a missing value; otherwise unchanged."""
    # In a column of text these words may be names.
    present = ~cells.isin(MISSING) & cells.notna()
    if present.all() or not present.any():
        return cells
    numbers = pd.to_numeric(cells[present], errors="coerce")
    return cells if numbers.isna().any() else numbers.reindex(cells.index)
