"""What kind of file was given instead of the expected one, recognised by its first bytes."""

import os
from typing import IO

from core.runtime.errors import InputError

# First bytes in lower case, the kind of file, and what to do.
_BEGINNINGS = (
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself with git lfs pull"),
    (b"<!doctype html", "a web page", "download the file itself"),
    (b"<html", "a web page", "download the file itself"),
    (b"\x89hdf", "an HDF5 file", "save each array with numpy.save"),
    (b"matlab 5.0", "a MATLAB file", "save each array with numpy.save"),
    (b"\x1f\x8b", "compressed by gzip", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it"),
    (b"\x89png", "a PNG picture", "give the intended file"),
    (b"\xff\xd8\xff", "a JPEG picture", "give the intended file"),
    (b"gif8", "a GIF picture", "save it as PNG"),
    (b"%pdf", "a PDF document", "save the picture in it as PNG"),
    (b"%!ps", "a PostScript document", "save the picture in it as PNG"),
)
# Number of first bytes that are looked at.
START_BYTES = 256


def kind_of_bytes(start: bytes) -> tuple[str, str | None] | None:
    """The kind of a file with the first `START_BYTES` bytes `start`, and what to do about it; None if unknown."""
    if not start:
        return "empty", None
    if not any(start):
        return "nothing but zeros at its start", None
    if start[:4] == b"PK\x03\x04" and b".npy" in start:
        return "an archive of numpy arrays (.npz)", "save the array with numpy.save"
    if start.startswith(b"\x93NUMPY"):
        return "a numpy array", "name it .npy"
    if is_safetensors(start):
        return "a safetensors file", "save the tensor with torch.save, or name a checkpoint .safetensors"
    folded = start.lower()
    return next(((kind, remedy) for begins, kind, remedy in _BEGINNINGS if folded.startswith(begins)), None)


def is_safetensors(start: bytes) -> bool:
    """Whether a file with these first bytes begins as safetensors do: the header's length, then JSON."""
    return start[8:9] == b"{" and start[4:8] == bytes(4)


def not_it(file: IO[bytes], message: str, remedy: str) -> InputError:
    """The error for a file of the wrong kind: `message`, the kind that it has if that is known, and a remedy."""
    found = kind_of_bytes(os.pread(file.fileno(), START_BYTES, 0))
    return InputError(
        f"{message}: {remedy}" if found is None else f"{message} (it is {found[0]}): {found[1] or remedy}"
    )
