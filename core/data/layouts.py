"""Layout pictures of a manifest, as tensors at the working size."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from core.data.layout_colours import POOLED, SINGLE, Colours, count_colours, fault_of
from core.data.palette import Palette
from core.data.picture_files import decode_picture, read_picture
from core.data.variants import variant
from core.runtime.errors import InputError
from core.runtime.files import open_input

# Bytes of pictures that are kept in memory; the rest are read from their files each time.
CACHE_BYTES = 2 * 2**30

# Pictures whose colours are checked together before any work: `_SAMPLE` of them, spread over the rows; fewer once they
# have `_SAMPLED_PIXELS` pixels together, but at least `_FEWEST`.
_SAMPLE, _SAMPLED_PIXELS, _FEWEST = 32, 2**24, 4

_CPU = torch.device("cpu")

# A cell is wall if a strip of wall this thick covers it: half the thinnest wall, since a wall may fall on two cells.
_WALL_PIXELS = 2.5


class Pictures(NamedTuple):
    """A batch of layouts: `rgb` float [B, 3, H, W] in [-1, 1] and `classes` long [B, H, W], 255 where unlabelled."""

    rgb: Tensor
    classes: Tensor


class LayoutPictures:
    """The pictures of manifest rows at the working size. Each is read on first use.

    Up to `cache_bytes` of them are kept in memory. Raises InputError, which names the row, if a picture is missing or
    if a sample of the pictures is not in the palette's colours.
    """

    def __init__(self, rows: pd.DataFrame, column: str, size: int, palette: Palette, cache_bytes: int = CACHE_BYTES):
        self._paths = rows[column].tolist()
        self._manifest_rows = rows["manifest_row"].tolist()
        self._size, self._palette = size, palette
        self._cache: dict[int, np.ndarray] = {}
        # One block for all cached pictures; its unused pages take no memory. Allocated one by one, between the large
        # arrays that reading needs, pictures would take much more memory than they fill.
        self._free = np.empty(min(cache_bytes, 3 * size * size * len(rows)), np.uint8)
        for path, row in zip(self._paths, self._manifest_rows, strict=True):
            if not os.path.isfile(path):  # checked now, not in the middle of an epoch
                raise _missing_picture(path, row)
        self._require_palette()

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> np.ndarray:
        """uint8 RGB [size, size, 3] of row `index`, from its file; InputError names row and path of a bad picture."""
        try:
            return read_layout(self._paths[index], self._size, self._palette)
        except InputError as error:
            raise self._of_row(index, error) from None

    def _require_palette(self) -> None:
        """InputError if a sample of the pictures, pooled or one of them alone, is not in the palette's colours."""
        if not len(self):
            return
        colours: dict[int, Colours] = {}
        drawn = np.random.default_rng(0).permutation(len(self))[:_SAMPLE]
        for index in dict.fromkeys([0, *drawn.tolist()]):
            if len(colours) >= _FEWEST and sum(found.pixels for found in colours.values()) >= _SAMPLED_PIXELS:
                break
            try:
                colours[index] = count_colours(decode_picture(self._paths[index], self._palette), self._palette)
            except InputError as error:
                raise self._of_row(index, error) from None
        found = sorted(colours)
        fault = fault_of([colours[index] for index in found], POOLED, self._palette)
        worst = max(found, key=lambda index: colours[index].unlabelled / colours[index].pixels)
        if fault is not None:
            raise self._of_row(worst, f"picture {self._paths[worst]}, and {len(found)} looked at together: {fault}")
        for index in found:
            fault = fault_of([colours[index]], SINGLE, self._palette)
            if fault is not None:
                raise self._of_row(index, f"picture {self._paths[index]}: {fault}")

    def _of_row(self, index: int, error: InputError | str) -> InputError:
        return InputError(f"manifest row {self._manifest_rows[index] + 1}: {error}")

    def rgb(self, index: int) -> np.ndarray:
        """uint8 RGB [size, size, 3] of row `index`, from memory if it is cached."""
        return as_rgb(self._compact(index), self._palette)

    def batch(self, indices: list[int], variants: list[int] | None = None, device: torch.device = _CPU) -> Pictures:
        """Pictures of the rows `indices` on `device`, each in its variant (0..7) if `variants` are given."""
        compact = [self._compact(index) for index in indices]
        if variants is not None:
            compact = [variant(picture, index) for picture, index in zip(compact, variants, strict=True)]
        if all(picture.ndim == 2 for picture in compact):
            return pictures_from_classes(np.stack(compact), self._palette, device)
        return pictures_from_rgb(
            np.stack([as_rgb(picture, self._palette) for picture in compact]), self._palette, device
        )

    def _compact(self, index: int) -> np.ndarray:
        picture = self._cache.get(index)
        if picture is None:
            picture = as_classes(self.read(index), self._palette)
            if picture.nbytes <= len(self._free):
                kept, self._free = np.split(self._free, [picture.nbytes])
                self._cache[index] = kept.reshape(picture.shape)
                self._cache[index][:] = picture
        return picture


