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
    """An unconditional latent diffusion model. `decoder.config` holds `class_names` and `colours`, in the same order.

    `default_steps` is the number of steps that a call takes if it names none.
    """

    def __init__(self, unet, scheduler, decoder, default_steps: int = 50):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, decoder=decoder)
        self.register_to_config(default_steps=default_steps)

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
        class_maps = self.decoder(latents.to(self.decoder.dtype))[1].argmax(1).to(torch.uint8).cpu().numpy()
        colours = np.array(self.decoder.config.colours, dtype=np.uint8)
        images = [Image.fromarray(picture) for picture in colours[class_maps]]
        self.maybe_free_model_hooks()
        if not return_dict:
            return images, class_maps, latents
        return LayoutPipelineOutput(images=images, class_maps=class_maps, latents=latents)
