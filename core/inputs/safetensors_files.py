"""Reading and writing safetensors files: tensors by name, and text about them in the header."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from core.inputs.file_kinds import START_BYTES, is_safetensors, not_it
from core.inputs.tensor_files import plain_tensors
from core.runtime.errors import InputError
from core.runtime.files import atomic_write, open_input

SUFFIX = ".safetensors"
# Bytes of the header's length, and the header's key for text.
_LENGTH, _TEXT = 8, "__metadata__"


class SafetensorsFile(NamedTuple):
    """Tensors by name, dense and real, on the CPU, each with its own storage; text by name."""

    tensors: dict[str, Tensor]
    text: dict[str, str]


def load_safetensors(path: str | Path, what: str) -> SafetensorsFile:
    """The content of the safetensors file at `path`; InputError for all other files, and for odd tensors."""
    name = f"{what} {path}"
    with open_input(path, what) as file:
        try:
            data = file.read()
            tensors = safetensors.torch.load(data)
        except OSError as error:
            raise InputError(f"{name} cannot be read ({error.strerror}): replace it") from None
        except MemoryError:
            raise InputError(f"{name} takes more memory than there is: free some") from None
        except (SafetensorError, LookupError, RuntimeError, TypeError, ValueError):
            if is_safetensors(os.pread(file.fileno(), START_BYTES, 0)):
                raise InputError(f"{name} is a damaged safetensors file: replace it") from None
            raise not_it(file, f"{name} is damaged or not a safetensors file", "replace it") from None
    # safetensors has checked the header: an object, whose text is by name.
    header = json.loads(data[_LENGTH : _LENGTH + int.from_bytes(data[:_LENGTH], "little")])
    return SafetensorsFile(plain_tensors(tensors, len(data), name), header.get(_TEXT) or {})


def save_safetensors(tensors: Mapping[str, Tensor], name: str, text: str, path: Path) -> None:
    """Write `tensors`, and `text` under one `name`, atomically. Equal values give equal bytes.

    More than one text would not: safetensors writes them in any order.
    """
    with atomic_write(path) as file:
        file.write(safetensors.torch.save({key: value.contiguous() for key, value in tensors.items()}, {name: text}))
