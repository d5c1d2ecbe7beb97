"""Layout pictures and latents on disk, as tensors."""

import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from core.errors import InputError
from core.palette import BACKGROUND, COLORS, NUM_CLASSES, WALL, classes_from_rgb
from core.progress import bar

# Decoded pictures kept in memory; beyond it they are read again from their files.
CACHE_BYTES = 2 * 2**30

# A cell is wall from a strip this thick on: half the thinnest wall, which may fall on two cells.
_WALL_PIXELS = 2.5


# What torch's restricted unpickler raises on bytes that are no pickle.
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


class Pictures(NamedTuple):
    """Layouts as pictures: `rgb` float [B, 3, H, W] in [-1, 1], `classes` long [B, H, W], 255 unlabelled."""

    rgb: Tensor
    classes: Tensor


class LayoutPictures:
    """The pictures of manifest rows at the working size, read when first asked for; InputError if one is missing."""

    def __init__(self, rows: pd.DataFrame, column: str, size: int):
        self._paths = rows[column].tolist()
        self._manifest_rows = rows["manifest_row"].tolist()
        self._size = size
        self._cache: dict[int, np.ndarray] = {}
        self._capacity = CACHE_BYTES // (3 * size * size)
        for path, row in zip(self._paths, self._manifest_rows, strict=True):
            # Now, not in the middle of an epoch.
            if not Path(path).exists():
                raise InputError(
                    f"manifest row {row + 1}: picture {path} does not exist: mend the manifest or "
                    "set dataset.path_remap"
                )

    def __len__(self) -> int:
        return len(self._paths)

    def rgb(self, index: int) -> np.ndarray:
        """uint8 [size, size, 3] of row `index`; InputError names the row and path of a bad picture."""
        picture = self._cache.get(index)
        if picture is None:
            try:
                picture = read_layout(self._paths[index], self._size)
            except InputError as error:
                raise InputError(f"manifest row {self._manifest_rows[index] + 1}: {error}") from None
            if len(self._cache) < self._capacity:
                self._cache[index] = picture
        return picture

    def batch(self, indices: list[int]) -> Pictures:
        """Pictures of the rows `indices`."""
        return pictures_from_rgb(np.stack([self.rgb(index) for index in indices]))


def pictures_from_rgb(rgb: np.ndarray) -> Pictures:
    """Network inputs and targets of uint8 RGB [B, H, W, 3]."""
    classes = torch.from_numpy(classes_from_rgb(rgb)).long()
    scaled = torch.from_numpy(np.ascontiguousarray(rgb.transpose(0, 3, 1, 2))).float() / 127.5 - 1
    return Pictures(scaled, classes)


def read_layout(path: str | Path, size: int) -> np.ndarray:
    """uint8 RGB [size, size, 3] of the picture at `path`; InputError if it is missing, too large or no picture."""
    return resize_layout(read_picture(path), size)


def read_picture(path: str | Path) -> np.ndarray:
    """uint8 RGB [H, W, 3] of the picture at `path` as it is; InputError if it is missing, too large or no picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                # Squared: `resize_layout` works on a square that holds the picture.
                if max(image.size) ** 2 > Image.MAX_IMAGE_PIXELS:
                    raise InputError(f"picture {path} is {image.width}x{image.height}, too large: replace the file")
                rgb = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"picture {path} cannot be read ({error}): replace the file") from None
    return rgb


def resize_layout(rgb: np.ndarray, size: int) -> np.ndarray:
    """Palette picture at `size`: each cell takes the class that covers it, walls first so that they do not tear.

    Averaging colours would leave the palette, and taking single pixels would break thin walls.
    """
    height, width = rgb.shape[:2]
    if (height, width) == (size, size):
        return rgb
    factor = -(-max(height, width) // size)
    if (height, width) != (factor * size, factor * size):
        enlarged = Image.fromarray(rgb).resize((factor * size, factor * size), Image.Resampling.NEAREST)
        rgb = np.asarray(enlarged)
    shares = _class_shares(classes_from_rgb(rgb), size)
    picture = COLORS[_vote(shares[..., :NUM_CLASSES], wall_share=min(0.5, _WALL_PIXELS / factor))]
    unlabelled = shares[..., NUM_CLASSES] > 0.5
    picture[unlabelled] = rgb[factor // 2 :: factor, factor // 2 :: factor][unlabelled]
    return picture


def _class_shares(classes: np.ndarray, size: int) -> np.ndarray:
    """Share of each cell that every class covers, [size, size, classes + 1], unlabelled last."""
    cell = np.arange(len(classes)) * size // len(classes)
    kinds = NUM_CLASSES + 1
    slots = (cell[:, None] * size + cell) * kinds + np.minimum(classes, NUM_CLASSES)
    counts = np.bincount(slots.ravel(), minlength=size * size * kinds).reshape(size, size, kinds)
    return counts / counts[0, 0].sum()


def _vote(shares: np.ndarray, wall_share: float) -> np.ndarray:
    """Class of each cell from the share of it that every class covers, [..., classes] -> [...]."""
    objects = shares.copy()
    objects[..., [WALL, BACKGROUND]] = 0
    voted = np.full(shares.shape[:-1], BACKGROUND)
    furnished = objects.sum(-1) >= 0.4
    voted[furnished] = objects.argmax(-1)[furnished]
    voted[shares[..., WALL] >= wall_share] = WALL
    return voted


def load_tensors(path: str | Path, what: str) -> object:
    """What `torch.save` wrote at `path`, tensors and plain values only; InputError otherwise, nothing executed."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist: give the path of an existing file") from None
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read ({error.strerror}): replace it") from None
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "Weights only load failed" in str(error):
            raise InputError(
                f"{what} {path} is refused: it is no file of plain tensors written by torch.save: replace it"
            ) from None
        raise InputError(f"{what} {path} is damaged or no torch file: replace it") from None
    except _UNPICKLING_ERRORS:
        raise InputError(f"{what} {path} is damaged or no torch file: replace it") from None


def read_latent(path: str | Path, shape: tuple[int, int, int]) -> Tensor:
    """Latent [C, h, w] float32 of the file at `path`, stored as [C, h, w] or [1, C, h, w]."""
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


def read_latents(rows: pd.DataFrame, column: str, shape: tuple[int, int, int]) -> Tensor:
    """Latents [N, C, h, w] of manifest rows; InputError names the row and path of a bad one."""
    latents = torch.empty(len(rows), *shape)
    named = rows[[column, "manifest_row"]].itertuples(index=False)
    for position, (path, manifest_row) in enumerate(bar(named, "reading latents", len(rows))):
        try:
            latents[position] = read_latent(path, shape)
        except InputError as error:
            raise InputError(f"manifest row {manifest_row + 1}: {error}") from None
    return latents
