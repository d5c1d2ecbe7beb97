"""Files that are not what they say."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config.loading import load_config
from core.data.latents import PackedLatents, read_pool
from core.data.layouts import read_layout
from core.data.palette import DEFAULT_PALETTE
from core.inputs.tensor_files import load_tensors
from core.runtime.errors import InputError
from tests.sweep.ground import Ground, Row

TITLE = "Files that are not what they say"

READERS: dict[str, Callable[[Path], Any]] = {
    "picture": lambda path: read_layout(path, 32, DEFAULT_PALETTE),
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


def _header(shape: str) -> Callable[[Ground], Any]:
    """A .npy file that says its array is of this shape, read packed and as a pool."""

    def give(ground: Ground) -> Any:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        header = (text + " " * (63 - (10 + len(text)) % 64) + "\n").encode()
        path = ground.file("given.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        with pytest.raises(InputError):
            read_pool(path)
        return PackedLatents(path, (4, 8, 8))

    return give


def _shared_tuples(ground: Ground) -> Any:
    """Tuples of tuples that share their parts: a few bytes, and 2^60 values if each is looked at where it is named."""
    value: Any = (1.0,)
    for _ in range(60):
        value = (value, value)
    torch.save(value, ground.folder / "given.pt")
    return load_tensors(ground.folder / "given.pt", "latent") is not None


ROWS += [
    *(
        Row("packed latents", f"an array of shape {shape}", _header(shape), ("given.npy", "shape"))
        for shape in ("()", "(0, 4, 8, 8)", "(-1, 4, 8, 8)", "(1000000000, 0, 1, 1)", "(1, -4, 8, 8)")
    ),
    Row("packed latents", "an array of shape (True, 4, 8, 8)", _header("(True, 4, 8, 8)"), ("given.npy",)),
    Row("latent", "tuples that share their parts, 60 deep", _shared_tuples, meaning="read in no time"),
]
