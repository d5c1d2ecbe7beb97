"""Reading and writing files of torch.save: plain values and dense real tensors, never larger than the file."""

import os
import pickle
import re
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from core.inputs.file_kinds import not_it
from core.runtime.errors import InputError
from core.runtime.files import atomic_write, open_input

# What torch's restricted unpickler raises on bytes that are not a pickle.
_UNPICKLING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)

# Types that can be converted to float32. float8 and float4 need a scale that the file does not have.
_REAL = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool} | {
    getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)
}
# Tensors of a file may share storage, as tied weights do, or repeat values. Together they may have this many times the
# bytes of the file, or this many bytes.
_SHARED, _SMALL = 4, 2**20

# For numpy scalars: byte orders, and the type codes of booleans, integers and floats.
_ORDERS, _NUMBER = ("<", ">", "|"), re.compile(r"b1|[iuf][1248]")

# A class or function that torch's unpickler refuses, as its error names it.
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


class _NumpyType:
    """Replaces `numpy.dtype` while a file is read, because `numpy.dtype` would accept any state from the file."""

    def __init__(self, code: str, *_: object):
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _numpy_scalar(kind: _NumpyType, data: bytes) -> bool | int | float:
    """The plain value of a numpy scalar with the bytes `data`; torch's own error if it is not a number."""
    if not (isinstance(kind, _NumpyType) and kind.order in _ORDERS and _NUMBER.fullmatch(str(kind.code))):
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL numpy.{getattr(kind, 'code', 'generic')}")
    value: bool | int | float = np.frombuffer(data, f"{kind.order}{kind.code}", count=1)[0].item()
    return value


# For the whole process, because files are read in threads, which would share the list of a context manager too. It
# affects `weights_only` reading only, and allows only the class and the function above, which make plain numbers.
_ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_NumpyType, "numpy.dtype"),
    (_numpy_scalar, "numpy._core.multiarray.scalar"),
    (_numpy_scalar, "numpy.core.multiarray.scalar"),
]
torch.serialization.add_safe_globals(_ALLOWED)


def require_uncompressed(file: IO[bytes], size: int, name: str) -> None:
    """InputError if the file of `size` bytes is a compressed zip archive, which torch.save never makes."""
    start = file.read(4)
    file.seek(0)
    if start != b"PK\x03\x04":
        return
    try:
        entries = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError):
        return  # damaged: torch.load will raise
    finally:
        file.seek(0)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(e.file_size for e in entries) > size:
        raise InputError(f"{name} is a compressed archive, which torch.save never makes: save it again with torch.save")


def plain_tensors(value: Any, size: int, name: str) -> Any:
    """`value` with every tensor detached and with its own storage. Lists and dictionaries are changed in place.

    Raises InputError, which begins with `name`, for a tensor that is not dense and real, and if tensors are larger than
    a file of `size` bytes justifies.
    """
    try:
        return _PlainTensors(name, size).plain(value)
    except RecursionError:
        raise InputError(f"{name} is refused: its values are nested too deeply: replace it") from None


def refused_global(message: str) -> str | None:
    """The class or function that torch's unpickler refused, from its error message; None if it had another cause."""
    found = _GLOBAL.search(message)
    return found.group(1) if found else None