def _missing_picture(path: str, row: int) -> InputError:
    """The error for a path that is not a regular file."""
    try:
        # Its error says why: a folder, a device, no permission, a name that is too long.
        open_input(path, "picture").close()
        cause = f"picture {path} could not be read a moment ago: run the command again"
    except InputError as error:
        cause = str(error)
    if "does not exist" in cause:
        cause = f"picture {path} does not exist: correct the manifest or set dataset.path_remap"
    return InputError(f"manifest row {row + 1}: {cause}")


def as_classes(rgb: np.ndarray, palette: Palette) -> np.ndarray:
    """uint8 class map [H, W] of a picture [H, W, 3] of exact palette colours, a third of its size; else the picture."""
    classes = palette.classes_from_rgb(rgb)
    exact = classes.max() < len(palette) and np.array_equal(palette.rgb_from_classes(classes), rgb)
    return classes if exact else rgb


def as_rgb(picture: np.ndarray, palette: Palette) -> np.ndarray:
    """uint8 RGB [H, W, 3] of a result of `as_classes`."""
    return palette.rgb_from_classes(picture) if picture.ndim == 2 else picture


def pictures_from_rgb(rgb: np.ndarray, palette: Palette, device: torch.device = _CPU) -> Pictures:
    """Network inputs and targets of uint8 RGB [B, H, W, 3], converted on `device` so that only bytes are moved."""
    rgb = np.ascontiguousarray(rgb)  # rotated pictures are views
    targets = torch.from_numpy(palette.classes_from_rgb(rgb)).to(device).long()
    return Pictures(scaled(torch.from_numpy(rgb).to(device)), targets)


def pictures_from_classes(classes: np.ndarray, palette: Palette, device: torch.device = _CPU) -> Pictures:
    """Network inputs and targets of class maps, uint8 [B, H, W], in the palette's colours on `device`."""
    targets = torch.from_numpy(np.ascontiguousarray(classes)).to(device).long()
    colors = scaled(torch.tensor(palette.rgb)[:, None, None].to(device))[..., 0, 0]
    return Pictures(torch.stack([channel[targets] for channel in colors.T], dim=1), targets)


def scaled(rgb: Tensor) -> Tensor:
    """Network input [B, 3, H, W] in [-1, 1] of uint8 RGB [B, H, W, 3]."""
    return rgb.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def read_layout(path: str | Path, size: int, palette: Palette) -> np.ndarray:
    """uint8 RGB [size, size, 3] of the picture at `path`; InputError as `read_picture` raises it."""
    return resize_layout(read_picture(path, palette), size, palette)


def resize_layout(rgb: np.ndarray, size: int, palette: Palette) -> np.ndarray:
    """Palette picture at `size`: each cell takes the class that covers it. Walls win, so that they do not break.

    Averaged colours would not be in the palette, and sampled pixels would break thin walls.
    """
    height, width = rgb.shape[:2]
    if (height, width) == (size, size):
        return rgb
    factor = -(-max(height, width) // size)
    if (height, width) != (factor * size, factor * size):
        enlarged = Image.fromarray(rgb).resize((factor * size, factor * size), Image.Resampling.NEAREST)
        rgb = np.asarray(enlarged)
    shares = _class_shares(palette.classes_from_rgb(rgb), size, len(palette))
    voted = _vote(shares[..., : len(palette)], min(0.5, _WALL_PIXELS / factor), palette)
    picture = palette.rgb_from_classes(voted)
    unlabelled = shares[..., len(palette)] > 0.5
    picture[unlabelled] = rgb[factor // 2 :: factor, factor // 2 :: factor][unlabelled]
    return picture


def _class_shares(classes: np.ndarray, size: int, num_classes: int) -> np.ndarray:
    """Share of each cell that each class covers, [size, size, classes + 1]; unlabelled is last."""
    cell = np.arange(len(classes)) * size // len(classes)
    kinds = num_classes + 1
    slots = (cell[:, None] * size + cell) * kinds + np.minimum(classes, num_classes)
    counts = np.bincount(slots.ravel(), minlength=size * size * kinds).reshape(size, size, kinds)
    shares: np.ndarray = counts / counts[0, 0].sum()
    return shares


def _vote(shares: np.ndarray, wall_share: float, palette: Palette) -> np.ndarray:
    """Class of each cell, [...], by the shares [..., classes] of the cell that the classes cover."""
    objects = shares.copy()
    objects[..., [palette.wall, palette.background]] = 0
    voted: np.ndarray = np.full(shares.shape[:-1], palette.background)
    furnished = objects.sum(-1) >= 0.4
    voted[furnished] = objects.argmax(-1)[furnished]
    voted[shares[..., palette.wall] >= wall_share] = palette.wall
    return voted
