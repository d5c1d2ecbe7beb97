"""The files that a manifest's cells name, on whatever system it was written."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

# A path that is whole on Windows: with a drive, or on a server.
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def resolve_path(text: str, manifest: Path, remap: Mapping[str, str]) -> Path:
    """File that `text` in `manifest` means: absolute, beside the manifest, or beside the manifest's parent."""
    return resolve_paths([text], manifest, remap)[text]


def resolve_paths(texts: Iterable[str], manifest: Path, remap: Mapping[str, str]) -> dict[str, Path]:
    """The file that each of `texts` in `manifest` means.

    `remap` replaces the folder that a path begins with first. Published manifests hold paths relative to the parent of
    the augmented folder, and others with that folder doubled (`augmented/augmented/...`). Of a manifest that is a link,
    files are looked for beside the link, then beside what it points to. A backslash separates folders where no file
    has it in its name. If no candidate exists, the first is returned, so that the reader's error names it.
    """
    folders = dict.fromkeys(Path(path).parent for path in (os.path.abspath(manifest), manifest.resolve()))
    around = [folder for beside in folders for folder in (beside, beside.parent)]
    return {text: _find(_remapped(text, remap), around) for text in texts}


def _find(text: str, around: list[Path]) -> Path:
    forms = [text] if "\\" not in text else [text, text.replace("\\", "/")]
    for form in forms:
        for path in _candidates(form, around):
            if path.exists():
                return path
    # With folders separated, since it is shown; a drive is not beside the manifest.
    return Path(text) if _WINDOWS.match(text) else around[0] / forms[-1]


def _candidates(text: str, around: list[Path]) -> Iterable[Path]:
    yield from (folder / text for folder in around)
    parts = Path(text).parts
    single = Path(*[part for part, before in zip(parts, (None, *parts[:-1]), strict=True) if part != before])
    if len(single.parts) < len(parts):
        yield from (folder / single for folder in around)


def _remapped(text: str, remap: Mapping[str, str]) -> str:
    """`text` with the first of the prefixes that it lies below replaced; both kinds of slashes count as the same."""
    plain = text.replace("\\", "/")
    for prefix, replacement in remap.items():
        bare = prefix.replace("\\", "/").rstrip("/")
        start, rest = plain[: len(bare)], text[len(bare) :]
        # Windows does not tell capitals from small letters.
        same = start.casefold() == bare.casefold() if _WINDOWS.match(prefix) else start == bare
        if same and (not prefix or not rest or rest[0] in "\\/"):
            rest = rest.lstrip("\\/")
            return os.path.join(replacement, rest) if replacement and rest else replacement or rest
    return text
