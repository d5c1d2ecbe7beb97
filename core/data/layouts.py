"""Layout pictures on disk, as tensors."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from core.data.layout_colours import POOLED, SINGLE, Colours, count_colours, fault_of
from core.data.palette import BACKGROUND, COLORS, NUM_CLASSES, WALL, classes_from_rgb, rgb_from_classes
from core.data.picture_files import decode_picture, read_picture
from core.data.variants import variant
from core.runtime.errors import InputError
from core.runtime.files import open_input

# Of pictures kept in memory; those beyond it are read again from their files.
CACHE_BYTES = 2 * 2**30

# Pictures whose colours are judged together before any work: so many, spread over the rows, or fewer that have so many
# pixels together, but some in any case.
_SAMPLE, _SAMPLED_PIXELS, _FEWEST = 32, 2**24, 4

_CPU = torch.device("cpu")

# A cell is wall from a strip this thick on: half the thinnest wall, which may fall on two cells.
_WALL_PIXELS = 2.5


class Pictures(NamedTuple):
    """Layouts as pictures: `rgb` float [B, 3, H, W] in [-1, 1], `classes` long [B, H, W], 255 unlabelled."""

    rgb: Tensor
    classes: Tensor


class LayoutPictures:
    """The pictures of manifest rows at the working size, read when first asked for.

    Up to `cache_bytes` of them are kept in memory. Raises InputError, which names the row, if a picture is missing or
    if the colours of those looked at are not the palette's.
    """

    def __init__(self, rows: pd.DataFrame, column: str, size: int, cache_bytes: int = CACHE_BYTES):
        self._paths = rows[column].tolist()
        self._manifest_rows = rows["manifest_row"].tolist()
        self._size = size
        self._cache: dict[int, np.ndarray] = {}
        # One block, of which what is used counts: pictures allocated one by one among the large arrays that reading
        # takes would keep much more memory than they fill.
        self._free = np.empty(min(cache_bytes, 3 * size * size * len(rows)), np.uint8)
        for path, row in zip(self._paths, self._manifest_rows, strict=True):
            # Now, not in the middle of an epoch.
            if not os.path.isfile(path):
                raise _no_file(path, row)
        self._require_palette()

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> np.ndarray:
        """uint8 [size, size, 3] of row `index`, from its file; InputError names the row and path of a bad picture."""
        try:
            return read_layout(self._paths[index], self._size)
        except InputError as error:
            raise self._of_row(index, error) from None

    def _require_palette(self) -> None:
        """InputError if a sample of the pictures, together or one of them alone, is not in the palette's colours."""
        if not len(self):
            return
        colours: dict[int, Colours] = {}
        drawn = np.random.default_rng(0).permutation(len(self))[:_SAMPLE]
        for index in dict.fromkeys([0, *drawn.tolist()]):
            if len(colours) >= _FEWEST and sum(found.pixels for found in colours.values()) >= _SAMPLED_PIXELS:
                break
            try:
                colours[index] = count_colours(decode_picture(self._paths[index]))
            except InputError as error:
                raise self._of_row(index, error) from None
        found = sorted(colours)
        fault = fault_of([colours[index] for index in found], POOLED)
        worst = max(found, key=lambda index: colours[index].unlabelled / colours[index].pixels)
        if fault is not None:
            raise self._of_row(worst, f"picture {self._paths[worst]}, and {len(found)} looked at together: {fault}")
        for index in found:
            fault = fault_of([colours[index]], SINGLE)
            if fault is not None:
                raise self._of_row(index, f"picture {self._paths[index]}: {fault}")

    def _of_row(self, index: int, error: InputError | str) -> InputError:
        return InputError(f"manifest row {self._manifest_rows[index] + 1}: {error}")

    def rgb(self, index: int) -> np.ndarray:
        """The same, from memory if it is there."""
        return as_rgb(self._compact(index))

    def batch(self, indices: list[int], variants: list[int] | None = None, device: torch.device = _CPU) -> Pictures:
        """Pictures of the rows `indices` on `device`, each in the one of its `variants` (0..7), if any are given."""
        compact = [self._compact(index) for index in indices]
        if variants is not None:
            compact = [variant(picture, index) for picture, index in zip(compact, variants, strict=True)]
        if all(picture.ndim == 2 for picture in compact):
            return pictures_from_classes(np.stack(compact), device)
        return pictures_from_rgb(np.stack([as_rgb(picture) for picture in compact]), device)

    def _compact(self, index: int) -> np.ndarray:
        picture = self._cache.get(index)
        if picture is None:
            picture = as_classes(self.read(index))
            if picture.nbytes <= len(self._free):
                kept, self._free = np.split(self._free, [picture.nbytes])
                self._cache[index] = kept.reshape(picture.shape)
                self._cache[index][:] = picture
        return picture


def _no_file(path: str, row: int) -> InputError:
    try:
        # It knows why: a folder, a device, no permission, a name that is too long.
        open_input(path, "picture").close()
        cause = f"picture {path} could not be read a moment ago: run the same command again"
    except InputError as error:
        cause = str(error)
    if "does not exist" in cause:
        cause = f"picture {path} does not exist: mend the manifest or set dataset.path_remap"
    return InputError(f"manifest row {row + 1}: {cause}")


def as_classes(rgb: np.ndarray) -> np.ndarray:
    """uint8 class map [H, W] of a picture [H, W, 3] of exact palette colours, a third of it; any other as it is."""
    classes = classes_from_rgb(rgb)
    exact = classes.max() < NUM_CLASSES and np.array_equal(rgb_from_classes(classes), rgb)
    return classes if exact else rgb


def as_rgb(picture: np.ndarray) -> np.ndarray:
    """uint8 RGB [H, W, 3] of what `as_classes` gave."""
    return rgb_from_classes(picture) if picture.ndim == 2 else picture


def pictures_from_rgb(rgb: np.ndarray, device: torch.device = _CPU) -> Pictures:
    """Network inputs and targets of uint8 RGB [B, H, W, 3], made on `device`: bytes are all that goes there."""
    rgb = np.ascontiguousarray(rgb)  # rotated ones are not
    targets = torch.from_numpy(classes_from_rgb(rgb)).to(device).long()
    return Pictures(scaled(torch.from_numpy(rgb).to(device)), targets)


def pictures_from_classes(classes: np.ndarray, device: torch.device = _CPU) -> Pictures:
    """The same of the palette pictures of class indices in 0..9, uint8 [B, H, W]."""
    targets = torch.from_numpy(np.ascontiguousarray(classes)).to(device).long()
    colors = scaled(torch.from_numpy(COLORS)[:, None, None].to(device))[..., 0, 0]
    return Pictures(torch.stack([channel[targets] for channel in colors.T], dim=1), targets)


def scaled(rgb: Tensor) -> Tensor:
    """Network input [B, 3, H, W] in [-1, 1] of uint8 RGB [B, H, W, 3]."""
    return rgb.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def read_layout(path: str | Path, size: int) -> np.ndarray:
    """uint8 RGB [size, size, 3] of the picture at `path`; InputError as `read_picture` raises it."""
    return resize_layout(read_picture(path), size)


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
