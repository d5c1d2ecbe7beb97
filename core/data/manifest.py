"""Manifest CSV files: the layouts, the paths of their files, and the variants of each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.config.dataset_sections import DatasetSection
from core.data.layout_groups import is_variant_name, named_layouts
from core.data.manifest_paths import resolve_paths
from core.inputs.flags import flag, is_empty_cell, number
from core.inputs.table_files import read_table
from core.runtime.errors import InputError

# Columns that are always read as text: a scene may be called 0001 or NA.
_NAMES = ("room_id", "scene_id", "augmentation_type", "original_path")
_FLAGS = ("is_empty", "is_augmented")
_KNOWN = (*_FLAGS, "latent_row", "pixels_per_metre")
_COMPARISONS = {"__lt": "lt", "__gt": "gt", "__le": "le", "__ge": "ge", "__ne": "ne"}


def read_manifest(path: str | Path, columns: Sequence[str], dataset: DatasetSection) -> pd.DataFrame:
    """Rows of the manifest at `path` that have every one of `columns` and pass the dataset's filters.

    Text in `columns` becomes absolute paths. Two columns are added: `stem` is the name of the row's picture, `group`
    the name of the layout that it is a variant of. Unknown columns are kept. Raises InputError for a missing or empty
    file, a missing column, an ambiguous flag, or if no row is left.
    """
    path = Path(path)
    rows = read_rows(path, dataset)
    missing = [column for column in columns if column not in rows.columns]
    if missing:
        raise InputError(
            f"manifest {path} has no column {missing[0]}; it has {', '.join(rows.columns)}: name the column in "
            "dataset.outputs or add it"
        )
    # Before flags are read: blank rows and sums of a spreadsheet have none.
    rows = rows[~rows[list(columns)].map(is_empty_cell).any(axis=1)]
    if rows.empty:
        raise InputError(f"manifest {path}: no row has {' and '.join(columns)}: fill them in")
    rows = _filtered(rows, dataset.filters, path)
    if rows.empty:
        raise InputError(f"manifest {path}: no row is left after dataset.filters {dataset.filters}: relax the filters")
    rows = rows.drop(columns="manifest_row", errors="ignore").reset_index(names="manifest_row")
    named = rows[dataset.outputs.rgb if dataset.outputs.rgb in rows.columns else dataset.outputs.latent]
    sources = rows["original_path"] if "original_path" in rows.columns else pd.Series(None, rows.index, dtype=object)
    augmented = _flags(rows, "is_augmented", f"manifest {path}: row")
    rows["stem"], rows["group"] = named_layouts(named, sources, augmented, rows["manifest_row"])
    for column in dict.fromkeys(columns):
        # Each path once: the latents of all rows may be in one file.
        found = resolve_paths(rows[column].unique(), path, dataset.path_remap)
        rows[column] = rows[column].map({text: str(place) for text, place in found.items()})
    return rows


def read_rows(path: Path, dataset: DatasetSection) -> pd.DataFrame:
    """Every row of the manifest at `path`, unchanged; InputError if it is not a table or has no rows."""
    if not path.exists():
        raise InputError(f"manifest {path} does not exist: set dataset.manifest or --manifest")
    outputs = dataset.outputs
    filtered = [_filter_column(key)[0] for key in dataset.filters]
    return read_table(path, "manifest", (*_NAMES, outputs.rgb, outputs.latent), (*_KNOWN, *filtered))


def is_augmented(rows: pd.DataFrame) -> pd.Series:
    """Whether each row is a variant of another layout, by the column `is_augmented`, else by the file's name.

    The folder does not count, since originals lie in folders called `augmented` too. Raises InputError for an ambiguous
    cell.
    """
    augmented = _flags(rows, "is_augmented", "manifest row")
    return is_variant_name(rows["stem"]) if augmented is None else augmented


def _flags(rows: pd.DataFrame, column: str, row_called: str) -> pd.Series | None:
    """The column as bool; None if it is missing or all empty. InputError names an ambiguous cell."""
    if column not in rows.columns or _all_empty(rows[column]):
        return None
    numbers = rows["manifest_row"] if "manifest_row" in rows.columns else pd.Series(rows.index, rows.index)
    return _meanings(rows[column], numbers, row_called)


def _meanings(cells: pd.Series, numbers: pd.Series, row_called: str) -> pd.Series:
    """`cells` as bool; InputError names the first ambiguous one by its row in `numbers`."""
    meaning = {cell: flag(cell) for cell in cells.unique()}
    for cell, row in zip(cells, numbers, strict=True):
        if meaning.get(cell) is None:
            problem = "is empty" if is_empty_cell(cell) else f"is {str(cell)!r}"
            raise InputError(
                f"{row_called} {row + 1}: {cells.name} {problem}, which is neither yes nor no: write true or false"
            )
    return cells.map(meaning).astype(bool)


def _all_empty(cells: pd.Series) -> bool:
    return bool(cells.map(is_empty_cell).all())


def split_by_layout(rows: pd.DataFrame, train_split: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(training rows, validation rows); all variants of a layout are in the same split.

    Raises InputError if there are fewer than two layouts.
    """
    groups = np.array(sorted(rows["group"].unique()))
    if len(groups) < 2:
        raise InputError(f"the manifest holds {len(groups)} layout: training and validation need at least two")
    order = np.random.default_rng(seed).permutation(len(groups))
    count = min(max(1, int(train_split * len(groups))), len(groups) - 1)
    training = rows["group"].isin(groups[order[:count]])
    return rows[training].reset_index(drop=True), rows[~training].reset_index(drop=True)


