"""Files of the user, and a stage that writes two files."""

import os
import time
from pathlib import Path

LONG_AGO = time.time() - 3 * 24 * 3600


def put(*paths: Path) -> dict[Path, bytes]:
    """Files of the user that are days old."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine: " + path.name.encode())
        os.utime(path, (LONG_AGO, LONG_AGO))
    return content(*paths)


def content(*paths: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in paths}


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def work(workspace, _) -> dict[str, int]:
    for name in ("a.txt", "folder/b.txt"):
        (workspace.folder / name).parent.mkdir(exist_ok=True)
        (workspace.folder / name).write_text("made")
    return {}
