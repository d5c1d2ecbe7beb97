"""From layout pictures to latents and back: encoding, decoding, grids of pictures in palette colours."""

import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.data.layouts import LayoutPictures
from core.networks.autoencoder import Autoencoder, Decoder
from core.runtime.files import atomic_write
from core.runtime.progress import each

# Pictures in a grid of samples.
GRID_SAMPLES = 64
# Pixels between two tiles of a grid, and least pixels a side of a tile.
_GAP = 2
_SMALLEST_TILE = 128


@torch.no_grad()
def encode_pictures(pictures: LayoutPictures, autoencoder: Autoencoder, batch_size: int, description: str) -> Tensor:
    """Latents [N, C, h, w] of all pictures, on the CPU. Shows a progress bar with `description`."""
    device = autoencoder.device
    batches = torch.split(torch.arange(len(pictures)), batch_size)
    parts: list[Tensor] = []
    for indices in each(batches, description, "batches"):
        parts.append(autoencoder.encode(pictures.batch(indices.tolist(), device=device).rgb).cpu())
    return torch.cat(parts)


@torch.no_grad()
def decode_classes(latents: Tensor, decoder: Decoder, batch_size: int = 64) -> np.ndarray:
    """Class maps, uint8 [N, H, W], of `latents` [N, C, h, w] by the segmentation head."""
    device = decoder.device
    parts = [decoder(part.to(device)).logits.argmax(1).byte().cpu() for part in torch.split(latents, batch_size)]
    return torch.cat(parts).numpy()


def save_sample_grid(latents: Tensor, decoder: Decoder, path: Path, columns: int | None = None) -> None:
    """Write a PNG with the decoded `latents` in a grid, enlarged to tiles of at least 128 pixels."""
    save_grid(decoder.palette.rgb_from_classes(decode_classes(latents, decoder)), path, columns)


def save_grid(pictures: np.ndarray, path: Path, columns: int | None = None) -> None:
    """Write a PNG with uint8 RGB `pictures` [N, H, W, 3] in rows of `columns`; without it, in a square."""
    with atomic_write(path) as file:
        file.write(grid_png(pictures, columns))


def grid_png(pictures: np.ndarray, columns: int | None = None) -> bytes:
    """The PNG that `save_grid` writes."""
    count, height = pictures.shape[:2]
    columns = columns or math.ceil(math.sqrt(count))
    scale = max(1, _SMALLEST_TILE // height)
    tile = height * scale + _GAP
    sheet = np.full((math.ceil(count / columns) * tile + _GAP, columns * tile + _GAP, 3), 255, np.uint8)
    for index, picture in enumerate(pictures.repeat(scale, axis=1).repeat(scale, axis=2)):
        top, left = index // columns * tile + _GAP, index % columns * tile + _GAP
        sheet[top : top + tile - _GAP, left : left + tile - _GAP] = picture
    made = io.BytesIO()
    Image.fromarray(sheet).save(made, format="PNG")
    return made.getvalue()
