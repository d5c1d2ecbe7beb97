"""Pictures of decoded latents, in palette colours."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.data.palette import rgb_from_classes
from core.models.autoencoder import Decoder
from core.runtime.files import atomic_write

_GAP = 2
_SMALLEST_TILE = 128


@torch.no_grad()
def decode_classes(latents: Tensor, decoder: Decoder, batch_size: int = 64) -> np.ndarray:
    """Class maps, uint8 [N, H, W], that the segmentation head sees in `latents` [N, C, h, w]."""
    device = next(decoder.parameters()).device
    parts = [decoder(part.to(device)).logits.argmax(1).byte().cpu() for part in latents.split(batch_size)]
    return torch.cat(parts).numpy()


def save_sample_grid(latents: Tensor, decoder: Decoder, path: Path, columns: int | None = None) -> None:
    """PNG with the decoded `latents` in a grid, enlarged until a tile is at least 128 pixels."""
    save_grid(rgb_from_classes(decode_classes(latents, decoder)), path, columns)


def save_grid(pictures: np.ndarray, path: Path, columns: int | None = None) -> None:
    """PNG with uint8 RGB `pictures` [N, H, W, 3] in rows of `columns`; in a square without."""
    count, height = pictures.shape[:2]
    columns = columns or math.ceil(math.sqrt(count))
    scale = max(1, _SMALLEST_TILE // height)
    tile = height * scale + _GAP
    sheet = np.full((math.ceil(count / columns) * tile + _GAP, columns * tile + _GAP, 3), 255, np.uint8)
    for index, picture in enumerate(pictures.repeat(scale, axis=1).repeat(scale, axis=2)):
        top, left = index // columns * tile + _GAP, index % columns * tile + _GAP
        sheet[top : top + tile - _GAP, left : left + tile - _GAP] = picture
    with atomic_write(path) as file:
        Image.fromarray(sheet).save(file, format="PNG")
