"""The audit: how good layouts are by rules and statistics that no gradient ever saw."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.audit.bootstrap import Interval, mean_interval
from core.audit.distribution import compare_distributions
from core.audit.layout_features import FeatureSpace
from core.audit.rules import VIABLE, Rules, calibrate
from core.config.experiment import ExperimentConfig
from core.data.layout_scale import typical_scale
from core.data.layouts import LayoutPictures
from core.data.manifest import originals, read_manifest, split_by_layout
from core.data.palette import COLORS, UNLABELLED, off_palette
from core.inputs.places import Location
from core.models.autoencoder import Autoencoder, Decoder
from core.models.checkpoints import find_checkpoint, load_autoencoder, load_unet
from core.models.pictures import GRID_SAMPLES, encode_pictures, save_grid
from core.models.sampling import sample_latents
from core.records.stage_records import local_path, run_stage
from core.records.workspace import Workspace
from core.runtime.device import pick_device
from core.runtime.errors import InputError
from core.runtime.files import atomic_write, save_json, sha256
from core.runtime.seeding import derive_seed

FIGURES_NAME, LAYOUTS_NAME, PICTURE_NAME = "audit.json", "layouts.npz", "layouts.png"

# Statistics of fewer layouts mean nothing.
FEWEST = 10
# Pictures in which walls and doors can be told, and that fit into memory by the hundred.
_SIZES = (16, 1024)

# By what they were made from.
_references: dict[str, "Reference"] = {}

# A figure by its name, with its bootstrap interval.
Figures = dict[str, Interval]


@dataclass(frozen=True)
class LayoutMaps:
    """Layouts as class maps, uint8 [N, H, W], and the share of each picture that is in no palette colour, [N]."""

    classes: np.ndarray
    off_palette: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Reference:
    """What layouts are judged against: calibrated rules, real layouts of both splits, a space of features."""

    rules: Rules
    training: LayoutMaps
    held_out: LayoutMaps
    features: FeatureSpace

    def held_out_viable(self) -> float:
        """Share of real layouts of the validation split that keep every rule."""
        return float(self.rules.check(self.held_out.classes, self.held_out.off_palette)[VIABLE].mean())


@dataclass(frozen=True)
class Audit:
    """What came out: the figures, the layouts and which are viable, bool [N], and what they were judged against."""

    figures: Figures
    layouts: LayoutMaps
    viable: np.ndarray
    reference: Reference

    def as_json(self) -> dict[str, Any]:
        """Figures as plain numbers, their 95 % intervals, the calibrated rules."""
        return {
            "layouts": len(self.layouts),
            **{name: _number(figure.value) for name, figure in self.figures.items()},
            "intervals": {name: [_number(f.low), _number(f.high)] for name, f in self.figures.items()},
            "held_out_viable": self.reference.held_out_viable(),
            "features": self.reference.features.trunk,
            "rules": self.reference.rules.as_json(),
        }


def audit_checkpoint(config: ExperimentConfig, checkpoint: Location, num_samples: int, seed: int) -> Audit:
    """Audit of what the model of a checkpoint draws from `num_samples` seeds, the same for every model."""
    inputs = _inputs(config) | {"diffusion": find_checkpoint(checkpoint)}
    paths = {name: local_path(path) for name, path in inputs.items()}
    return _audit_model(config, paths, num_samples, seed)


def at_image_size(config: ExperimentConfig, image_size: int | None) -> ExperimentConfig:
    """`config` for pictures of another working size, whatever its models take; itself without one."""
    if image_size is None:
        return config
    if not _SIZES[0] <= image_size <= _SIZES[1]:
        raise InputError(f"--image_size {image_size}: it must be from {_SIZES[0]} to {_SIZES[1]} pixels")
    dataset = config.dataset.model_copy(update={"image_size": image_size})
    return config.model_copy(update={"dataset": dataset})


def audit_manifest(config: ExperimentConfig, manifest: Location, seed: int, real: Location | None = None) -> Audit:
    """Audit of the original layout pictures of a manifest against those of another, the config's filters applied.

    The other is `real`, or the config's. No model is needed.
    """
    real = config.required("dataset.manifest") if real is None else real
    rows = read_manifest(local_path(manifest), [config.dataset.outputs.rgb], config.dataset)
    layouts = read_maps(config, originals(rows))
    return judge(layouts, make_reference(config, {"manifest": local_path(real)}), seed)


def audit_stage(
    config: ExperimentConfig, checkpoint: Location, output_dir: Location, num_samples: int, seed: int
) -> dict[str, Any]:
    """Stage record after writing `audit.json`, `layouts.npz` and `layouts.png` to `output_dir`.

    Its metrics are the figures, and their intervals under `intervals`; the layouts are class maps, and which of them
    are viable.
    """
    inputs = _inputs(config) | {"diffusion": find_checkpoint(checkpoint)}
    model = config.fingerprint()
    settings = {name: model[name] for name in ("dataset", "unet", "scheduler")}
    settings["split"] = {name: model["training"][name] for name in ("train_split", "split_seed")}
    settings["num_steps"] = config.rounds.bad_latents.num_steps
    settings["audit"] = config.audit.model_dump() | {"num_samples": num_samples, "seed": seed}

    def work(workspace: Workspace, paths: Mapping[str, Path]) -> dict[str, Any]:
        audit = _audit_model(config, paths, num_samples, seed)
        described = audit.as_json()
        save_json(described, workspace.folder / FIGURES_NAME)
        with atomic_write(workspace.folder / LAYOUTS_NAME) as file:
            np.savez_compressed(file, classes=audit.layouts.classes, viable=audit.viable)
        save_grid(COLORS[audit.layouts.classes[:GRID_SAMPLES]], workspace.folder / PICTURE_NAME)
        return {name: described[name] for name in (*audit.figures, "intervals", "held_out_viable")}

    return run_stage("audit", output_dir, inputs, settings, work, config.artifacts)


def make_reference(config: ExperimentConfig, paths: Mapping[str, Path]) -> Reference:
    """What layouts of the config are judged against, from the manifest and the autoencoder at `paths`.

    Without an autoencoder it is for layouts in pictures, whose colours are judged by those of the real pictures. Made
    once in a process for the same files and settings.
    """
    provenance = [config.audit, config.dataset, config.autoencoder, config.training.loss.perceptual]
    provenance += [config.training.train_split, config.training.split_seed, config.training.device]
    provenance += [(name, sha256(path)) for name, path in sorted(paths.items())]
    key = repr(provenance)
    if key not in _references:
        _references[key] = _make_reference(config, paths)
    return _references[key]


def _make_reference(config: ExperimentConfig, paths: Mapping[str, Path]) -> Reference:
    rows = read_manifest(paths["manifest"], [config.dataset.outputs.rgb], config.dataset)
    splits = split_by_layout(rows, config.training.train_split, config.training.split_seed)
    training, held_out = (originals(split) for split in splits)
    if min(len(training), len(held_out)) < 2:
        raise InputError(
            f"audit: {len(training)} original layouts to train on and {len(held_out)} held out, it needs two of each: "
            "give more layouts, another training.train_split, or audit: null"
        )
    section = config.audit
    real = read_maps(config, training)  # first: it names the row of a picture that is none
    scale = section.pixels_per_metre or typical_scale(training, config.dataset.outputs.rgb, config.dataset.image_size)
    shown = real
    if "autoencoder" in paths:
        # Generated layouts come through the decoder, whose colours are not those of a palette to the last digit.
        autoencoder = load_autoencoder(paths["autoencoder"], config).to(pick_device(config.training.device))
        shown = _reconstructed(config, training, autoencoder)
    rules = calibrate(real.classes, shown.off_palette, scale, section.pass_share)
    features = FeatureSpace.fit(real.classes, config.training.loss.perceptual)
    return Reference(rules, real, read_maps(config, held_out), features)


def judge(layouts: LayoutMaps, reference: Reference, seed: int) -> Audit:
    """The figures of layouts: the share that keeps each rule and all (`viable`), then those of their distribution.

    Raises InputError for fewer than `FEWEST` layouts.
    """
    if len(layouts) < FEWEST:
        raise InputError(f"{len(layouts)} layouts are too few to audit: give at least {FEWEST}")
    kept = reference.rules.check(layouts.classes, layouts.off_palette)
    rng = np.random.default_rng(derive_seed(seed, "audit bootstrap"))
    figures = {rule: mean_interval(kept[rule].to_numpy(float), rng) for rule in [VIABLE, *kept.columns[:-1]]}
    figures |= compare_distributions(
        layouts.classes, reference.training.classes, reference.held_out.classes, reference.features, seed
    )
    return Audit(figures, layouts, kept[VIABLE].to_numpy(bool), reference)


def read_maps(config: ExperimentConfig, rows: Any) -> LayoutMaps:
    """Class maps of manifest rows at the working size; what is in no palette colour is background there."""
    pictures = LayoutPictures(rows, config.dataset.outputs.rgb, config.dataset.image_size)
    classes = np.stack([pictures.batch([index]).classes[0].numpy() for index in range(len(pictures))]).astype(np.uint8)
    unlabelled = classes == UNLABELLED
    classes[unlabelled] = len(COLORS) - 1
    return LayoutMaps(classes, unlabelled.mean(axis=(1, 2)))


@torch.no_grad()
def decode_maps(latents: Tensor, decoder: Decoder, batch_size: int = 64) -> LayoutMaps:
    """What a decoder draws of latents [N, C, h, w]: its segmentation head's classes, its RGB head's colours."""
    device = next(decoder.parameters()).device
    classes, off = [], []
    for part in latents.split(batch_size):
        decoded = decoder(part.to(device))
        classes.append(decoded.logits.argmax(1).byte().cpu().numpy())
        rgb = ((decoded.rgb.float() + 1) * 127.5).permute(0, 2, 3, 1).cpu().numpy()
        off.append(off_palette(rgb).mean(axis=(1, 2)))
    return LayoutMaps(np.concatenate(classes), np.concatenate(off))


def _audit_model(config: ExperimentConfig, paths: Mapping[str, Path], num_samples: int, seed: int) -> Audit:
    device = pick_device(config.training.device)
    unet = load_unet(paths["diffusion"], config).to(device)
    autoencoder = load_autoencoder(paths["autoencoder"], config).to(device)
    seeds = [derive_seed(seed, "audit", index) for index in range(num_samples)]
    section = config.rounds.bad_latents
    latents = sample_latents(unet, config, seeds, section.num_steps, section.batch_size, "audit")
    return judge(decode_maps(latents, autoencoder.decoder), make_reference(config, paths), seed)


def _reconstructed(config: ExperimentConfig, rows: Any, autoencoder: Autoencoder) -> LayoutMaps:
    pictures = LayoutPictures(rows, config.dataset.outputs.rgb, config.dataset.image_size)
    latents = encode_pictures(pictures, autoencoder, config.rounds.bad_latents.batch_size, "real layouts")
    return decode_maps(latents, autoencoder.decoder)


def _inputs(config: ExperimentConfig) -> dict[str, Location]:
    return {
        "manifest": config.required("dataset.manifest"),
        "autoencoder": config.required("autoencoder.checkpoint"),
    }


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return round(float(value), 6) if math.isfinite(value) else None
