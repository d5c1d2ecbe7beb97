"""Files that are not what they say."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.config import load_config
from core.files import load_tensors
from core.latents import PackedLatents
from core.layouts import read_layout
from tests.sweep.ground import Ground, Row

TITLE = "Files that are not what they say"

READERS: dict[str, Callable[[Path], Any]] = {
    "picture": lambda path: read_layout(path, 32),
    "latent": lambda path: load_tensors(path, "latent"),
    "packed latents": lambda path: PackedLatents(path, (4, 8, 8)),
    "config": load_config,
}


def _pipe(reader: Callable[[Path], Any]) -> Callable[[Ground], Any]:
    def give(ground: Ground) -> Any:
        os.mkfifo(ground.folder / "given")
        return reader(ground.folder / "given")

    return give


ROWS = [Row(name, "a named pipe", _pipe(reader), ("given", "a named pipe")) for name, reader in READERS.items()]
