"""Which rows of a manifest are one layout and its variants."""

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
# Folders that tell a layout from its variants, not from another layout.
_VARIANT_FOLDER = re.compile(rf"{_WORDS}|augmented|augmentations?|originals?", re.IGNORECASE)

Folders = tuple[str, ...]


def layout_group(stem: str) -> str:
    """Name shared by a layout and its rotated and mirrored variants: the file's stem without variant suffixes."""
    while (shorter := VARIANT_SUFFIX.sub("", stem)) != stem:
        stem = shorter
    return stem


def is_variant_name(stems: pd.Series) -> pd.Series:
    """Whether each file's name says that it is a variant of another layout."""
    return stems.str.contains(VARIANT_SUFFIX) & ~stems.str.lower().str.endswith("_orig")


def named_layouts(
    paths: pd.Series, originals: pd.Series, augmented: pd.Series | None, numbers: pd.Series
) -> tuple[list[str], list[str]]:
    """Of each row the name of its picture, and that of the layout it is a variant of.

    `paths` and `originals` (empty where unknown) are the manifest's texts; `augmented` says which rows are variants,
    else their names do. Both are the file's name, as long as no two layouts have the same in different folders; of
    those that do, the name begins with the folders that tell them apart. Raises InputError, with the row of `numbers`,
    for a variant that may be of several of them.
    """
    places = [_place(text) for text in paths]
    stems = [stem for _, stem in places]
    known = {layout_group(stem) for stem in stems}
    sources = [None if _says_nothing(text, known) else _place(text) for text in originals]
    groups = [layout_group(source[1] if source else stem) for source, stem in zip(sources, stems, strict=True)]
    variants = is_variant_name(pd.Series(stems, dtype=str)) if augmented is None else augmented
    own = [not variant and source is None for variant, source in zip(variants, sources, strict=True)]
    apart = _apart([place for place, is_own in zip(places, own, strict=True) if is_own])
    folded = _unique_folded(known)
    for row, source in enumerate(sources):
        group = groups[row]
        if group in apart:
            folders = source[0] if source else places[row][0]
            parts = apart[group].get(folders) if own[row] else _matching(folders, apart[group])
            if parts is None:
                raise InputError(
                    f"manifest row {numbers.iloc[row] + 1}: {paths.iloc[row]} may be a variant of any of "
                    f"{len(apart[group])} layouts called {group}: name its picture with the folder, in a column "
                    "original_path"
                )
            stems[row] = "_".join((*parts, stems[row]))
            groups[row] = layout_group("_".join((*parts, group)))
        elif source and group not in known:
            # Written on a system that does not tell capitals from small letters.
            groups[row] = folded.get(group.casefold(), group)
    if apart:
        _require_apart(stems, places, numbers)
    return stems, _followed(stems, groups, sources, list(variants), own)


def _says_nothing(text: object, known: set[str]) -> bool:
    """Whether a cell for the original's path is empty, or holds a word for that which is no picture's name."""
    return is_empty_cell(text) or (str(text).strip() in (*MISSING, "-") and str(text).strip() not in known)


def _followed(
    stems: list[str],
    groups: list[str],
    sources: list[tuple[Folders, str] | None],
    variants: list[bool],
    own: list[bool],
) -> list[str]:
    """`groups`, those of variants of a picture that says itself what it was made from put into that picture's group."""
    originals = {group for group, is_own in zip(groups, own, strict=True) if is_own}
    found: dict[str, set[tuple[str, bool]]] = defaultdict(set)
    for stem, group, source, variant in zip(stems, groups, sources, variants, strict=True):
        name = layout_group(stem)
        if source is not None and name != group and name not in originals:
            found[name].add((group, bool(variant)))
    # A name of several sources says nothing.
    made_from = {name: next(iter(sources)) for name, sources in found.items() if len(sources) == 1}
    followed = list(groups)
    for row, group in enumerate(groups):
        passed, goes_on = set(), bool(variants[row])
        while goes_on and group in made_from and group not in passed:
            passed.add(group)
            group, goes_on = made_from[group]
        followed[row] = group
    return followed


def _place(text: str) -> tuple[Folders, str]:
    """Folders of a path, those for variants left out, and the name of its file without the suffix.

    A file that is called by its variant alone (`scene_001/rot90.png`) has the name of its folder before it.
    """
    *folders, name = unicodedata.normalize("NFC", plain_path(str(text))).replace("\\", "/").split("/")
    stem = PurePosixPath(name).stem
    kept = [folder for folder in folders if folder not in ("", ".") and not _VARIANT_FOLDER.fullmatch(folder)]
    if kept and _BARE_VARIANT.fullmatch(stem):
        stem = f"{kept.pop()}_{stem}"
    return tuple(kept), stem


def _apart(places: list[tuple[Folders, str]]) -> dict[str, dict[Folders, Folders]]:
    """By name: the folders that layouts of this name lie in, and of each the part that tells it from the others."""
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
    return {group: _distinguishing(found) for group, found in of_group.items()}


def _distinguishing(folders: set[Folders]) -> dict[Folders, Folders]:
    """Each of the paths without the folders that all begin or end with."""
    shared = _common_length(folders)
    rest = {path: path[shared:] for path in folders}
    ending = _common_length({part[::-1] for part in rest.values()})
    return {path: part[: len(part) - ending] for path, part in rest.items()}


def _common_length(paths: set[Folders]) -> int:
    """How many folders all of the paths begin with."""
    first, last = min(paths), max(paths)  # the two that have least in common
    return next(
        (length for length, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )


def _matching(folders: Folders, apart: Mapping[Folders, Folders]) -> Folders | None:
    """The distinguishing part that occurs among `folders`, the longest if there are several; None if that is not one.

    Folders that are exactly those of a layout are its own.
    """
    if folders in apart:
        return apart[folders]
    found = [part for part in apart.values() if part and _holds(folders, part)]
    longest = [part for part in found if len(part) == max(map(len, found))]
    return longest[0] if len(longest) == 1 else None


def _holds(folders: Folders, part: Folders) -> bool:
    return any(folders[start : start + len(part)] == part for start in range(len(folders) - len(part) + 1))


def _unique_folded(names: set[str]) -> dict[str, str]:
    """Each name by its form without capitals, where that is one name's only."""
    forms = Counter(name.casefold() for name in names)
    return {name.casefold(): name for name in names if forms[name.casefold()] == 1}


def _require_apart(stems: list[str], places: list[tuple[Folders, str]], numbers: pd.Series) -> None:
    """InputError if two pictures got the same name by the folders put before it."""
    first: dict[str, int] = {}
    for row, stem in enumerate(stems):
        before = first.setdefault(stem, row)
        if stem != places[row][1] and places[before] != places[row]:
            raise InputError(
                f"manifest rows {numbers.iloc[before] + 1} and {numbers.iloc[row] + 1} would both be called {stem}, by "
                "folder and file name: rename one"
            )
