"""Tables of text in files: CSV as spreadsheets and programs write it, or the line at which it is damaged."""

import codecs
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from core.inputs.flags import MISSING
from core.runtime.errors import InputError
from core.runtime.files import open_input

_SEPARATORS = (",", ";", "\t", "|")
# Byte order marks; UTF-32's begins as that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# Cells may hold outlines or whole documents; the csv module's own limit is 128 KiB.
csv.field_size_limit(2**31 - 1)


def read_table(path: Path, what: str, text_columns: Sequence[str], known: Sequence[str] = ()) -> pd.DataFrame:
    """Rows of the CSV file at `path`, its columns of numbers as such, `text_columns` and others as text.

    A column whose name is that of one of `known` but for capitals, blanks and dashes has the known name.

    The separator is that of the header line, the encoding UTF-8 or what a byte order mark says. An empty cell is
    missing. Raises InputError, beginning with `what` and the path, for a file that is no such table, and with the line
    for one that is damaged: a NUL, a row with more cells than the header, a column given twice.
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
        raise InputError(f"{what} {path} is no readable CSV file ({error}): replace it") from None
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
        raise InputError(f"{name} holds a NUL character in line {line}, so it is damaged or no text: replace it")
    if not text.strip():
        raise InputError(f"{name} is empty: it needs a header and at least one row")
    return text


def _unmarked(data: bytes) -> str:
    """The encoding of text without a mark: UTF-16 if every other byte of its start is 0."""
    first = [byte == 0 for byte in data[:8]]
    return {(False, True) * 4: "utf-16-le", (True, False) * 4: "utf-16-be"}.get(tuple(first), "utf-8")


def _separated(text: str) -> tuple[str, str]:
    """The text, and what separates its columns; a spreadsheet may say so in a line of its own, which is left out."""
    said = re.match(r'"?sep=(.)"?\1*(?:\r\n|\r|\n)', text, re.IGNORECASE)
    if said:
        return text[said.end() :], said.group(1)
    header = re.sub(r'"[^"]*"', "", text.lstrip().splitlines()[0])
    # The first of them where several are as frequent, so a comma where there is none at all.
    return text, max(_SEPARATORS, key=header.count)


def _checked(text: str, separator: str, name: str) -> tuple[str, list[str]]:
    """The text, without cells beyond the header's that are empty, and the names of its columns."""
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
                        f"{name} has {len(cells)} cells in line {reader.line_num}, its header has {len(kept[0])}: mend "
                        "the line (a cell that holds the separator needs quotes)"
                    )
                beyond, cells = True, cells[: len(kept[0])]
            kept.append(cells)
    except csv.Error as error:
        raise InputError(f"{name} is no readable CSV file (line {reader.line_num}: {error}): replace it") from None
    names = [cell.strip() or f"Unnamed: {number}" for number, cell in enumerate(kept[0])]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise InputError(f"{name} has two columns called {double}: remove or rename one")
    if len(kept) == 1:
        raise InputError(f"{name} has no rows: it needs at least one layout")
    if beyond:
        written = io.StringIO(newline="")
        csv.writer(written, delimiter=separator).writerows(kept)
        text = written.getvalue()
    return text, names


def _as_known(names: list[str], known: Sequence[str]) -> list[str]:
    """`names`, those of `known` that are missing put where one name, and only one, is the same but for its writing."""
    folded = [re.sub(r"[\s-]+", "_", name.casefold()) for name in names]
    called = list(names)
    for name in known:
        alike = [at for at, form in enumerate(folded) if form == name.casefold()]
        if name not in names and len(alike) == 1 and called[alike[0]] not in known:
            called[alike[0]] = name
    return called


def _with_numbers(cells: pd.Series) -> pd.Series:
    """The column as numbers if all of it but words for a missing one are; else as it is."""
    # Anywhere else these words are names.
    there = ~cells.isin(MISSING) & cells.notna()
    if there.all() or not there.any():
        return cells
    numbers = pd.to_numeric(cells[there], errors="coerce")
    return cells if numbers.isna().any() else numbers.reindex(cells.index)
