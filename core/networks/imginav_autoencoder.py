"""ImgiNav's autoencoder, with the names of its weights, so that its checkpoints load as they are."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.data.palette import DEFAULT_PALETTE
from core.networks.autoencoder import Autoencoder, Decoded, Decoder
from core.networks.imginav_layers import group_norm

# ImgiNav's classes are those of the default palette, or one more: floor, before the background.
CLASSES = len(DEFAULT_PALETTE)
_WITH_FLOOR, FLOOR = CLASSES + 1, CLASSES - 1


class ImgiNavSizes(NamedTuple):
    """Sizes of an autoencoder of ImgiNav: those of its encoder, and of its decoder."""

    latent_channels: int
    steps: int
    encoder_channels: int
    encoder_groups: int
    decoder_channels: int
    decoder_groups: int
    head_groups: tuple[int, int]
    num_classes: int
    is_normalised: bool


def imginav_autoencoder(sizes: ImgiNavSizes) -> Autoencoder:
    """Untrained autoencoder of these sizes. Its latents are used as they are: their channels are not standardised.

    Where ImgiNav's encoder is variational, this one gives the mean.
    """
    return Autoencoder(_Encoder(sizes), _Decoder(sizes))


class _Encoder(nn.Module):
    """RGB [B, 3, H, W] in [-1, 1] -> latent [B, latent_channels, H / 2^steps, W / 2^steps]."""

    def __init__(self, sizes: ImgiNavSizes):
        super().__init__()
        layers: list[nn.Module] = []
        wide_in = 3

        def add(convolution: nn.Conv2d, width: int) -> None:
            layers.extend([convolution, group_norm(sizes.encoder_groups, width), nn.SiLU()])

        for step in range(sizes.steps):
            width = sizes.encoder_channels * 2**step
            add(nn.Conv2d(wide_in, width, 3, padding=1), width)
            add(nn.Conv2d(width, width, 4, stride=2, padding=1), width)
            wide_in = width
        add(nn.Conv2d(wide_in, wide_in, 3, padding=1), wide_in)
        self.feature_extractor = nn.Sequential(*layers)
        self.latent_proj = nn.Conv2d(wide_in, sizes.latent_channels, 1)
        self.latent_normalizer = _Normaliser(sizes.latent_channels) if sizes.is_normalised else None

    def forward(self, rgb: Tensor) -> Tensor:
        latent: Tensor = self.latent_proj(self.feature_extractor(rgb))
        return self.latent_normalizer.normalise(latent) if self.latent_normalizer is not None else latent


class _Decoder(Decoder):
    """Latent [B, latent_channels, h, w] -> RGB and class logits, both at 2^steps its resolution."""

    def __init__(self, sizes: ImgiNavSizes):
        super().__init__(DEFAULT_PALETTE)
        width = sizes.decoder_channels * 2 ** (sizes.steps - 1)
        groups = sizes.decoder_groups
        layers = [nn.Conv2d(sizes.latent_channels, width, 3, padding=1), group_norm(groups, width), nn.SiLU()]
        for _ in range(sizes.steps):
            layers.append(nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1))
            layers += [group_norm(groups, width // 2), nn.SiLU()]
            width //= 2
        self.latent_denormalizer = _Normaliser(sizes.latent_channels) if sizes.is_normalised else None
        self.shared_decoder = nn.Sequential(*layers)
        rgb_groups, class_groups = sizes.head_groups
        self.heads = nn.ModuleDict(
            {"rgb": _Head(width, 3, rgb_groups), "segmentation": _Head(width, sizes.num_classes, class_groups)}
        )

    def forward(self, latent: Tensor) -> Decoded:
        if self.latent_denormalizer is not None:
            latent = self.latent_denormalizer.denormalise(latent)
        features = self.shared_decoder(latent)
        logits = self.heads["segmentation"](features)
        if logits.shape[1] == _WITH_FLOOR:
            logits = torch.cat([logits[:, :FLOOR], logits[:, FLOOR + 1 :]], dim=1)
        return Decoded(torch.tanh(self.heads["rgb"](features)), logits)


class _Head(nn.Module):
    """Features [B, width, H, W] -> [B, out, H, W], without the tanh or softmax that ImgiNav puts behind it."""

    def __init__(self, width: int, channels_out: int, groups: int):
        super().__init__()
        self.head = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            group_norm(groups, width),
            nn.SiLU(),
            nn.Conv2d(width, channels_out, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.head(features)
        return result


class _Normaliser(nn.Module):
    """A learned shift and scale of each channel, which autoencoders of one hour of ImgiNav's history have."""

    def __init__(self, latent_channels: int):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, latent_channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, latent_channels, 1, 1))

    def normalise(self, latent: Tensor) -> Tensor:
        return (latent - self.shift) / (self._scale + 1e-5)

    def denormalise(self, latent: Tensor) -> Tensor:
        return latent * self._scale + self.shift

    @property
    def _scale(self) -> Tensor:
        return self.log_scale.clamp(-10, 10).exp()
