# SPDX-License-Identifier: Apache-2.0
"""The decoder of an autoencoder of room layouts, with the names of ImgiNav's weights."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn


def group_norm(most_groups: int, channels: int) -> nn.GroupNorm:
    """Group norm with the largest number of groups, up to `most_groups`, that divides the channels."""
    groups = next(count for count in range(min(most_groups, channels), 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


class Head(nn.Module):
    """Features [B, width, H, W] -> [B, out, H, W]."""

    def __init__(self, width: int, channels_out: int, groups: int):
        super().__init__()
        self.head = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            group_norm(groups, width),
            nn.SiLU(),
            nn.Conv2d(width, channels_out, 3, padding=1),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(features)


class Denormaliser(nn.Module):
    """The shift and scale of each channel that the encoder took away."""

    def __init__(self, latent_channels: int):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, latent_channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, latent_channels, 1, 1))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return latents * self.log_scale.clamp(-10, 10).exp() + self.shift


class LayoutDecoder(ModelMixin, ConfigMixin):
    """Latents [B, C, h, w] -> RGB [B, 3, H, W] in [-1, 1] and logits of the classes [B, classes, H, W].

    `unused_class` is the place of one that the weights have beside the `num_classes`.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int,
        base_channels: int,
        upsampling_steps: int,
        norm_groups: int,
        rgb_groups: int,
        segmentation_groups: int,
        is_normalised: bool,
        num_classes: int,
        unused_class: int | None = None,
    ):
        super().__init__()
        width = base_channels * 2 ** (upsampling_steps - 1)
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, width, 3, padding=1)]
        layers += [group_norm(norm_groups, width), nn.SiLU()]
        for _ in range(upsampling_steps):
            layers.append(nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1))
            width //= 2
            layers += [group_norm(norm_groups, width), nn.SiLU()]
        self.latent_denormalizer = Denormaliser(latent_channels) if is_normalised else None
        self.shared_decoder = nn.Sequential(*layers)
        classes = num_classes + (unused_class is not None)
        self.heads = nn.ModuleDict(
            {"rgb": Head(width, 3, rgb_groups), "segmentation": Head(width, classes, segmentation_groups)}
        )

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.latent_denormalizer is not None:
            latents = self.latent_denormalizer(latents)
        features = self.shared_decoder(latents)
        logits = self.heads["segmentation"](features)
        unused = self.config.unused_class
        if unused is not None:
            logits = torch.cat([logits[:, :unused], logits[:, unused + 1 :]], dim=1)
        return torch.tanh(self.heads["rgb"](features)), logits