def originals(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that are not augmented; InputError if there are none."""
    kept = rows[~is_augmented(rows)]
    if kept.empty:
        raise InputError(f"no original layout among {len(rows)} rows of the manifest: all are marked as augmented")
    return kept.reset_index(drop=True)


def choose_rows(rows: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """`count` rows drawn without replacement, in their original order; all rows if there are fewer."""
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    return rows.iloc[np.sort(chosen)].reset_index(drop=True)


def _filtered(rows: pd.DataFrame, filters: Mapping[str, Any], path: Path) -> pd.DataFrame:
    """The rows that pass every filter; InputError for a filter that does not fit the table."""
    for key, wanted in filters.items():
        column, comparison = _filter_column(key)
        if column not in rows.columns:
            if column == "is_empty":
                continue  # every published config filters on it, but not every manifest has it
            raise InputError(
                f"manifest {path} has no column {column} to filter on; it has {', '.join(rows.columns)}: correct "
                "dataset.filters"
            )
        if comparison in ("", "__ne"):
            equal = _equals_any(rows[column], wanted, path)
            if equal is None:
                continue
            keep = ~equal if comparison else equal
        else:
            keep = _compares(rows[column], comparison, wanted, key, path)
        rows = rows[keep]
    return rows


def _compares(cells: pd.Series, comparison: str, wanted: Any, key: str, path: Path) -> pd.Series:
    """Whether each cell is below, above, at most or at least what the filter `key` gives."""
    try:
        cells = cells if isinstance(wanted, str) else _numbers(cells, key, path)
        passed: pd.Series = getattr(cells, _COMPARISONS[comparison])(wanted)
        return passed
    except (TypeError, ValueError):
        raise InputError(
            f"manifest {path}: column {cells.name} does not compare with dataset.filters {key} {wanted!r}: "
            "correct the filter"
        ) from None


def _equals_any(cells: pd.Series, wanted: Any, path: Path) -> pd.Series | None:
    """Whether each cell equals one of the `wanted` values; None for flags that are all empty, which decide nothing."""
    values = wanted if isinstance(wanted, list | tuple) else [wanted]
    # A filter may give a flag as a word.
    asked = [value if isinstance(value, bool) or cells.name not in _FLAGS else flag(value) for value in values]
    flags = [value for value in asked if isinstance(value, bool)]
    words = [_as_text(value) for value, meaning in zip(values, asked, strict=True) if not isinstance(meaning, bool)]
    equal = cells.map(_as_text).isin(words)
    if flags and cells.name == "is_empty" and _all_empty(cells):
        return None
    if flags:
        others = cells[~equal]
        meanings = _meanings(others, pd.Series(others.index, others.index), f"manifest {path}: row")
        equal |= meanings.isin(flags).reindex(cells.index, fill_value=False)
    return equal


def _filter_column(key: str) -> tuple[str, str]:
    """The column in the name of a filter, and the comparison suffix, "" if there is none."""
    suffix = next((suffix for suffix in _COMPARISONS if key.endswith(suffix)), "")
    return key.removesuffix(suffix), suffix


def _numbers(cells: pd.Series, key: str, path: Path) -> pd.Series:
    """`cells` as numbers; InputError names the first that is not one."""
    if pd.api.types.is_numeric_dtype(cells):
        return cells
    found = cells.map(number)
    unclear = cells[found.isna()]
    for row, cell in zip(unclear.index.tolist(), unclear, strict=True):
        if number(cell) is None:
            raise InputError(
                f"manifest {path}: row {row + 1}: {cells.name} is {str(cell)!r}, not a number, and does not compare "
                f"with dataset.filters {key}: correct the cell or the filter"
            )
    return found.astype(float)


def _as_text(value: Any) -> str:
    """Comparable form of a cell. Pandas reads `false`, `False` and 1 differently from file to file."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip().lower()
