"""Autoencoders of diffusers as encoder and decoder of layouts, and the identity for models of pictures themselves."""

import functools

import numpy as np
import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor, nn

from core.data.palette import DEFAULT_PALETTE, Palette
from core.networks.autoencoder import Autoencoder, Decoded, Decoder

# Widest range of the classes' logits around the palette's colours, in squares of [-1, 1]. The two closest colours of
# the default palette are 0.27 apart, so a pixel in its own colour has at least 0.99 of the probability.
_TEMPERATURE = 0.05


def kl_autoencoder(model: AutoencoderKL, palette: Palette) -> Autoencoder:
    """A variational autoencoder: the latent is the mode of the posterior, scaled and shifted as its config says."""
    return Autoencoder(_KLEncoder(model), DiffusersDecoder(model, palette))


def vq_autoencoder(model: VQModel, palette: Palette) -> Autoencoder:
    """A vector-quantised autoencoder: the latent is taken before it is quantised, which decoding does."""
    return Autoencoder(_VQEncoder(model), DiffusersDecoder(model, palette))


def no_autoencoder(palette: Palette) -> Autoencoder:
    """For diffusion models of pictures: the latent is the picture, RGB [B, 3, H, W] in [-1, 1]."""
    return Autoencoder(nn.Identity(), PictureDecoder(palette))


def temperature(palette: Palette) -> float:
    """What squared distances to the colours are divided by to give logits: less where colours are close together."""
    return _TEMPERATURE * min(1.0, _closest(palette) / _closest(DEFAULT_PALETTE))


@functools.lru_cache(maxsize=4)
def _closest(palette: Palette) -> float:
    """Smallest squared distance between two colours, in squares of [-1, 1]."""
    colours = palette.rgb / 127.5 - 1
    distances = np.square(colours[:, None] - colours).sum(-1)
    return float(distances[~np.eye(len(palette), dtype=bool)].min())


def palette_logits(rgb: Tensor, palette: Palette) -> Tensor:
    """Class logits [B, classes, H, W] of RGB [B, 3, H, W] in [-1, 1]: minus the squared distance to each colour."""
    colors = torch.tensor(palette.rgb, dtype=rgb.dtype, device=rgb.device) / 127.5 - 1
    # |rgb - c|^2 without rgb^2, which all classes share.
    products = torch.einsum("bchw,kc->bkhw", rgb, colors)
    return (2 * products - colors.square().sum(1)[:, None, None]) / temperature(palette)


class _KLEncoder(nn.Module):
    def __init__(self, model: AutoencoderKL):
        super().__init__()
        self.model = model

    def forward(self, rgb: Tensor) -> Tensor:
        scale, shift = _scale_and_shift(self.model)
        latent: Tensor = (self.model.encode(rgb).latent_dist.mode() - shift) * scale
        return latent


class _VQEncoder(nn.Module):
    def __init__(self, model: VQModel):
        super().__init__()
        self.model = model

    def forward(self, rgb: Tensor) -> Tensor:
        latent: Tensor = self.model.encode(rgb).latents * _scale_and_shift(self.model)[0]
        return latent


class DiffusersDecoder(Decoder):
    """The decoder of an autoencoder of diffusers, called `model`."""

    def __init__(self, model: AutoencoderKL | VQModel, palette: Palette):
        super().__init__(palette)
        self.model = model

    def forward(self, latent: Tensor) -> Decoded:
        scale, shift = _scale_and_shift(self.model)
        rgb = self.model.decode(latent / scale + shift).sample.clamp(-1, 1)
        return Decoded(rgb, palette_logits(rgb, self.palette))


class PictureDecoder(Decoder):
    """The identity: latents are RGB already."""

    def forward(self, latent: Tensor) -> Decoded:
        rgb = latent.clamp(-1, 1)
        return Decoded(rgb, palette_logits(rgb, self.palette))


def _scale_and_shift(model: AutoencoderKL | VQModel) -> tuple[float, float]:
    scale, shift = model.config.get("scaling_factor"), model.config.get("shift_factor")
    return scale or 1.0, shift or 0.0
