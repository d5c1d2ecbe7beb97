"""Layouts as the audit sees them: class maps, read from pictures or decoded from latents."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from core.config.experiment import ExperimentConfig
from core.data.layouts import LayoutPictures
from core.data.palette import UNLABELLED
from core.data.palette_file import read_palette
from core.networks.autoencoder import Decoder


@dataclass(frozen=True)
class LayoutMaps:
    """Layouts as class maps, uint8 [N, H, W], and for each the share of its pixels outside the palette, [N]."""

    classes: np.ndarray
    off_palette: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)


def read_maps(config: ExperimentConfig, rows: pd.DataFrame) -> LayoutMaps:
    """Class maps of the pictures of manifest rows, at the working size. Pixels outside the palette are background."""
    palette = read_palette(config)
    pictures = LayoutPictures(rows, config.dataset.outputs.rgb, config.dataset.image_size, palette)
    classes = np.stack([pictures.batch([index]).classes[0].numpy() for index in range(len(pictures))]).astype(np.uint8)
    unlabelled = classes == UNLABELLED
    classes[unlabelled] = palette.background
    return LayoutMaps(classes, unlabelled.mean(axis=(1, 2)))


@torch.no_grad()
def decode_maps(latents: Tensor, decoder: Decoder, batch_size: int = 64) -> LayoutMaps:
    """Maps of latents [N, C, h, w]: classes by the segmentation head, pixels outside the palette by the RGB head."""
    device = decoder.device
    classes, off = [], []
    for part in torch.split(latents, batch_size):
        decoded = decoder(part.to(device))
        classes.append(decoded.logits.argmax(1).byte().cpu().numpy())
        rgb = ((decoded.rgb.float() + 1) * 127.5).permute(0, 2, 3, 1).cpu().numpy()
        off.append(decoder.palette.off_palette(rgb).mean(axis=(1, 2)))
    return LayoutMaps(np.concatenate(classes), np.concatenate(off))
