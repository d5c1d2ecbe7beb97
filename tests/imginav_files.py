"""Checkpoints of ImgiNav's form with random weights: a diffusion model and its autoencoder, which need no fixtures."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from core.config.model_sections import UNetSection
from core.networks.imginav_autoencoder import ImgiNavSizes, imginav_autoencoder
from core.networks.imginav_unet import ImgiNavUNet

SIZES = ImgiNavSizes(
    latent_channels=3,
    steps=2,
    encoder_channels=4,
    encoder_groups=4,
    decoder_channels=8,
    decoder_groups=8,
    head_groups=(8, 8),
    num_classes=10,
    is_normalised=False,
)

Change = Callable[[dict[str, Any]], object]


def write_checkpoints(
    folder: Path,
    change: Change = lambda checkpoint: None,
    change_autoencoder: Change = lambda checkpoint: None,
    sizes: ImgiNavSizes = SIZES,
) -> tuple[Path, Path]:
    """Paths of `diffusion.pt` and `autoencoder.pt` in `folder`, for pictures of 32x32, changed by functions."""
    torch.manual_seed(3)
    autoencoder = imginav_autoencoder(sizes)
    if sizes.is_normalised:
        for part in (autoencoder.encoder.latent_normalizer, autoencoder.decoder.latent_denormalizer):
            torch.nn.init.constant_(part.shift, 0.5)
            torch.nn.init.constant_(part.log_scale, 1.0)
    weights = {}
    for key, value in autoencoder.state_dict().items():
        part, _, rest = key.removeprefix("encoder.").partition(".")
        if part == "feature_extractor":
            key = f"encoder.encoder.{rest}"
        weights[f"encoder.encoder.15.{rest}" if part == "latent_proj" else key] = value
    parts = {
        "encoder": {"latent_channels": 3, "base_channels": 4, "downsampling_steps": 2, "norm_groups": 4},
        "decoder": {
            **{"latent_channels": 3, "base_channels": 8, "upsampling_steps": 2, "norm_groups": 8},
            "heads": [
                {"type": "RGBHead", "name": "rgb", "out_channels": 3},
                {"type": "SegmentationHead", "name": "segmentation", "out_channels": sizes.num_classes},
            ],
        },
    }
    encoded = {"state_dict": weights, "config": {"type": "Autoencoder", **copy.deepcopy(parts)}}
    unet = {"in_channels": 3, "out_channels": 3, "base_channels": 8, "depth": 2, "num_res_blocks": 1}
    section = UNetSection(type="Unet", time_dim=6, norm_groups=4, dropout=0.1, **unet)
    state = {f"unet.{key}": value for key, value in ImgiNavUNet(section).state_dict().items()}
    state |= {key: value for key, value in weights.items() if key.startswith("decoder.")}
    betas = torch.linspace(1e-4, 0.02, 40)
    state |= {"scheduler.betas": betas, "scheduler.alphas": 1 - betas, "scheduler.alpha_bars": (1 - betas).cumprod(0)}
    trained = {
        "state_dict": state,
        "config": {
            "type": "DiffusionModel",
            "unet": {"type": "DualUNet", **unet, "time_dim": 6, "norm_groups": 4, "dropout": 0.1},
            "scheduler": {"type": "CosineScheduler", "num_steps": 40},
            "decoder": copy.deepcopy(parts["decoder"]),
        },
        "training_history": [],
    }
    change(trained)
    change_autoencoder(encoded)
    torch.save(trained, folder / "diffusion.pt")
    torch.save(encoded, folder / "autoencoder.pt")
    return folder / "diffusion.pt", folder / "autoencoder.pt"


def write_config(diffusion: Path, autoencoder: Path, size: int = 32) -> Path:
    """Path of a config beside a diffusion checkpoint that names both files and says nothing of networks."""
    path = diffusion.parent / "theirs.yaml"
    path.write_text(
        f"experiment: {{name: theirs}}\ndataset: {{manifest: m.csv, image_size: {size}}}\n"
        f"autoencoder: {{checkpoint: {autoencoder}}}\ndiffusion: {{stage2_checkpoint: {diffusion}}}\n"
    )
    return path
