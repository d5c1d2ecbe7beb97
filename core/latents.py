"""Latents of a manifest's rows on disk: packed in a .npy file, or a torch file each."""

import os
import tokenize
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from core.errors import InputError
from core.files import load_tensors, require_writable, whole_file
from core.scratch import scratch_folder

# Of a manifest: which row of the packed file, from 0, the latent of a layout is.
ROW_COLUMN = "latent_row"
PACKED_SUFFIX = ".npy"

# Latents of single files that are held in memory; more of them are packed and read from disk.
HELD_BYTES = 2**28

# Latents read at a time while all are brought to a device.
_HOLDING = 4096

Shape = tuple[int, int, int]


class Latents:
    """The latents of manifest rows, each read when it is asked for.

    A path that ends in `.npy` is a packed file [N, C, h, w], of which `latent_row` says the row; any other is a torch
    file of that latent. Single files are read at once, into memory or, beyond `HELD_BYTES`, into a packed file of this
    process's own below `scratch`. Raises InputError for what is missing, damaged or of another shape.
    """

    def __init__(self, rows: pd.DataFrame, column: str, shape: Shape, scratch: Path):
        self._shape = shape
        self._manifest_rows = rows["manifest_row"].to_numpy()
        self._sources: list[np.ndarray | PackedLatents] = []
        self._held: Tensor | None = None
        # Of each row: the source it is in, and its row there.
        self._source = np.zeros(len(rows), np.int32)
        self._row = np.zeros(len(rows), np.int64)
        packed = rows[column].str.endswith(PACKED_SUFFIX).to_numpy(bool)
        for path in rows.loc[packed, column].unique():
            self._add_packed(path, rows, (rows[column] == path).to_numpy(bool))
        if not packed.all():
            self._add_single(rows[~packed], column, ~packed, scratch)

    def __len__(self) -> int:
        return len(self._row)

    def hold(self, device: torch.device, room: int) -> None:
        """Keep every latent in the memory of `device` from now on, unless they take more than `room` bytes.

        Batches are then on that device. InputError names a latent that is not finite.
        """
        if len(self) * int(np.prod(self._shape)) * 4 > room:
            return
        held = torch.empty((len(self), *self._shape), device=device)
        for indices in torch.arange(len(self)).split(_HOLDING):
            held[indices[0] : indices[-1] + 1] = self._read(indices)
        self._held, self._sources = held, []

    def batch(self, indices: Tensor) -> Tensor:
        """Latents [B, C, h, w] float32 of the rows `indices`, on the CPU unless held elsewhere.

        InputError names one that is not finite.
        """
        return self._read(indices) if self._held is None else self._held[indices.to(self._held.device)]

    def _read(self, indices: Tensor) -> Tensor:
        positions = indices.numpy()
        latents = np.empty((len(positions), *self._shape), np.float32)
        for number, source in enumerate(self._sources):
            here = np.flatnonzero(self._source[positions] == number)
            if len(here):
                latents[here] = source[self._row[positions[here]]]
        finite = np.isfinite(latents).all(axis=(1, 2, 3))
        if not finite.all():
            bad = positions[~finite][0]
            raise InputError(
                f"manifest row {self._manifest_rows[bad] + 1}: latent {self._sources[self._source[bad]].path}, row "
                f"{self._row[bad]}, holds values that are not finite: encode the layouts again"
            )
        return torch.from_numpy(latents)

    def _add_packed(self, path: str, rows: pd.DataFrame, here: np.ndarray) -> None:
        numbers = rows[ROW_COLUMN] if ROW_COLUMN in rows.columns else pd.Series(np.nan, rows.index)
        numbers = pd.to_numeric(numbers[here], errors="coerce").to_numpy(float)
        manifest_rows = self._manifest_rows[here]
        try:
            latents = PackedLatents(Path(path), self._shape)
        except InputError as error:
            raise InputError(f"manifest row {manifest_rows[0] + 1}: {error}") from None
        there = (numbers >= 0) & (numbers < len(latents)) & (numbers == np.floor(numbers))
        if not there.all():
            raise InputError(
                f"manifest row {manifest_rows[~there][0] + 1}: {ROW_COLUMN} is {numbers[~there][0]:g} and latents "
                f"{path} have rows 0 to {len(latents) - 1}: mend the manifest or encode the layouts again"
            )
        self._source[here], self._row[here] = len(self._sources), numbers
        self._sources.append(latents)

    def _add_single(self, rows: pd.DataFrame, column: str, here: np.ndarray, scratch: Path) -> None:
        latents = _read_single(rows, column, self._shape)
        self._source[here], self._row[here] = len(self._sources), np.arange(len(rows))
        if len(rows) * np.prod(self._shape) * 4 <= HELD_BYTES:
            held = np.empty((len(rows), *self._shape), np.float32)
            for position, latent in enumerate(latents):
                held[position] = latent
            self._sources.append(held)
            return
        require_writable(scratch)
        with scratch_folder(scratch) as folder:
            path = folder / f"latents{PACKED_SUFFIX}"
            with whole_file(path, on_disk=False) as file:
                write_packed(latents, len(rows), self._shape, file)
            # It stays readable while it is open, and is gone with this process however that ends.
            self._sources.append(PackedLatents(path, self._shape))


