"""The latents of a manifest's rows on disk: packed in .npy files, or one file each."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from core.inputs.flags import is_empty_cell, number
from core.inputs.numpy_files import PACKED_SUFFIX, ConversionLog, NumpyFile, is_packed
from core.inputs.tensor_files import load_tensors
from core.runtime.errors import InputError
from core.runtime.files import atomic_write, require_writable
from core.runtime.scratch import scratch_folder

# Manifest column: the row of a layout's latent in its packed file, counted from 0.
ROW_COLUMN = "latent_row"

# Most packed files that are kept open; the latents of more files are copied into one.
_OPEN_FILES = 64

# Most bytes of latents from single files that are held in memory; more are packed and read from disk.
HELD_BYTES = 2**28

# Latents per read while all of them are copied to a device.
_HOLDING = 4096

Shape = tuple[int, int, int]


class Latents:
    """The latents of manifest rows, read on demand.

    A path that ends in `.npy` is a packed file [N, C, h, w], in which `latent_row` is the row, or a file of a single
    latent. Any other path is a torch file of one latent. Single files, and packed ones if there are many, are read at
    once: into memory, or beyond `HELD_BYTES` into a temporary packed file below `scratch`. Integers become float32.
    Raises InputError for latents that are missing, damaged, not real numbers or of another shape.
    """

    def __init__(self, rows: pd.DataFrame, column: str, shape: Shape, scratch: Path):
        self._shape = shape
        self._manifest_rows = rows["manifest_row"].to_numpy()
        self._paths = rows[column].to_numpy(object)
        numbers = rows[ROW_COLUMN] if ROW_COLUMN in rows.columns else pd.Series(np.nan, rows.index)
        self._cells = numbers.to_numpy(object)
        self._numbers = np.array([_row_number(cell) for cell in self._cells], float)
        self._sources: list[np.ndarray | PackedLatents] = []
        self._held: Tensor | None = None
        self._conversions = ConversionLog()
        # For each row: the index of its source, and its row there.
        self._source = np.zeros(len(rows), np.int32)
        self._row = np.zeros(len(rows), np.int64)
        packed = np.array([is_packed(path) for path in self._paths], bool)
        if pd.unique(self._paths[packed]).size > _OPEN_FILES:
            packed[:] = False
        for positions in _by_path(self._paths, np.flatnonzero(packed)):
            latents = self._open(positions[0])
            self._check_numbers(latents, positions)
            self._source[positions], self._row[positions] = len(self._sources), self._numbers[positions]
            self._sources.append(latents)
        if not packed.all():
            self._add_single(np.flatnonzero(~packed), scratch)

    def __len__(self) -> int:
        return len(self._row)

    def hold(self, device: torch.device, room: int) -> None:
        """Copy every latent to the memory of `device`, unless together they take more than `room` bytes.

        `batch` then returns latents on that device. Raises InputError, which names it, for a latent that is not finite.
        """
        if len(self) * int(np.prod(self._shape)) * 4 > room:
            return
        held = torch.empty((len(self), *self._shape), device=device)
        for indices in torch.split(torch.arange(len(self)), _HOLDING):
            held[indices[0] : indices[-1] + 1] = self._read(indices)
        self._held, self._sources = held, []

    def batch(self, indices: Tensor) -> Tensor:
        """Latents [B, C, h, w] float32 of the rows `indices`, on the CPU unless `hold` copied them to a device.

        Raises InputError, which names it, for a latent that is not finite.
        """
        return self._read(indices) if self._held is None else self._held[indices.to(self._held.device)]

    def _read(self, indices: Tensor) -> Tensor:
        positions = indices.numpy()
        latents = np.empty((len(positions), *self._shape), np.float32)
        for order, source in enumerate(self._sources):
            here = np.flatnonzero(self._source[positions] == order)
            if len(here):
                latents[here] = source[self._row[positions[here]]]
        finite = np.isfinite(latents).all(axis=(1, 2, 3))
        if not finite.all():
            bad = positions[~finite][0]
            row = f", row {self._numbers[bad]:g}," if is_packed(self._paths[bad]) else ""
            raise InputError(
                f"manifest row {self._manifest_rows[bad] + 1}: latent {self._paths[bad]}{row} holds values that are "
                "not finite, or beyond float32: encode the layouts again"
            )
        return torch.from_numpy(latents)

    def _open(self, position: int) -> "PackedLatents":
        try:
            return PackedLatents(Path(self._paths[position]), self._shape, self._conversions)
        except InputError as error:
            raise InputError(f"manifest row {self._manifest_rows[position] + 1}: {error}") from None

    def _check_numbers(self, latents: "PackedLatents", positions: np.ndarray) -> None:
        """InputError if the file lacks the row of one of `positions`. A file of one latent needs no row number."""
        numbers = self._numbers[positions]
        if latents.single:
            self._numbers[positions] = numbers = np.where(np.isnan(numbers), 0, numbers)
        there = (numbers >= 0) & (numbers < len(latents)) & (numbers == np.floor(numbers))
        if not there.all():
            cell = self._cells[positions][~there][0]
            problem = "is not given" if is_empty_cell(cell) else f"is {cell if isinstance(cell, str) else f'{cell:g}'}"
            hold = f"have rows 0 to {len(latents) - 1}" if len(latents) else "hold none"
            raise InputError(
                f"manifest row {self._manifest_rows[positions][~there][0] + 1}: {ROW_COLUMN} {problem} and latents "
                f"{latents.path} {hold}: correct the manifest or encode the layouts again"
            )

    def _add_single(self, positions: np.ndarray, scratch: Path) -> None:
        """Add a source that holds the latents of the rows at `positions`, in memory or in a temporary packed file."""
        latents = self._read_single(positions)
        self._source[positions], self._row[positions] = len(self._sources), np.arange(len(positions))
        if len(positions) * np.prod(self._shape) * 4 <= HELD_BYTES:
            held = np.empty((len(positions), *self._shape), np.float32)
            for position, latent in enumerate(latents):
                held[position] = latent
            self._sources.append(held)
            return
        require_writable(scratch)
        with scratch_folder(scratch) as folder:
            path = folder / f"latents{PACKED_SUFFIX}"
            with atomic_write(path, on_disk=False) as file:
                write_packed(latents, len(positions), self._shape, file)
            # The folder is removed, but the open file stays readable until this process ends, however it ends.
            self._sources.append(PackedLatents(path, self._shape))

    def _read_single(self, positions: np.ndarray) -> Iterator[np.ndarray]:
        """The latent of each row in turn; InputError names the row and path of a bad one."""
        packed: PackedLatents | None = None
        for position in tqdm(positions, "reading latents", disable=None):
            path = self._paths[position]
            if is_packed(path):
                if packed is None or str(packed.path) != path:  # rows of one file are mostly consecutive
                    packed = self._open(position)
                self._check_numbers(packed, positions=np.array([position]))
                yield packed[self._numbers[[position]].astype(int)][0]
                continue
            try:
                yield read_latent(path, self._shape, self._conversions).numpy()
            except InputError as error:
                raise InputError(f"manifest row {self._manifest_rows[position] + 1}: {error}") from None


def _row_number(cell: object) -> float:
    """The number in a cell of `ROW_COLUMN`; NaN if it does not hold one."""
    found = None if isinstance(cell, bool | np.bool_) else number(cell)
    return np.nan if found is None else found


def _by_path(paths: np.ndarray, positions: np.ndarray) -> list[np.ndarray]:
    """`positions` in groups of equal `paths`."""
    codes, _ = pd.factorize(paths[positions])
    order = np.argsort(codes, kind="stable")
    return np.split(positions[order], np.flatnonzero(np.diff(codes[order])) + 1) if len(positions) else []


class PackedLatents:
    """The .npy file at `path` of latents [N, C, h, w], or of a single one [C, h, w], read by index.

    Raises InputError if the file is missing, truncated, or holds something else.
    """

    def __init__(self, path: Path, shape: Shape, conversions: ConversionLog | None = None):
        self.path, self._shape = path, shape
        self._file = NumpyFile(path)
        there = self._file.shape if len(self._file.shape) != len(shape) else (1, *self._file.shape)
        if there[1:] != tuple(shape):
            raise InputError(
                f"latents {path} have shape {list(self._file.shape)} {self._file.dtype.name}, the model takes "
                f"[N, {', '.join(map(str, shape))}] float32: encode the layouts with this config's autoencoder"
            )
        if self._file.dtype.kind != "f":
            (conversions or ConversionLog()).note(self._file.dtype.name, f"latents {path}")
        self._length = there[0]

    def __len__(self) -> int:
        return self._length

    @property
    def single(self) -> bool:
        """Whether the file holds one latent."""
        return self._length == 1

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Latents [B, C, h, w] float32 at the indices `rows` [B]."""
        return self._file.read(rows.tolist(), self._shape)


