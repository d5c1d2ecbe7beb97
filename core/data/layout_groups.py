"""Groups of manifest rows: a layout and its variants."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath

import pandas as pd

from core.data.manifest_paths import plain_path
from core.inputs.flags import MISSING, is_empty_cell
from core.runtime.errors import InputError

VARIANTS = ("rot90", "rot180", "rot270", "mirror", "mirror_rot90", "mirror_rot180", "mirror_rot270")
_WORDS = r"orig|aug\d+|(?:mirror_)?rot(?:90|180|270)|mirror"
VARIANT_SUFFIX = re.compile(rf"_(?:{_WORDS})$", re.IGNORECASE)
_BARE_VARIANT = re.compile(_WORDS, re.IGNORECASE)
# Folders that separate a layout from its variants, not from other layouts.
_VARIANT_FOLDER = re.compile(rf"{_WORDS}|augmented|augmentations?|originals?", re.IGNORECASE)

Folders = tuple[str, ...]


def layout_group(stem: str) -> str:
    """The name that a layout shares with its variants: the file's stem without variant suffixes."""
    while (shorter := VARIANT_SUFFIX.sub("", stem)) != stem:
        stem = shorter
    return stem


def is_variant_name(stems: pd.Series) -> pd.Series:
    """Whether each file is a variant of another layout, by its name."""
    return stems.str.contains(VARIANT_SUFFIX) & ~stems.str.lower().str.endswith("_orig")


def named_layouts(
    paths: pd.Series, originals: pd.Series, augmented: pd.Series | None, numbers: pd.Series
) -> tuple[list[str], list[str]]:
    """For each row the name of its picture, and the name of the layout that it is a variant of.

    `paths` and `originals` (empty where unknown) are texts of the manifest. `augmented` says which rows are variants;
    without it, file names do. A name is that of the file. If layouts in different folders have the same file name, the
    folders that distinguish them are put before it. Raises InputError, with the row from `numbers`, for a variant that
    may belong to several layouts.
    """
    places = [_folders_and_name(text) for text in paths]
    stems = [stem for _, stem in places]
    known = {layout_group(stem) for stem in stems}
    sources = [None if _is_no_source(text, known) else _folders_and_name(text) for text in originals]
    groups = [layout_group(source[1] if source else stem) for source, stem in zip(sources, stems, strict=True)]
    variants = is_variant_name(pd.Series(stems, dtype=str)) if augmented is None else augmented
    own = [not variant and source is None for variant, source in zip(variants, sources, strict=True)]
    distinct = _distinguishing_folders([place for place, is_own in zip(places, own, strict=True) if is_own])
    folded = _unique_folded(known)
    for row, source in enumerate(sources):
        group = groups[row]
        if group in distinct:
            folders = source[0] if source else places[row][0]
            prefix = distinct[group].get(folders) if own[row] else _matching_prefix(folders, distinct[group])
            if prefix is None:
                raise InputError(
                    f"manifest row {numbers.iloc[row] + 1}: {paths.iloc[row]} may be a variant of any of "
                    f"{len(distinct[group])} layouts called {group}: name its picture with the folder, in a column "
                    "original_path"
                )
            stems[row] = "_".join((*prefix, stems[row]))
            groups[row] = layout_group("_".join((*prefix, group)))
        elif source and group not in known:
            # The table may come from a system that ignores case.
            groups[row] = folded.get(group.casefold(), group)
    if distinct:
        _refuse_equal_names(stems, places, numbers)
    return stems, _groups_of_sources(stems, groups, sources, list(variants), own)


def _is_no_source(text: object, known: set[str]) -> bool:
    """Whether a cell for the original's path is empty, or holds a word for that which is not a picture's name."""
    return is_empty_cell(text) or (str(text).strip() in (*MISSING, "-") and str(text).strip() not in known)


