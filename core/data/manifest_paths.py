"""The files that the cells of a manifest name, on whichever system it was written."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

from core.runtime.errors import InputError

# An absolute path of Windows, with a drive or a server.
_WINDOWS = re.compile(r"[A-Za-z]:(?:[\\/]|$)|\\\\")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def plain_path(text: str) -> str:
    """The path in a cell, without surrounding blanks and quotes; for a file:// address, the path that it names.

    Windows copies paths in quotes.
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    if text[:5].lower() == "file:":
        text = re.sub(r"^//(?:localhost)?(?=/)", "", unquote(text[5:]))
        text = text[1:] if _WINDOWS.match(text[1:]) and text[1] != "\\" else text
    return text


def resolve_paths(texts: Iterable[str], manifest: Path, remap: Mapping[str, str]) -> dict[str, Path]:
    """The file that each of `texts` in `manifest` means.

    `remap` first replaces the folder at the beginning of a path. Published manifests hold paths relative to the parent
    of the augmented folder, and some repeat that folder (`augmented/augmented/...`). If the manifest is a link, files
    are looked up beside the link, then beside its target. Forms of other systems are accepted where no file has exactly
    the written name: backslashes, blanks or quotes around the path, file:// addresses, `~/`, accents in another Unicode
    normal form. If no candidate exists, the first is returned, so that the reader's error names it. Raises InputError
    for other addresses.
    """
    folders = dict.fromkeys(Path(path).parent for path in (os.path.abspath(manifest), manifest.resolve()))
    around = [folder for beside in folders for folder in (beside, beside.parent)]
    return {text: _find(text, remap, around, manifest) for text in texts}


def _find(text: str, remap: Mapping[str, str], around: list[Path], manifest: Path) -> Path:
    """The first existing candidate for `text` in the folders `around`, else the first candidate."""
    for form in dict.fromkeys(_forms(text, remap)):
        for path in _candidates(form, around):
            if os.path.exists(path):  # Path.exists raises for a name that is too long
                return path
    if not text.isascii():
        for form in dict.fromkeys(_forms(text, remap)):
            for path in _candidates(form, around):
                if (found := _in_another_normal_form(path)) is not None:
                    return found
    plain = _remapped(plain_path(text), remap)
    if _ADDRESS.match(plain):
        raise InputError(
            f"manifest {manifest} names {plain}, which is an address, not a file: copy the files to this machine and "
            "name their folder in dataset.path_remap"
        )
    # With this system's separators, since errors show it. A path with a drive is not relative to the manifest.
    return Path(plain) if _WINDOWS.match(plain) else around[0] / plain.replace("\\", "/")


def _forms(text: str, remap: Mapping[str, str]) -> Iterator[str]:
    """The paths that `text` may mean, the likeliest first."""
    for plain in (text, plain_path(text)):
        form = _remapped(plain, remap)
        yield form
        form = form.replace("\\", "/")
        yield form
        if form.startswith("~/"):
            yield os.path.expanduser(form)


def _in_another_normal_form(path: Path) -> Path | None:
    """The file at `path` with folders or its name in Unicode form NFC or NFD, as macOS writes; None if missing."""
    found = Path(path.anchor)
    for part in path.parts[len(found.parts) :]:
        forms = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        there = next((found / form for form in forms if os.path.exists(found / form)), None)
        if there is None:
            return None
        found = there
    return found


def _candidates(text: str, around: list[Path]) -> Iterable[Path]:
    """`text` below each of the folders `around`, also with repeated folders in it merged."""
    yield from (folder / text for folder in around)
    parts = Path(text).parts
    single = Path(*[part for part, before in zip(parts, (None, *parts[:-1]), strict=True) if part != before])
    if len(single.parts) < len(parts):
        yield from (folder / single for folder in around)


def _remapped(text: str, remap: Mapping[str, str]) -> str:
    """`text` with the first matching prefix of `remap` replaced. Slashes and backslashes are equal."""
    plain = text.replace("\\", "/")
    for prefix, replacement in remap.items():
        bare = prefix.replace("\\", "/").rstrip("/")
        start, rest = plain[: len(bare)], text[len(bare) :]
        # Windows ignores case.
        windows = _WINDOWS.match(prefix) or _WINDOWS.match(text)
        same = start.casefold() == bare.casefold() if windows else start == bare
        if same and (not prefix or not rest or rest[0] in "\\/"):
            rest = rest.lstrip("\\/")
            return os.path.join(replacement, rest) if replacement and rest else replacement or rest
    return text
