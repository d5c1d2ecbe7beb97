# SPDX-License-Identifier: Apache-2.0
"""Draws room layouts: from noise to latents with the UNet and the scheduler, from latents to classes of pixels."""

import inspect
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image


@dataclass
class LayoutPipelineOutput(BaseOutput):
    """`images`: B pictures in the colours of the classes. `class_maps`: uint8 [B, H, W]. `latents`: [B, C, h, w]."""

    images: list[Image.Image]
    class_maps: np.ndarray
    latents: torch.Tensor


class LayoutPipeline(DiffusionPipeline):
    """An unconditional diffusion model of layouts. `config.class_names` and `config.colours` are in the same order.

    Latents become classes by the `decoder`, a model that predicts them; or each pixel gets the class of the nearest
    colour, where there is a `vae` of diffusers, or neither and the latents are pictures. `default_steps` is the number
    of steps that a call takes if it names none.
    """

    _optional_components = ("decoder", "vae")

    def __init__(
        self,
        unet,
        scheduler,
        decoder=None,
        vae=None,
        class_names: list[str] = (),
        colours: list[list[int]] = (),
        default_steps: int = 50,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, decoder=decoder, vae=vae)
        self.register_to_config(class_names=class_names, colours=colours, default_steps=default_steps)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        return_dict: bool = True,
    ):
        """Draw `batch_size` layouts from the noise of `generator`, or one from each row of the noise `latents`."""
        size = self.unet.config.sample_size
        shape = (batch_size, self.unet.config.in_channels, size, size)
        device, dtype = self._execution_device, self.unet.dtype
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        elif tuple(latents.shape[1:]) != shape[1:]:
            raise ValueError(
                f"latents have the shape {tuple(latents.shape)}, this model draws from [B, C, h, w] with "
                f"(C, h, w) {shape[1:]}"
            )
        self.scheduler.set_timesteps(num_inference_steps or self.config.default_steps, device=device)
        latents = latents.to(device, dtype) * self.scheduler.init_noise_sigma
        # Schedulers that add noise draw it from the generator too; the others do not know the argument.
        known = "generator" in inspect.signature(self.scheduler.step).parameters
        extra = {"generator": generator} if known else {}
        for t in self.progress_bar(self.scheduler.timesteps):
            prediction = self.unet(self.scheduler.scale_model_input(latents, t), t, return_dict=False)[0]
            latents = self.scheduler.step(prediction, t, latents, **extra, return_dict=False)[0]
        class_maps = self.logits(latents).argmax(1).to(torch.uint8).cpu().numpy()
        colours = np.array(self.config.colours, dtype=np.uint8)
        images = [Image.fromarray(picture) for picture in colours[class_maps]]
        self.maybe_free_model_hooks()
        if not return_dict:
            return images, class_maps, latents
        return LayoutPipelineOutput(images=images, class_maps=class_maps, latents=latents)

    @torch.no_grad()
    def logits(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, classes, H, W] of latents [B, C, h, w]; of colours minus the squared distance, up to a common number."""
        if self.decoder is not None:
            return self.decoder(latents.to(self.decoder.dtype))[1]
        rgb = latents
        if self.vae is not None:
            scale, shift = (self.vae.config.get(name) for name in ("scaling_factor", "shift_factor"))
            rgb = self.vae.decode(latents.to(self.vae.dtype) / (scale or 1.0) + (shift or 0.0)).sample
        rgb = rgb.clamp(-1, 1)
        colours = torch.tensor(self.config.colours, dtype=rgb.dtype, device=rgb.device) / 127.5 - 1
        return 2 * torch.einsum("bchw,kc->bkhw", rgb, colours) - colours.square().sum(1)[:, None, None]
