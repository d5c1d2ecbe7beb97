"""What a file is, by the bytes it begins with, where it is not what was asked for."""

import os
from typing import IO

from core.runtime.errors import InputError

# How files begin, what they are, and what helps.
_BEGINNINGS = (
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself with git lfs pull"),
    (b"<!doctype html", "a web page", "download the file itself"),
    (b"<html", "a web page", "download the file itself"),
    (b"\x89hdf", "an HDF5 file", "save each array with numpy.save"),
    (b"matlab 5.0", "a MATLAB file", "save each array with numpy.save"),
    (b"\x1f\x8b", "compressed by gzip", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it"),
    (b"\x89png", "a PNG picture", "give the file that is meant"),
    (b"\xff\xd8\xff", "a JPEG picture", "give the file that is meant"),
    (b"gif8", "a GIF picture", "save it as PNG"),
    (b"%pdf", "a PDF document", "save the picture in it as PNG"),
    (b"%!ps", "a PostScript document", "save the picture in it as PNG"),
)
# Bytes that tell.
TELLING = 256


def kind_of_bytes(start: bytes) -> tuple[str, str | None] | None:
    """What a file that begins with `start`, its first `TELLING` bytes, is, and what helps, each None if unknown."""
    if not start:
        return "empty", None
    if not any(start):
        return "nothing but zeros at its start", None
    if start[:4] == b"PK\x03\x04" and b".npy" in start:
        return "an archive of numpy arrays (.npz)", "save the array with numpy.save"
    if start.startswith(b"\x93NUMPY"):
        return "a numpy array", "name it .npy"
    if start[8:9] == b"{" and start[4:8] == bytes(4):
        return "a safetensors file", "save the tensor with torch.save"
    folded = start.lower()
    return next(((kind, remedy) for begins, kind, remedy in _BEGINNINGS if folded.startswith(begins)), None)


def not_it(file: IO[bytes], message: str, remedy: str) -> InputError:
    """The error that `file` is not what was expected: `message`, what it is by its bytes if they tell, and a remedy."""
    found = kind_of_bytes(os.pread(file.fileno(), TELLING, 0))
    return InputError(
        f"{message}: {remedy}" if found is None else f"{message} (it is {found[0]}): {found[1] or remedy}"
    )
