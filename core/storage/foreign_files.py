"""Files that this project did not make: listing a folder, matching names, and the error that names such a file."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from core.inputs.locations import Location
from core.runtime.errors import InputError


def names_below(folder: Path) -> Iterator[str]:
    """Names of everything in a local folder except folders, one by one as they are found.

    Links to folders are followed, since files there could be overwritten too. Files that the file system makes for
    itself are left out.
    """
    seen = set()
    for at, folders, files in os.walk(folder, followlinks=True):
        try:
            status = os.stat(at)
        except FileNotFoundError:  # removed in the meantime
            continue
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_file_system_name(name))
        for name in sorted(files):
            if not is_file_system_name(name):
                yield Path(at, name).relative_to(folder).as_posix()


def is_file_system_name(name: str) -> bool:
    """Whether file systems make this name themselves: ext4 for lost files, NFS for open files that were deleted."""
    return name == "lost+found" or re.fullmatch(r"\.nfs[0-9a-fA-F]{8,}", name) is not None


def foreign_file_error(folder: Location, name: str, setting: str) -> InputError:
    """The error for a file that is not ours in a folder where we would write; `setting` chooses the folder."""
    return InputError(
        f"{folder} holds {name}, which another program made, or whose record is missing: choose another {setting}, or "
        "move the files there away"
    )


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether `name` is one of the names, in which `*` stands for digits."""
    return any(re.fullmatch(re.escape(pattern).replace(r"\*", r"\d+"), name) for pattern in patterns)