def _groups_of_sources(
    stems: list[str],
    groups: list[str],
    sources: list[tuple[Folders, str] | None],
    variants: list[bool],
    own: list[bool],
) -> list[str]:
    """`groups`, with each variant of a picture that has a source itself moved to the group of that source."""
    originals = {group for group, is_own in zip(groups, own, strict=True) if is_own}
    found: dict[str, set[tuple[str, bool]]] = defaultdict(set)
    for stem, group, source, variant in zip(stems, groups, sources, variants, strict=True):
        name = layout_group(stem)
        if source is not None and name != group and name not in originals:
            found[name].add((group, bool(variant)))
    # By name: the group of its source, and whether the picture of this name is a variant. Ambiguous names are ignored.
    source_of = {name: next(iter(sources)) for name, sources in found.items() if len(sources) == 1}
    moved = list(groups)
    for row, group in enumerate(groups):
        seen, is_variant = set(), bool(variants[row])
        while is_variant and group in source_of and group not in seen:
            seen.add(group)
            group, is_variant = source_of[group]
        moved[row] = group
    return moved


def _folders_and_name(text: str) -> tuple[Folders, str]:
    """The folders of a path, without those for variants, and the file's name without its suffix.

    If the file is named after its variant alone (`scene_001/rot90.png`), the name of its folder is put before it.
    """
    *folders, name = unicodedata.normalize("NFC", plain_path(str(text))).replace("\\", "/").split("/")
    stem = PurePosixPath(name).stem
    kept = [folder for folder in folders if folder not in ("", ".") and not _VARIANT_FOLDER.fullmatch(folder)]
    if kept and _BARE_VARIANT.fullmatch(stem):
        stem = f"{kept.pop()}_{stem}"
    return tuple(kept), stem


def _distinguishing_folders(places: list[tuple[Folders, str]]) -> dict[str, dict[Folders, Folders]]:
    """By name that several layouts share: the folders of each, and the part that distinguishes it from the others."""
    folders_of = defaultdict(set)
    for folders, stem in places:
        folders_of[stem].add(folders)
    of_group: dict[str, set[Folders]] = defaultdict(set)
    for stem, found in folders_of.items():
        if len(found) > 1:
            of_group[layout_group(stem)] |= found
    for stem, found in folders_of.items():
        if layout_group(stem) in of_group:
            of_group[layout_group(stem)] |= found
    return {group: _without_common_ends(found) for group, found in of_group.items()}


def _without_common_ends(folders: set[Folders]) -> dict[Folders, Folders]:
    """Each of the paths without the folders with which all of them begin or end."""
    shared = _common_length(folders)
    rest = {path: path[shared:] for path in folders}
    ending = _common_length({part[::-1] for part in rest.values()})
    return {path: part[: len(part) - ending] for path, part in rest.items()}


def _common_length(paths: set[Folders]) -> int:
    """The number of folders with which all of the paths begin."""
    first, last = min(paths), max(paths)  # in sorted order, the two with the shortest common beginning
    return next(
        (length for length, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )


def _matching_prefix(folders: Folders, distinct: Mapping[Folders, Folders]) -> Folders | None:
    """The distinguishing part that occurs in `folders`, the longest of several; None if that is not exactly one.

    If `folders` are exactly those of a layout, its part is returned.
    """
    if folders in distinct:
        return distinct[folders]
    found = [part for part in distinct.values() if part and _contains(folders, part)]
    longest = [part for part in found if len(part) == max(map(len, found))]
    return longest[0] if len(longest) == 1 else None


def _contains(folders: Folders, part: Folders) -> bool:
    return any(folders[start : start + len(part)] == part for start in range(len(folders) - len(part) + 1))


def _unique_folded(names: set[str]) -> dict[str, str]:
    """Each name by its case-folded form, where only one name has that form."""
    forms = Counter(name.casefold() for name in names)
    return {name.casefold(): name for name in names if forms[name.casefold()] == 1}


def _refuse_equal_names(stems: list[str], places: list[tuple[Folders, str]], numbers: pd.Series) -> None:
    """InputError if two pictures got the same name from the folders before it."""
    first: dict[str, int] = {}
    for row, stem in enumerate(stems):
        before = first.setdefault(stem, row)
        if stem != places[row][1] and places[before] != places[row]:
            raise InputError(
                f"manifest rows {numbers.iloc[before] + 1} and {numbers.iloc[row] + 1} would both be called {stem}, by "
                "folder and file name: rename one"
            )
