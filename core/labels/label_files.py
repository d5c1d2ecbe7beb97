"""Label files: a table in which a person says of each generated layout whether it is viable."""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from core.inputs.flags import flag, is_empty_cell
from core.inputs.table_files import read_table
from core.labels.labelling import require_both_kinds
from core.runtime.errors import InputError

# The columns of a label file, in the order in which the label page writes them.
PATH_COLUMN, FLAG_COLUMN, DIGEST_COLUMN = "latent_path", "is_viable", "latents_sha256"
# A table may name pictures instead of latents.
_PATH_COLUMNS = (PATH_COLUMN, "layout_path")
_DIGEST_DIGITS = 16
# Names of the files of generated latents below a stage's folder. The number is that of the sample, whatever its kind.
_GENERATED = re.compile(r"(?:bad|viable)_latents/(?:bad|viable)_latent_(\d+)\.pt")


@dataclass(frozen=True)
class Labels:
    """Of each labelled layout whether it is viable, in the order of the file at `path`.

    `latents_sha256` is the digest of the latents that were labelled, None if the file does not give it.
    """

    path: Path
    viable: Mapping[str, bool]
    latents_sha256: str | None = None


def generated_names(names: Iterable[str]) -> list[str]:
    """Those of a stage's `names` that are files of single generated latents, in the order of their samples."""
    found = [match for match in map(_GENERATED.fullmatch, names) if match]
    return [match.string for match in sorted(found, key=lambda match: int(match[1]))]


def latents_digest(digests: Iterable[str]) -> str:
    """16 hex digits that tell the latents of one round from those of another.

    `digests` are the sha256 of the files of all generated latents, in the order of `generated_names`.
    """
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:_DIGEST_DIGITS]


def read_labels(path: Path) -> Labels:
    """The labels in the CSV file at `path`, in its columns `latent_path` or `layout_path`, and `is_viable`.

    The column `latents_sha256` may be missing. Rows without a path and a flag are left out. Raises InputError for a
    file that is not such a table, a path without a flag or the reverse, a flag that is neither yes nor no, a path that
    is given twice, and several digests.
    """
    name = f"labels {path}"
    rows = read_table(path, "labels", (*_PATH_COLUMNS, DIGEST_COLUMN), (FLAG_COLUMN,))
    column = next((column for column in _PATH_COLUMNS if column in rows.columns), None)
    if column is None or FLAG_COLUMN not in rows.columns:
        missing = FLAG_COLUMN if column else " or ".join(_PATH_COLUMNS)
        raise InputError(f"{name} has no column {missing}; it has {', '.join(rows.columns)}: add it")
    rows = rows[~rows[[column, FLAG_COLUMN]].map(is_empty_cell).all(axis=1)]
    viable: dict[str, bool] = {}
    for row, cell, said in zip(rows.index.tolist(), rows[column], rows[FLAG_COLUMN], strict=True):
        at = f"{name}: row {row + 1}"
        if is_empty_cell(cell):
            raise InputError(f"{at}: {column} is empty: name the layout, or remove the row")
        labelled = _plain_path(str(cell))
        if labelled in viable:
            raise InputError(f"{at}: {labelled} is there twice: keep one of its rows")
        viable[labelled] = _meaning(said, at)
    if not viable:
        raise InputError(f"{name} labels no layout: label some, and save the file again")
    return Labels(path, viable, _digest(rows, name))


def labels_of(
    labels: Labels, names: Collection[str], source: str, latents_sha256: str | None = None
) -> dict[str, bool]:
    """The labels of those of `names` that the file labels, in the order of `names`; the others are unlabelled.

    `source` says where the latents called `names` are, and `latents_sha256` is their `latents_digest`. Raises
    InputError if the file labels other latents than these.
    """
    given = labels.latents_sha256
    if latents_sha256 is not None and given not in (None, latents_sha256):
        raise InputError(
            f"labels {labels.path} are of other latents (latents_sha256 {given}) than those of {source} "
            f"({latents_sha256}): give the file that was saved from the page of these"
        )
    known = {_plain_path(name): name for name in names}
    unknown = [name for name in labels.viable if name not in known]
    if unknown:
        others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise InputError(
            f"labels {labels.path} name {unknown[0]}{others}, which {source} does not have: give the labels of its "
            "latents, or remove the rows"
        )
    return {name: labels.viable[plain] for plain, name in known.items() if plain in labels.viable}


def require_both_labels(labels: Labels) -> None:
    """InputError if all layouts have the same label, or less than 2 % of them have one of the two."""
    remedy = "label more layouts, on a page of more if need be (--count of tasks.label)"
    require_both_kinds(list(labels.viable.values()), f"labels {labels.path}", {True: remedy, False: remedy})


def _plain_path(text: str) -> str:
    """A path as a manifest has it: without blanks around it and `./` before it, and with / between folders."""
    return PurePosixPath(text.strip().replace("\\", "/")).as_posix()


def _meaning(cell: Any, at: str) -> bool:
    meaning = None if is_empty_cell(cell) else flag(cell)
    if meaning is None:
        problem = "is empty" if is_empty_cell(cell) else f"is {str(cell)!r}"
        raise InputError(
            f"{at}: {FLAG_COLUMN} {problem}, which is neither yes nor no: write true or false, or remove the row"
        )
    return meaning


def _digest(rows: pd.DataFrame, name: str) -> str | None:
    """The only digest in the rows, None without one."""
    if DIGEST_COLUMN not in rows.columns:
        return None
    digests = sorted({str(cell).strip().lower() for cell in rows[DIGEST_COLUMN] if not is_empty_cell(cell)})
    if len(digests) > 1:
        raise InputError(
            f"{name} holds labels of several rounds ({DIGEST_COLUMN} {', '.join(digests[:3])}): give a file for each"
        )
    return digests[0] if digests else None