class PackedLatents:
    """The .npy file of latents [N, C, h, w] at `path`, of which rows are read by index.

    InputError if it is missing, is cut short, or holds something else. What is in it is left to the system's page
    cache rather than mapped into memory: a map of it would count as this process's, and a file cut short meanwhile
    would end the process.
    """

    def __init__(self, path: Path, shape: Shape):
        self.path = path
        array = _mapped(path)
        if array.dtype.kind != "f" or array.shape[1:] != tuple(shape) or not array.flags.c_contiguous:
            raise InputError(
                f"latents {path} have shape {list(array.shape)} {array.dtype.name}, the model takes "
                f"{['N', *shape]} float32: encode the layouts with this config's autoencoder".replace("'", "")
            )
        self._length, self._shape, self._dtype, self._offset = len(array), array.shape[1:], array.dtype, array.offset
        self._file = path.open("rb", buffering=0)
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Latents [B, C, h, w] at the indices `rows` [B]."""
        latents = np.empty((len(rows), *self._shape), self._dtype)
        for latent, row in zip(latents, rows.tolist(), strict=True):
            start = self._offset + row * latent.nbytes
            if os.preadv(self._file.fileno(), [latent.data.cast("B")], start) != latent.nbytes:
                raise InputError(f"latents {self.path} were cut short while they were read: encode the layouts again")
        return latents


def _mapped(path: Path) -> np.memmap:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise InputError(f"latents {path} do not exist: give the path of an existing file") from None
    except OSError as error:
        raise InputError(f"latents {path} cannot be read ({error.strerror}): replace the file") from None
    except (ValueError, TypeError, OverflowError, tokenize.TokenError):
        raise InputError(f"latents {path} are damaged, cut short or no .npy file: encode the layouts again") from None


def write_packed(latents: Iterable[np.ndarray], count: int, shape: Shape, file: IO[bytes]) -> None:
    """Write `count` latents, given singly or several together, as one .npy file [count, C, h, w] float32."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, header)
    for some in latents:
        file.write(np.ascontiguousarray(some, "<f4"))


def read_latent(path: str | Path, shape: Shape) -> Tensor:
    """Latent [C, h, w] float32 of the torch file at `path`, stored as [C, h, w] or [1, C, h, w]."""
    latent = load_tensors(path, "latent")
    if not isinstance(latent, Tensor):
        raise InputError(f"latent {path} holds a {type(latent).__name__}, not a tensor: encode the layouts again")
    if latent.dim() == 4 and len(latent) == 1:
        latent = latent[0]
    if tuple(latent.shape) != tuple(shape):
        raise InputError(
            f"latent {path} has shape {list(latent.shape)}, the model takes {list(shape)}: "
            "encode the layouts with this config's autoencoder"
        )
    if not torch.isfinite(latent).all():
        raise InputError(f"latent {path} holds values that are not finite: encode the layouts again")
    # A file may hold the storage of the whole batch the latent was cut from.
    return latent.float().clone()


def _read_single(rows: pd.DataFrame, column: str, shape: Shape) -> Iterator[np.ndarray]:
    """The latent of each row from its file; InputError names the row and path of a bad one."""
    bar = tqdm(rows[[column, "manifest_row"]].itertuples(index=False), "reading latents", len(rows), disable=None)
    for path, manifest_row in bar:
        try:
            yield read_latent(path, shape).numpy()
        except InputError as error:
            raise InputError(f"manifest row {manifest_row + 1}: {error}") from None
