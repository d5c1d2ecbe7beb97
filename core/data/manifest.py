"""Manifest CSV files: which layouts there are, where their files lie, which belong together."""

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

# Text, whatever it looks like: a scene may be called 0001 or NA.
_NAMES = ("room_id", "scene_id", "augmentation_type", "original_path")
_FLAGS = ("is_empty", "is_augmented")
_KNOWN = (*_FLAGS, "latent_row", "pixels_per_metre")
_COMPARISONS = {"__lt": "lt", "__gt": "gt", "__le": "le", "__ge": "ge", "__ne": "ne"}


def read_manifest(path: str | Path, columns: Sequence[str], dataset: DatasetSection) -> pd.DataFrame:
    """Rows of the manifest at `path` that have every one of `columns` and pass the dataset's filters.

    Text in `columns` becomes absolute paths; `stem` is the name of a row's picture, `group` that of the layout it is a
    variant of. Unknown columns are kept. Raises InputError for a missing or empty file, a missing column, a flag that
    may mean yes or no, or no row left.
    """
    path = Path(path)
    rows = read_rows(path, dataset)
    missing = [column for column in columns if column not in rows.columns]
    if missing:
        raise InputError(
            f"manifest {path} has no column {missing[0]}; it has {', '.join(rows.columns)}: name the column in "
            "dataset.outputs or add it"
        )
    # First: a spreadsheet's blank rows and sums have no flags either.
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
        # Once each: the latents of all rows may be in one file.
        found = resolve_paths(rows[column].unique(), path, dataset.path_remap)
        rows[column] = rows[column].map({text: str(place) for text, place in found.items()})
    return rows


def read_rows(path: Path, dataset: DatasetSection) -> pd.DataFrame:
    """Every row of the manifest at `path`, as it stands there; InputError if it is no table or has no rows."""
    if not path.exists():
        raise InputError(f"manifest {path} does not exist: set dataset.manifest or --manifest")
    outputs = dataset.outputs
    filtered = [_filter_column(key)[0] for key in dataset.filters]
    return read_table(path, "manifest", (*_NAMES, outputs.rgb, outputs.latent), (*_KNOWN, *filtered))


def is_augmented(rows: pd.DataFrame) -> pd.Series:
    """True for each row that is a variant of another layout: the column `is_augmented`, else the file's name.

    Only the name counts, not the folder: originals live under folders called `augmented` too. Raises InputError for a
    cell that may mean yes or no.
    """
    augmented = _flags(rows, "is_augmented", "manifest row")
    return is_variant_name(rows["stem"]) if augmented is None else augmented


def _flags(rows: pd.DataFrame, column: str, row_called: str) -> pd.Series | None:
    """The column as truth values; None if it is not there or all of it is empty. InputError names an unsure cell."""
    if column not in rows.columns or _all_empty(rows[column]):
        return None
    numbers = rows["manifest_row"] if "manifest_row" in rows.columns else pd.Series(rows.index, rows.index)
    return _meanings(rows[column], numbers, row_called)


def _meanings(cells: pd.Series, numbers: pd.Series, row_called: str) -> pd.Series:
    """`cells` as truth values; InputError names the first that may mean yes or no, by its row of `numbers`."""
    meaning = {cell: flag(cell) for cell in cells.unique()}
    for cell, row in zip(cells, numbers, strict=True):
        if meaning.get(cell) is None:
            said = "is empty" if is_empty_cell(cell) else f"is {str(cell)!r}"
            raise InputError(
                f"{row_called} {row + 1}: {cells.name} {said}, which is not surely yes or no: write true or false"
            )
    return cells.map(meaning).astype(bool)


def _all_empty(cells: pd.Series) -> bool:
    return bool(cells.map(is_empty_cell).all())


def split_by_layout(rows: pd.DataFrame, train_split: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(training rows, validation rows); all variants of a layout fall on the same side.

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
    """Rows of unaugmented layouts; InputError if there are none.

    `rows` may be those of a split.
    """
    kept = rows[~is_augmented(rows)]
    if kept.empty:
        raise InputError(f"no original layout among {len(rows)} rows of the manifest: all are marked as augmented")
    return kept.reset_index(drop=True)


def choose_rows(rows: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """`count` rows, drawn without replacement and left in their order; all of them if there are fewer."""
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    return rows.iloc[np.sort(chosen)].reset_index(drop=True)


def _filtered(rows: pd.DataFrame, filters: Mapping[str, Any], path: Path) -> pd.DataFrame:
    for key, wanted in filters.items():
        column, suffix = _filter_column(key)
        if column not in rows.columns:
            if column == "is_empty":
                continue  # every published config filters on it, not every manifest has it
            raise InputError(
                f"manifest {path} has no column {column} to filter on; it has {', '.join(rows.columns)}: mend "
                "dataset.filters"
            )
        if suffix and suffix != "__ne":
            try:
                cells = rows[column] if isinstance(wanted, str) else _numbers(rows[column], key, path)
                keep = getattr(cells, _COMPARISONS[suffix])(wanted)
            except (TypeError, ValueError):
                raise InputError(
                    f"manifest {path}: column {column} does not compare with dataset.filters {key} {wanted!r}: "
                    "mend the filter"
                ) from None
        else:
            values = wanted if isinstance(wanted, list | tuple) else [wanted]
            # A flag may be asked for in words too.
            asked = [value if isinstance(value, bool) or column not in _FLAGS else flag(value) for value in values]
            flags = [value for value in asked if isinstance(value, bool)]
            words = [_as_text(value) for value, said in zip(values, asked, strict=True) if not isinstance(said, bool)]
            keep = rows[column].map(_as_text).isin(words)
            if flags and column == "is_empty" and _all_empty(rows[column]):
                continue  # says as little as no column
            if flags:
                others = rows.loc[~keep, column]
                meanings = _meanings(others, pd.Series(others.index, others.index), f"manifest {path}: row")
                keep |= meanings.isin(flags).reindex(rows.index, fill_value=False)
            keep = ~keep if suffix else keep
        rows = rows[keep]
    return rows


def _filter_column(key: str) -> tuple[str, str]:
    """The column that a filter's name is of, and the comparison at its end, if there is one."""
    suffix = next((suffix for suffix in _COMPARISONS if key.endswith(suffix)), "")
    return key.removesuffix(suffix), suffix


def _numbers(cells: pd.Series, key: str, path: Path) -> pd.Series:
    """`cells` as numbers; InputError names the first that is none."""
    if pd.api.types.is_numeric_dtype(cells):
        return cells
    found = cells.map(number)
    if found.isna().any():
        for row, cell in cells[found.isna()].items():
            if number(cell) is None:
                raise InputError(
                    f"manifest {path}: row {row + 1}: {cells.name} is {str(cell)!r}, no number, so that it does not "
                    f"compare with dataset.filters {key}: mend the cell or the filter"
                )
    return found.astype(float)


def _as_text(value: Any) -> str:
    """Comparable form of a cell: pandas reads `false`, `False` and 1 differently from file to file."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip().lower()
