"""Autoencoders of layouts: RGB to a latent, and back to RGB and class logits. The project's own is convolutional."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.data.palette import Palette


class Decoded(NamedTuple):
    """Output of the decoder: `rgb` [B, 3, H, W] in [-1, 1] and class `logits` [B, classes, H, W]."""

    rgb: Tensor
    logits: Tensor


def _block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, group norm, SiLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1),
        nn.GroupNorm(min(8, channels_out), channels_out),
        nn.SiLU(),
    )


class ConvEncoder(nn.Module):
    """RGB [B, 3, H, W] in [-1, 1] -> latent [B, latent_channels, H / 2^steps, W / 2^steps]."""

    def __init__(self, latent_channels: int, base_channels: int, steps: int, max_channels: int):
        super().__init__()
        widths = [min(base_channels * 2**i, max_channels) for i in range(steps + 1)]
        layers: list[nn.Module] = [_block(3, widths[0])]
        for wide_in, wide_out in itertools.pairwise(widths):
            layers += [_block(wide_in, wide_out, stride=2), _block(wide_out, wide_out)]
        self.net = nn.Sequential(*layers, nn.Conv2d(widths[-1], latent_channels, 1))
        # Standardises every latent channel, so that the diffusion prior N(0, 1) fits. The running statistics belong to
        # the frozen model.
        self.standardise = nn.BatchNorm2d(latent_channels, affine=False, momentum=0.02)

    def forward(self, rgb: Tensor) -> Tensor:
        latent: Tensor = self.standardise(self.net(rgb))
        return latent


class Decoder(nn.Module):
    """Latent [B, latent_channels, h, w] -> RGB and logits of the palette's classes, both at 2^steps its resolution."""

    def __init__(self, palette: Palette) -> None:
        super().__init__()
        self.palette = palette
        # A decoder may have no weights.
        self.register_buffer("_place", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        place: torch.device = self.get_buffer("_place").device
        return place

    def forward(self, latent: Tensor) -> Decoded:
        raise NotImplementedError


class ConvDecoder(Decoder):
    """The project's own decoder."""

    def __init__(self, latent_channels: int, base_channels: int, steps: int, max_channels: int, palette: Palette):
        super().__init__(palette)
        widths = [min(base_channels * 2**i, max_channels) for i in range(steps + 1)][::-1]
        layers: list[nn.Module] = [_block(latent_channels, widths[0]), _block(widths[0], widths[0])]
        for wide_in, wide_out in itertools.pairwise(widths):
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), _block(wide_in, wide_out)]
            layers += [_block(wide_out, wide_out)]
        self.trunk = nn.Sequential(*layers)
        self.rgb = nn.Conv2d(widths[-1], 3, 3, padding=1)
        self.segmentation = nn.Conv2d(widths[-1], len(palette), 3, padding=1)

    def forward(self, latent: Tensor) -> Decoded:
        features = self.trunk(latent)
        return Decoded(torch.tanh(self.rgb(features)), self.segmentation(features))


class Autoencoder(nn.Module):
    """An encoder, RGB [B, 3, H, W] in [-1, 1] -> latent [B, C, h, w], and a decoder."""

    def __init__(self, encoder: nn.Module, decoder: Decoder):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        return self.decoder.device

    @torch.no_grad()
    def encode(self, rgb: Tensor) -> Tensor:
        """Latent [B, C, h, w] of RGB [B, 3, H, W] in [-1, 1]; deterministic in eval mode."""
        latent: Tensor = self.encoder(rgb)
        return latent


def conv_autoencoder(
    latent_channels: int, base_channels: int, downsampling_steps: int, max_channels: int, palette: Palette
) -> Autoencoder:
    """The project's own autoencoder, untrained.

    Its classes are those of the palette, and its latents have zero mean and unit variance in every channel.
    """
    sizes = (latent_channels, base_channels, downsampling_steps, max_channels)
    return Autoencoder(ConvEncoder(*sizes), ConvDecoder(*sizes, palette))


def autoencoder_loss(decoded: Decoded, rgb: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error of the RGB head and cross entropy of the segmentation head.

    `rgb` [B, 3, H, W] in [-1, 1]; `classes` [B, H, W] long, 255 where unlabelled.
    """
    return F.mse_loss(decoded.rgb, rgb), F.cross_entropy(decoded.logits, classes, ignore_index=255)
