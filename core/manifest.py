"""Manifest CSV files: which layouts there are, where their files lie, which belong together."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.config import DatasetSection
from core.errors import InputError

VARIANTS = ("rot90", "rot180", "rot270", "mirror", "mirror_rot90", "mirror_rot180", "mirror_rot270")
_VARIANT_SUFFIX = re.compile(r"_(?:orig|aug\d+|(?:mirror_)?rot(?:90|180|270)|mirror)$", re.IGNORECASE)
# Cells that mean a flag, as `_as_text` has them.
_TRUE, _FALSE = ("true", "1"), ("false", "0")
_COMPARISONS = {"__lt": "lt", "__gt": "gt", "__le": "le", "__ge": "ge", "__ne": "ne"}


def read_manifest(path: str | Path, columns: Sequence[str], dataset: DatasetSection) -> pd.DataFrame:
    """Rows of the manifest at `path` that have every one of `columns` and pass the dataset's filters.

    Text in `columns` becomes absolute paths; `stem` is the name of a row's file, `group` that of the layout it is a
    variant of. Unknown columns are kept. Raises InputError for a missing or empty file, a missing column, or no row
    left.
    """
    path = Path(path)
    rows = _read_csv(path)
    missing = [column for column in columns if column not in rows.columns]
    if missing:
        raise InputError(
            f"manifest {path} has no column {missing[0]}; it has {', '.join(rows.columns)}: name the column in "
            "dataset.outputs or add it"
        )
    rows = _filtered(rows, dataset.filters, path).dropna(subset=list(dict.fromkeys(columns)))
    if rows.empty:
        raise InputError(f"manifest {path}: no row is left after dataset.filters {dataset.filters}: relax the filters")
    rows = rows.reset_index(names="manifest_row")
    for column in dict.fromkeys(columns):
        # Once each: the latents of all rows may be in one file.
        resolved = {text: str(resolve_path(str(text), path, dataset.path_remap)) for text in rows[column].unique()}
        rows[column] = rows[column].map(resolved)
    names = rows[dataset.outputs.rgb if dataset.outputs.rgb in rows.columns else dataset.outputs.latent]
    rows["stem"] = [Path(str(name)).stem for name in names]
    originals = rows["original_path"] if "original_path" in rows.columns else pd.Series(None, rows.index, dtype=str)
    stems = originals.dropna().map(lambda original: Path(str(original)).stem)
    rows["group"] = rows["stem"].where(originals.isna(), stems).map(layout_group)
    return rows


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        rows = pd.read_csv(path, dtype={"room_id": str, "scene_id": str, "augmentation_type": str})
    except FileNotFoundError:
        raise InputError(f"manifest {path} does not exist: set dataset.manifest or --manifest") from None
    except pd.errors.EmptyDataError:
        raise InputError(f"manifest {path} is empty: it needs a header and at least one row") from None
    except (OSError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise InputError(
            f"manifest {path} is no readable CSV file ({str(error).splitlines()[0]}): replace it"
        ) from None
    if rows.empty:
        raise InputError(f"manifest {path} has no rows: it needs at least one layout")
    return rows


def resolve_path(text: str, manifest: Path, remap: Mapping[str, str]) -> Path:
    """File that `text` in `manifest` means: absolute, beside the manifest, or beside the manifest's parent.

    Published manifests hold paths relative to the parent of the augmented folder, and others with that folder
    doubled (`augmented/augmented/...`); `remap` replaces a leading prefix first. If no candidate exists, the
    first is returned, so that the reader's error names it.
    """
    for prefix, replacement in remap.items():
        if text.startswith(prefix):
            text = replacement + text[len(prefix) :]
            break
    folder = manifest.resolve().parent
    parts = Path(text).parts
    single = Path(*[part for part, before in zip(parts, (None, *parts[:-1]), strict=True) if part != before])
    candidates = [folder / text, folder.parent / text, folder / single, folder.parent / single]
    return next((path for path in candidates if path.exists()), candidates[0])


def layout_group(stem: str) -> str:
    """Name shared by a layout and its rotated and mirrored variants: the file's stem without variant suffixes."""
    while (shorter := _VARIANT_SUFFIX.sub("", stem)) != stem:
        stem = shorter
    return stem


def is_augmented(rows: pd.DataFrame) -> pd.Series:
    """True for each row that is a variant of another layout: the column `is_augmented`, else the file's name.

    Only the name counts, not the folder: originals live under folders called `augmented` too.
    """
    if "is_augmented" in rows.columns:
        return rows["is_augmented"].map(_as_text).isin(_TRUE)
    return rows["stem"].str.contains(_VARIANT_SUFFIX) & ~rows["stem"].str.lower().str.endswith("_orig")


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
        suffix = next((suffix for suffix in _COMPARISONS if key.endswith(suffix)), "")
        column = key.removesuffix(suffix)
        if column not in rows.columns:
            if column == "is_empty":
                continue  # every published config filters on it, not every manifest has it
            raise InputError(
                f"manifest {path} has no column {column} to filter on; it has {', '.join(rows.columns)}: mend "
                "dataset.filters"
            )
        if suffix and suffix != "__ne":
            try:
                keep = getattr(rows[column], _COMPARISONS[suffix])(wanted)
            except (TypeError, ValueError):
                raise InputError(
                    f"manifest {path}: column {column} does not compare with dataset.filters {key} {wanted!r}: "
                    "mend the filter"
                ) from None
        else:
            values = wanted if isinstance(wanted, list | tuple) else [wanted]
            keep = rows[column].map(_as_text).isin([text for value in values for text in _texts(value)])
            keep = ~keep if suffix else keep
        rows = rows[keep]
    return rows


def _texts(wanted: Any) -> tuple[str, ...]:
    """Forms of cells that mean the wanted value: a flag is written as a word or as a number."""
    if isinstance(wanted, bool):
        return _TRUE if wanted else _FALSE
    return (_as_text(wanted),)


def _as_text(value: Any) -> str:
    """Comparable form of a cell: pandas reads `false`, `False` and 1 differently from file to file."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip().lower()
