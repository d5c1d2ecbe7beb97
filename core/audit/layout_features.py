"""Features of layouts for distances between sets, from a frozen AlexNet, which the discriminator does not use."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from core.config.loss_sections import PerceptualLossSection
from core.data.palette import Palette
from core.data.variants import all_variants
from core.models.perceptual import Perceptual, build_perceptual
from core.runtime.errors import InputError
from core.runtime.seeding import derive_seed

# Side of AlexNet's input in pixels; it only sees walls of one pixel if they are enlarged.
_SIDE = 128
# Cells a side over which activations are averaged: features know the quarter of the layout.
_POOLED = 2
_DIMENSIONS = 64
_LAYOUTS_FITTED = 2048
_BATCH = 64


@dataclass(frozen=True)
class FeatureSpace:
    """Principal components of AlexNet's features of real layouts: class maps [N, S, S] -> features [N, D].

    All components have one scale, so that their mean variance over the fitted layouts is 1. AlexNet sees the layouts in
    the colours of the `palette`.
    """

    perceptual: Perceptual
    mean: np.ndarray
    components: np.ndarray
    palette: Palette

    @property
    def trunk(self) -> str:
        """The source of AlexNet's weights: a file's name, `torchvision` or `random`."""
        return self.perceptual.trunk

    @classmethod
    def fit(cls, real_training_maps: np.ndarray, section: PerceptualLossSection, palette: Palette) -> "FeatureSpace":
        """Space of up to 64 components with the greatest variance over real training layouts, class maps [N, S, S].

        It is fitted on all variants, or 2,048 of them, since layouts are generated in every orientation. AlexNet's
        weights are those of the perceptual loss. If that uses another network, they are the installed or torchvision's.
        Raises InputError if all layouts are equal.
        """
        perceptual = build_perceptual(
            PerceptualLossSection(backbone=section.backbone if section.net == "alex" else None)
        )
        variants = all_variants(real_training_maps)
        order = np.random.default_rng(derive_seed(0, "feature space")).permutation(len(variants))
        features = alexnet_features(variants[order[:_LAYOUTS_FITTED]], perceptual, palette).astype(np.float64)
        mean = features.mean(0)
        variances, axes = np.linalg.eigh(np.cov(features, rowvar=False))
        # In ascending order. With few layouts, some directions have only rounding errors as variance.
        kept = np.flatnonzero(variances > 1e-6 * variances[-1])[::-1][: min(_DIMENSIONS, len(features) - 1)]
        if not variances[-1] > 0:
            raise InputError("audit: real training layouts are all the same: give others, or set audit: null")
        scale = np.sqrt(variances[kept].mean())
        return cls(perceptual, mean.astype(np.float32), (axes[:, kept] / scale).astype(np.float32), palette)

    def __call__(self, maps: np.ndarray) -> np.ndarray:
        """Features, float32 [N, D], of class maps in the palette, [N, S, S]."""
        activations = alexnet_features(maps, self.perceptual, self.palette)
        features: np.ndarray = (activations - self.mean) @ self.components
        return features


@torch.no_grad()
def alexnet_features(maps: np.ndarray, perceptual: Perceptual, palette: Palette) -> np.ndarray:
    """Activations of the fifth convolution for class maps in palette colours, averaged in 2x2 cells: float32 [N, 1024].

    `maps` are uint8 [N, S, S] of the palette's classes. They are resized to 128x128, by nearest neighbour if smaller
    and by averaging if larger.
    """
    if maps.ndim != 3 or (maps.size and maps.max() >= len(palette)):
        last = len(palette) - 1
        raise ValueError(f"class maps must be [N, S, S] of 0 to {last}, got {maps.shape} up to {maps.max()}")
    device = next(perceptual.parameters()).device
    colors = torch.tensor(palette.rgb).float().to(device) / 127.5 - 1
    parts = []
    for start in range(0, len(maps), _BATCH):
        classes = torch.from_numpy(maps[start : start + _BATCH].astype(np.int64)).to(device)
        rgb = colors[classes].permute(0, 3, 1, 2)
        larger = rgb.shape[-1] > _SIDE
        rgb = F.adaptive_avg_pool2d(rgb, _SIDE) if larger else F.interpolate(rgb, size=_SIDE, mode="nearest")
        activations = perceptual.net.net(perceptual.net.scaling_layer(rgb)).relu5
        parts.append(F.adaptive_avg_pool2d(activations, _POOLED).flatten(1).cpu())
    return torch.cat(parts).numpy()
