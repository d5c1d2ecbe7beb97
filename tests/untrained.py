"""Models that nobody trained, for stages without those before them."""

from pathlib import Path

import torch

from core.inputs.tensor_files import save_tensors
from core.models.discriminator import LatentDiscriminator

SIZES = {"latent_channels": 4, "latent_size": 8}


def write_discriminator(path: Path) -> Path:
    """`path` after writing a discriminator of the tiny experiment's latents to it, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = LatentDiscriminator(**SIZES)
    save_tensors({"state_dict": model.state_dict(), "config": SIZES}, path)
    return path
