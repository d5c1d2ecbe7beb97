"""Arrays of numbers in .npy files, read by row and never through a pickle."""

import logging
import os
import tokenize
import weakref
from pathlib import Path

import numpy as np

from core.inputs.file_kinds import not_it
from core.runtime.errors import InputError
from core.runtime.files import open_input

log = logging.getLogger(__name__)

PACKED_SUFFIX = ".npy"


def is_packed(path: str | Path) -> bool:
    """Whether the file at `path` is a .npy file by its name."""
    return str(path).lower().endswith(PACKED_SUFFIX)


class NumpyFile:
    """The array of numbers in the .npy file at `path`: its `shape`, `dtype`, and rows along the first axis by index.

    What is in it is left to the system's page cache rather than mapped into memory: a map of it would count as this
    process's, and a file cut short meanwhile would end the process. `what` it is stands before its path in errors.
    Raises InputError if it is missing, is cut short, is no .npy file, or holds anything but real numbers.
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
        # Python's integers: a header may claim any number of rows.
        count = 1
        for length in self.shape:
            count *= length
        return count * self.dtype.itemsize

    def close(self) -> None:
        """Give the file back now, not when this object goes."""
        self._close()

    def read(self, rows: list[int], shape: tuple[int, ...]) -> np.ndarray:
        """float32 [B, *shape] at the indices `rows` of the array, seen as [N, *shape]; InputError if it was cut short.

        What float32 cannot hold becomes infinite.
        """
        found = np.empty((len(rows), *shape), self.dtype)
        for row, values in zip(rows, found, strict=True):
            start = self._offset + row * values.nbytes
            if os.preadv(self._file.fileno(), [values.data.cast("B")], start) != values.nbytes:
                raise InputError(f"{self._name} were cut short while they were read: encode the layouts again")
        with np.errstate(over="ignore"):
            return found.astype(np.float32, copy=False)

    def _damaged(self) -> InputError:
        said, remedy = f"{self._name} are damaged, cut short or no .npy file", "encode the layouts again"
        begun = os.pread(self._file.fileno(), len(np.lib.format.MAGIC_PREFIX), 0) == np.lib.format.MAGIC_PREFIX
        return InputError(f"{said}: {remedy}") if begun else not_it(self._file, said, remedy)


_said_of: set[str] = set()


def say_converted(kind: str, name: str) -> None:
    """Log, once a process and kind of number, that integers are read as float32."""
    if kind not in _said_of:
        _said_of.add(kind)
        log.warning("%s: %s numbers, which are read as float32 of the same value", name, kind)


def _header(file: object) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError("a version that only arrays with field names have")
    return readers[version](file)


def _kind(dtype: np.dtype) -> str:
    return {"O": "Python objects", "c": "complex numbers", "b": "truth values"}.get(
        dtype.kind, f"values of type {dtype.name}"
    )
