"""Arrays of numbers in .npy files, read row by row and never with pickle."""

import logging
import os
import tokenize
import weakref
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from core.inputs.file_kinds import not_it
from core.runtime.errors import InputError
from core.runtime.files import open_input

log = logging.getLogger(__name__)

PACKED_SUFFIX = ".npy"


def is_packed(path: str | Path) -> bool:
    """Whether the name of the file at `path` ends in .npy."""
    return str(path).lower().endswith(PACKED_SUFFIX)


class NumpyFile:
    """The array of numbers in the .npy file at `path`: its `shape`, `dtype`, and rows along the first axis by index.

    The file is read, not mapped into memory: mapped pages would count as this process's memory, and the process would
    be killed if the file were truncated. Errors begin with `what` and the path. Raises InputError if the file is
    missing, truncated, not a .npy file, or holds other values than real numbers.
    """

    def __init__(self, path: Path, what: str = "latents"):
        self.path, self._name = path, f"{what} {path}"
        self._file = open_input(path, what)
        self._close = weakref.finalize(self, self._file.close)
        try:
            self.shape, fortran, self.dtype = _header(self._file)
        except (ValueError, TypeError, OverflowError, KeyError, RecursionError, MemoryError, tokenize.TokenError):
            raise self._damaged() from None
        except OSError as error:
            raise InputError(f"{self._name} cannot be read ({error.strerror}): replace the file") from None
        if not self.shape or any(type(length) is not int or length < 1 for length in self.shape):
            raise InputError(f"{self._name} have shape {list(self.shape)}: write an array [N, C, h, w]")
        if self.dtype.kind not in "fiu":
            raise InputError(f"{self._name} hold {_kind(self.dtype)}, not real numbers: write an array of float32")
        if fortran and len(self.shape) > 1:
            raise InputError(f"{self._name} is stored column by column: write it with numpy.ascontiguousarray")
        self._offset = self._file.tell()
        if self._offset + self.nbytes > os.fstat(self._file.fileno()).st_size:
            raise self._damaged()

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        # In Python's integers, since a header may claim any number of rows.
        count = 1
        for length in self.shape:
            count *= length
        return count * self.dtype.itemsize

    def close(self) -> None:
        """Close the file now; otherwise it is closed when this object is deleted."""
        self._close()

    def read(self, rows: list[int], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Rows `rows` of the array viewed as [N, *shape], as float32 [B, *shape]; InputError if the file was truncated.

        Values beyond float32 become infinite.
        """
        found = np.empty((len(rows), *shape), self.dtype)
        for row, values in zip(rows, found, strict=True):
            start = self._offset + row * values.nbytes
            if os.preadv(self._file.fileno(), [values.data.cast("B")], start) != values.nbytes:
                raise InputError(f"{self._name} were truncated while they were read: encode the layouts again")
        with np.errstate(over="ignore"):
            return found.astype(np.float32, copy=False)

    def _damaged(self) -> InputError:
        problem, remedy = f"{self._name} are damaged, truncated or not a .npy file", "encode the layouts again"
        is_npy = os.pread(self._file.fileno(), len(np.lib.format.MAGIC_PREFIX), 0) == np.lib.format.MAGIC_PREFIX
        return InputError(f"{problem}: {remedy}") if is_npy else not_it(self._file, problem, remedy)


class ConversionLog:
    """Logs that numbers of another kind are read as float32: once for each kind, as thousands of files may have it."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def note(self, kind: str, name: str) -> None:
        """The file called `name` has numbers of this kind, such as int64."""
        if kind not in self._logged:
            self._logged.add(kind)
            log.warning("%s: %s numbers, which are read as float32 of the same value", name, kind)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError("only arrays with field names have this version")
    return readers[version](file)


def _kind(dtype: np.dtype[Any]) -> str:
    return {"O": "Python objects", "c": "complex numbers", "b": "truth values"}.get(
        dtype.kind, f"values of type {dtype.name}"
    )
