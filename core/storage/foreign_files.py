"""Files in a folder that are not ours: finding them, telling ours by name, and the error that names one."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from core.inputs.places import Location
from core.runtime.errors import InputError


def names_in(folder: Path) -> Iterator[str]:
    """Names of everything in a local folder that is no folder itself, one after the other as they are found.

    What lies in a folder that is linked there would be written over as well, so it is named too. What a file system
    keeps for itself is nobody's.
    """
    seen = set()
    for at, folders, files in os.walk(folder, followlinks=True):
        try:
            status = os.stat(at)
        except FileNotFoundError:  # removed meanwhile
            continue
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_file_systems(name))
        for name in sorted(files):
            if not is_file_systems(name):
                yield Path(at, name).relative_to(folder).as_posix()


def is_file_systems(name: str) -> bool:
    """Whether a file system makes files of this name by itself: ext4's folder of lost files, NFS's of open ones."""
    return name == "lost+found" or re.fullmatch(r"\.nfs[0-9a-fA-F]{8,}", name) is not None


def foreign_file(folder: Location, name: str, setting: str) -> InputError:
    """The error for a file of somebody else's where we would write."""
    return InputError(
        f"{folder} holds {name}, which something else made, or whose record is gone: choose another {setting}, or move "
        "what is there away"
    )


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether `name` is one of the names; `*` in them stands for digits."""
    return any(re.fullmatch(re.escape(pattern).replace(r"\*", r"\d+"), name) for pattern in patterns)
