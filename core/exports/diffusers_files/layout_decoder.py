# SPDX-License-Identifier: Apache-2.0
"""The decoder of an autoencoder of room layouts."""

import itertools

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    """3x3 convolution, group norm, SiLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.GroupNorm(min(8, channels_out), channels_out),
        nn.SiLU(),
    )


class LayoutDecoder(ModelMixin, ConfigMixin):
    """Latents [B, C, h, w] -> RGB [B, 3, H, W] in [-1, 1] and logits of the classes [B, classes, H, W]."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int,
        base_channels: int,
        upsampling_steps: int,
        max_channels: int,
        num_classes: int,
    ):
        super().__init__()
        widths = [min(base_channels * 2**i, max_channels) for i in reversed(range(upsampling_steps + 1))]
        layers: list[nn.Module] = [block(latent_channels, widths[0]), block(widths[0], widths[0])]
        for wide_in, wide_out in itertools.pairwise(widths):
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), block(wide_in, wide_out)]
            layers += [block(wide_out, wide_out)]
        self.trunk = nn.Sequential(*layers)
        self.rgb = nn.Conv2d(widths[-1], 3, 3, padding=1)
        self.segmentation = nn.Conv2d(widths[-1], num_classes, 3, padding=1)

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.trunk(latents)
        return torch.tanh(self.rgb(features)), self.segmentation(features)
