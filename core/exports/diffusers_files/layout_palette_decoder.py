# SPDX-License-Identifier: Apache-2.0
"""An autoencoder of diffusers, or none, as a decoder of room layouts: classes by their colours."""

import diffusers
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config


class LayoutDecoder(ModelMixin, ConfigMixin):
    """Latents [B, C, h, w] -> RGB [B, 3, H, W] in [-1, 1] and logits of the classes [B, classes, H, W].

    `autoencoder_class` is AutoencoderKL or VQModel; without it the latents are the pictures. The logit of a class is
    minus the squared distance to its colour, divided by `temperature`, up to a number that all classes share.
    """

    @register_to_config
    def __init__(
        self,
        autoencoder_class: str | None,
        autoencoder_config: dict | None,
        temperature: float,
        class_names: list[str],
        colours: list[list[int]],
    ):
        super().__init__()
        known = {"AutoencoderKL": diffusers.AutoencoderKL, "VQModel": diffusers.VQModel}
        self.model = None if autoencoder_class is None else known[autoencoder_class].from_config(autoencoder_config)
        self.register_buffer("palette", torch.tensor(colours, dtype=torch.float32) / 127.5 - 1)

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rgb = latents
        if self.model is not None:
            scale = self.model.config.get("scaling_factor") or 1.0
            shift = self.model.config.get("shift_factor") or 0.0
            rgb = self.model.decode(latents / scale + shift).sample
        rgb = rgb.clamp(-1, 1)
        products = torch.einsum("bchw,kc->bkhw", rgb, self.palette)
        return rgb, (2 * products - self.palette.square().sum(1)[:, None, None]) / self.config.temperature
