"""A diffusion model and the decoder of its latents, ready to draw layouts: the one way from a seed to a layout."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.audit.layout_maps import LayoutMaps, decode_maps
from core.checkpoints.loading import find_checkpoint, load_autoencoder
from core.checkpoints.strength import FromStart, load_model, model_inputs
from core.config.experiment import ExperimentConfig
from core.config.round_sections import SamplerName
from core.data.palette import Palette
from core.inputs.locations import Location
from core.models.sampling import CPU_BATCH, require_steps, sample_latents
from core.networks.autoencoder import Decoder
from core.networks.unet import UNet
from core.records.input_files import local_path
from core.runtime import distributed
from core.runtime.errors import require_positive
from core.runtime.seeding import derive_seed

DRAWING = "drawing"


@dataclass(frozen=True)
class Layouts:
    """Drawn layouts: `class_maps` uint8 [N, H, W], of each pixel the index of its class in the `palette`, from 0."""

    class_maps: np.ndarray
    palette: Palette

    def __len__(self) -> int:
        return len(self.class_maps)

    @property
    def pictures(self) -> np.ndarray:
        """RGB in the palette's colours, uint8 [N, H, W, 3]."""
        return self.palette.rgb_from_classes(self.class_maps)


@dataclass(frozen=True)
class LayoutModel:
    """A model that draws layouts, on the device of its config."""

    config: ExperimentConfig
    unet: UNet
    decoder: Decoder

    def sample(
        self,
        num_samples: int,
        seed: int,
        *,
        num_steps: int | None = None,
        sampler: SamplerName = "ddim",
        batch_size: int | None = None,
    ) -> Layouts:
        """The layouts that `tasks.sample` draws with the same options, without writing them.

        Without `num_steps` they are as many as audits take. Layout i depends on the model, the sampler, its steps and
        (seed, i); on a CPU not on the batch size. Raises InputError for a number that is not above 0, and for more
        steps than the schedule has.
        """
        steps = self.config.audit_steps if num_steps is None else num_steps
        batch = self.config.rounds.bad_latents.batch_size if batch_size is None else batch_size
        require_positive(num_samples=num_samples, batch_size=batch, num_steps=steps)
        require_steps(steps, self.config)
        latents = self.draw(layout_seeds(seed, range(num_samples)), steps, sampler, batch)
        parts = torch.split(latents, CPU_BATCH)
        return Layouts(np.concatenate([self.decode(part).classes for part in parts]), self.decoder.palette)

    def draw(self, seeds: Sequence[int], num_steps: int, sampler: SamplerName, batch_size: int) -> Tensor:
        """Latents [len(seeds), C, h, w] on the CPU, one for each of the `layout_seeds`."""
        return sample_latents(self.unet, self.config, seeds, num_steps, batch_size, DRAWING, sampler)

    def decode(self, latents: Tensor) -> LayoutMaps:
        """Maps of at most `CPU_BATCH` latents [N, C, h, w].

        As many are always decoded, since a smaller batch may round otherwise.
        """
        padded = torch.cat([latents, latents[-1:].expand(CPU_BATCH - len(latents), -1, -1, -1)])
        maps = decode_maps(padded, self.decoder, CPU_BATCH)
        return LayoutMaps(maps.classes[: len(latents)], maps.off_palette[: len(latents)])


def layout_seeds(seed: int, positions: Sequence[int]) -> list[int]:
    """The seeds of the noise of the layouts at these positions of a drawing."""
    return [derive_seed(seed, DRAWING, position) for position in positions]


def layout_model_inputs(
    config: ExperimentConfig, checkpoint: Location, from_start: FromStart | None = None
) -> dict[str, Location]:
    """The files of the model of `checkpoint`, or of one between a start and it, by name."""
    autoencoder = find_checkpoint(config.required("autoencoder.checkpoint"))
    return model_inputs(checkpoint, from_start) | {"autoencoder": autoencoder}


def load_layout_model(
    config: ExperimentConfig, checkpoint: Location, from_start: FromStart | None = None
) -> LayoutModel:
    """That model; InputError if a checkpoint is none, or does not fit the config."""
    inputs = layout_model_inputs(config, checkpoint, from_start)
    paths = {name: local_path(place, config.artifacts) for name, place in inputs.items()}
    unet, autoencoder = load_model(paths, from_start, config), load_autoencoder(paths["autoencoder"], config)
    device = distributed.own_device(config.training.device)
    return LayoutModel(config, unet.to(device), autoencoder.decoder.to(device))