class _PlainTensors:
    """Converts the values of one file and counts the bytes of its tensors."""

    def __init__(self, name: str, size: int):
        self._name, self._size = name, size
        self._held = 0
        self._storages: set[int] = set()
        self._seen: set[int] = set()
        self._tuples: dict[int, tuple[tuple[Any, ...], tuple[Any, ...]]] = {}

    def plain(self, value: Any, *at: object) -> Any:
        """`value`, which is found at these keys in the file."""
        if isinstance(value, Tensor):
            return self._tensor(value, ".".join(map(str, at)))
        if isinstance(value, dict | list):
            if id(value) not in self._seen:  # a list may contain itself
                self._seen.add(id(value))
                for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
                    value[key] = self.plain(inner, *at, key)
        elif isinstance(value, tuple):
            # Each tuple once, since tuples may share parts. It is kept, so that no other object gets its id.
            if id(value) not in self._tuples:
                made = tuple(self.plain(inner, *at, index) for index, inner in enumerate(value))
                self._tuples[id(value)] = value, made
            return self._tuples[id(value)][1]
        return value

    def _tensor(self, tensor: Tensor, at: str) -> Tensor:
        kind, where = _odd_kind(tensor), f" ({at})" if at else ""
        if kind is not None:
            raise InputError(
                f"{self._name} is refused: it holds a {kind} tensor{where}, only dense tensors of real numbers are "
                "read: save it as one"
            )
        bytes_, storage = tensor.numel() * tensor.element_size(), tensor.untyped_storage()
        self._held += bytes_
        if storage.nbytes() > self._size or self._held > max(_SHARED * self._size, _SMALL):
            raise InputError(
                f"{self._name} is refused: it holds a tensor of shape {list(tensor.shape)}{where}, more than its "
                f"{self._size} bytes can hold: save a copy of the tensor (.contiguous())"
            )
        tensor = tensor.detach().resolve_neg()
        # Tensors that share storage would change together; one that repeats values could not be changed.
        if bytes_ and (storage.data_ptr() in self._storages or bytes_ > storage.nbytes()):
            return tensor.clone(memory_format=torch.contiguous_format)
        self._storages.add(storage.data_ptr())
        return tensor


def _odd_kind(tensor: Tensor) -> str | None:
    """Why a tensor is not a dense real tensor on the CPU, in one word; None if it is one."""
    if tensor.is_nested:
        return "nested"
    if tensor.is_quantized:
        return "quantized"
    if tensor.layout != torch.strided:
        return str(tensor.layout).removeprefix("torch.").replace("_", " ")
    if tensor.device.type != "cpu":
        return f"{tensor.device.type} (empty)" if tensor.is_meta else tensor.device.type
    if tensor.dtype not in _REAL:
        return str(tensor.dtype).removeprefix("torch.")
    return None


def save_tensors(value: Any, path: Path, on_disk: bool = True) -> None:
    """Write `value` with torch.save, atomically. Equal values give equal bytes."""
    # To a file object, because torch.save writes the name of a path into the file.
    with atomic_write(path, on_disk) as file:
        try:
            torch.save(_canonical(value), file)
        except RuntimeError as error:
            # torch's zip writer hides the error of a full disk behind its own.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_tensors(path: str | Path, what: str) -> object:
    """What `torch.save` wrote at `path`, if that is tensors and plain values. No code in the file is executed.

    Every tensor is dense and real, on the CPU, detached, with its own storage, and no larger than the file justifies.
    numpy scalars become plain numbers. InputError for all other files.
    """
    name = f"{what} {path}"
    with open_input(path, what) as file:
        size = os.fstat(file.fileno()).st_size
        require_uncompressed(file, size, name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about kinds of tensors that are refused below
                value = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            found = refused_global(str(error))
            if found is not None or "Weights only load failed" in str(error):
                problem = f"{name} is refused: it is not a file of plain tensors written by torch.save"
                if found:
                    raise InputError(f"{problem} (it holds {found}): replace it") from None
                raise not_it(file, problem, "replace it") from None
            raise not_it(file, f"{name} is damaged or not a torch file", "replace it") from None
        except OSError as error:
            raise InputError(f"{name} cannot be read ({error.strerror}): replace it") from None
        except MemoryError:
            raise InputError(
                f"{name} takes more memory than there is, or is damaged: free some, or replace it"
            ) from None
        except _UNPICKLING_ERRORS:
            raise not_it(file, f"{name} is damaged or not a torch file", "replace it") from None
    return plain_tensors(value, size, name)


def _canonical(value: Any) -> Any:
    """`value` rebuilt so that equal values pickle equally: pickle writes a repeated string object as a reference."""
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        return {_canonical(key): _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_canonical(inner) for inner in value)
    return value