def write_packed(latents: Iterable[np.ndarray], count: int, shape: Shape, file: IO[bytes]) -> None:
    """Write `count` latents as one .npy file [count, C, h, w] float32; each array holds one latent or several."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, header)
    for some in latents:
        file.write(np.ascontiguousarray(some, "<f4").data)


def read_latent(path: str | Path, shape: Shape, conversions: ConversionLog | None = None) -> Tensor:
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
    # A copy: the file may hold the storage of the whole batch that the latent was cut from.
    conversions = conversions or ConversionLog()
    return as_latents(latent, f"latent {path}", "encode the layouts again", conversions).clone()


def as_latents(values: Tensor, name: str, remedy: str, conversions: ConversionLog) -> Tensor:
    """`values` as float32, integers included; InputError with `name` and `remedy` if one is not a finite number."""
    if values.dtype == torch.bool:
        raise InputError(f"{name} holds truth values, not numbers: {remedy}")
    if not values.is_floating_point():
        conversions.note(str(values.dtype).removeprefix("torch."), name)
    converted = values.float()
    if not torch.isfinite(converted).all():
        beyond = torch.isfinite(values).all() if values.is_floating_point() else False
        raise InputError(f"{name} holds values that are {'beyond float32' if beyond else 'not finite'}: {remedy}")
    return converted


def read_pool(path: Path, conversions: ConversionLog | None = None) -> Tensor:
    """Latents [N, C, h, w] float32 of a torch or .npy file that holds [N, C, h, w] or one latent [C, h, w]."""
    conversions = conversions or ConversionLog()
    if is_packed(path):
        file = NumpyFile(path)
        if len(file.shape) not in (3, 4):
            raise InputError(
                f"latents {path} have shape {list(file.shape)}, not [N, C, h, w] or [C, h, w]: generate them again"
            )
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if file.nbytes > memory:
            raise InputError(
                f"latents {path} take {file.nbytes >> 30} GiB, and this machine has {memory >> 30} GiB of memory: give "
                "fewer latents"
            )
        shape = file.shape if len(file.shape) == 4 else (1, *file.shape)
        value: object = torch.from_numpy(file.read(list(range(shape[0])), shape[1:])).reshape(file.shape)
        if file.dtype.kind != "f":
            conversions.note(file.dtype.name, f"latents {path}")
    else:
        value = load_tensors(path, "latents")
    if not isinstance(value, Tensor) or value.dim() not in (3, 4):
        raise InputError(f"latents {path} are not a [N, C, h, w] or [C, h, w] tensor: generate them again")
    return as_latents(value if value.dim() == 4 else value[None], f"latents {path}", "generate them again", conversions)
