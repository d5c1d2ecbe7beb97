"""The audit: how good layouts are, by rules and statistics that no training used."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from core.audit.bootstrap import Interval, mean_interval
from core.audit.distribution import compare_distributions
from core.audit.layout_maps import LayoutMaps, decode_maps, read_maps
from core.audit.reference import Reference, make_reference
from core.audit.rules import VIABLE
from core.audit.second_judge import SOUND, doorless
from core.checkpoints.loading import load_autoencoder
from core.checkpoints.strength import FromStart, load_model, model_inputs
from core.config.experiment import ExperimentConfig
from core.config.round_sections import FEWEST_AUDITED, AuditSection
from core.data.manifest import originals, read_manifest
from core.data.palette_file import palette_input
from core.inputs.locations import Location
from core.models.pictures import GRID_SAMPLES, save_grid
from core.models.sampling import sample_latents
from core.records.input_files import local_path
from core.records.stage_run import run_stage
from core.records.workspace import Workspace
from core.runtime import distributed, processes
from core.runtime.errors import InputError
from core.runtime.files import atomic_write, save_json
from core.runtime.seeding import derive_seed

FIGURES_NAME, LAYOUTS_NAME, PICTURE_NAME = "audit.json", "layouts.npz", "layouts.png"

# Side of an audited picture in pixels: walls and doors must be visible, and hundreds of pictures fit into memory.
_SMALLEST_SIDE, _LARGEST_SIDE = 16, 1024


@dataclass(frozen=True)
class Audit:
    """The result: figures by name with intervals, the layouts, which are viable (bool [N]), and the reference."""

    figures: dict[str, Interval]
    layouts: LayoutMaps
    viable: np.ndarray
    reference: Reference

    def as_json(self) -> dict[str, Any]:
        """Figures as plain numbers, their 95 % intervals, the calibrated rules, the second judge's bounds."""
        return {
            "layouts": len(self.layouts),
            **{name: _number(figure.value) for name, figure in self.figures.items()},
            "intervals": {name: [_number(f.low), _number(f.high)] for name, f in self.figures.items()},
            "held_out_viable": self.reference.held_out_viable(),
            "judge_held_out": self.reference.judge_held_out(),
            "features": self.reference.features.trunk,
            "rules": self.reference.rules.as_json(),
            "judge": self.reference.judge.as_json(),
        }


def audit_checkpoint(
    config: ExperimentConfig, checkpoint: Location, num_samples: int, seed: int, from_start: FromStart | None = None
) -> Audit:
    """Audit of the layouts that a checkpoint's model generates from `num_samples` seeds, the same for every model.

    With `from_start` the model is one at a strength between a start and the checkpoint, or beyond.
    """
    inputs = _inputs(config) | model_inputs(checkpoint, from_start)
    paths = {name: local_path(path, config.artifacts) for name, path in inputs.items()}
    return _audit_latents(config, paths, _sample(config, paths, num_samples, seed, from_start), seed)


def at_image_size(config: ExperimentConfig, image_size: int | None) -> ExperimentConfig:
    """`config` with another working size of pictures, whatever its models need; unchanged without one."""
    if image_size is None:
        return config
    if not _SMALLEST_SIDE <= image_size <= _LARGEST_SIDE:
        raise InputError(f"--image_size {image_size}: it must be from {_SMALLEST_SIDE} to {_LARGEST_SIDE} pixels")
    dataset = config.dataset.model_copy(update={"image_size": image_size})
    return config.model_copy(update={"dataset": dataset})


def audit_manifest(config: ExperimentConfig, manifest: Location, seed: int, real: Location | None = None) -> Audit:
    """Audit of the original pictures of `manifest` against those of `real`, by default the config's manifest.

    The config's filters apply to both. No model is needed.
    """
    real = config.required("dataset.manifest") if real is None else real
    rows = read_manifest(local_path(manifest, config.artifacts), [config.dataset.outputs.rgb], config.dataset)
    layouts = read_maps(config, originals(rows))
    return audit_layouts(layouts, make_reference(config, {"manifest": local_path(real, config.artifacts)}), seed)


def audit_stage(
    config: ExperimentConfig,
    checkpoint: Location,
    output_dir: Location,
    num_samples: int,
    seed: int,
    from_start: FromStart | None = None,
) -> dict[str, Any]:
    """Stage record after writing `audit.json`, `layouts.npz` and `layouts.png` to `output_dir`.

    Its metrics are the figures, with their intervals under `intervals`. `layouts.npz` holds the class maps and which of
    them are viable. With `from_start` the inputs are both checkpoints, and the settings name the strength.
    """
    inputs = _inputs(config) | model_inputs(checkpoint, from_start)
    settings = _settings(config, num_samples, seed, from_start)

    def work(workspace: Workspace, paths: Mapping[str, Path]) -> dict[str, Any]:
        latents = _sample(config, paths, num_samples, seed, from_start)
        if not workspace.writes:
            return {}
        audit = _audit_latents(config, paths, latents, seed)
        described = audit.as_json()
        save_json(described, workspace.folder / FIGURES_NAME)
        with atomic_write(workspace.folder / LAYOUTS_NAME) as file:
            np.savez_compressed(file, classes=audit.layouts.classes, viable=audit.viable)
        shown = audit.reference.rules.palette.rgb_from_classes(audit.layouts.classes[:GRID_SAMPLES])
        save_grid(shown, workspace.folder / PICTURE_NAME)
        return {name: described[name] for name in (*audit.figures, "intervals", "held_out_viable", "judge_held_out")}

    with processes.together(
        config.training, audit_stage, config, checkpoint, output_dir, num_samples, seed, from_start
    ):
        return run_stage("audit", output_dir, inputs, settings, work, config.artifacts)


def audit_layouts(layouts: LayoutMaps, reference: Reference, seed: int) -> Audit:
    """The figures of layouts: the shares that keep all rules (`viable`) and each rule, those of the distribution, then
    the shares that the second judge finds sound (`judge_sound`) and that are houses without a door (`doorless`).

    Raises InputError for fewer than `FEWEST_AUDITED` layouts.
    """
    if len(layouts) < FEWEST_AUDITED:
        raise InputError(f"{len(layouts)} layouts are too few to audit: give at least {FEWEST_AUDITED}")
    kept = reference.rules.check(layouts.classes, layouts.off_palette)
    rng = np.random.default_rng(derive_seed(seed, "audit bootstrap"))
    figures = {rule: mean_interval(kept[rule].to_numpy(float), rng) for rule in [VIABLE, *kept.columns[:-1]]}
    figures |= compare_distributions(
        layouts.classes, reference.training.classes, reference.held_out.classes, reference.features, seed
    )
    # Own random numbers: intervals of other figures stay as they were without a second judge.
    rng = np.random.default_rng(derive_seed(seed, "second judge bootstrap"))
    judged = {
        "judge_sound": reference.judge.check(layouts.classes)[SOUND],
        "doorless": doorless(layouts.classes, reference.rules.palette),
    }
    figures |= {name: mean_interval(np.asarray(share, float), rng) for name, share in judged.items()}
    return Audit(figures, layouts, kept[VIABLE].to_numpy(bool), reference)


def _sample(
    config: ExperimentConfig, paths: Mapping[str, Path], num_samples: int, seed: int, from_start: FromStart | None
) -> Tensor:
    """The latents [N, C, h, w] that are audited; of several processes all get all."""
    unet = load_model(paths, from_start, config).to(distributed.own_device(config.training.device))
    seeds = [derive_seed(seed, "audit", index) for index in range(num_samples)]
    return sample_latents(unet, config, seeds, config.audit_steps, config.rounds.bad_latents.batch_size, "audit")


def _audit_latents(config: ExperimentConfig, paths: Mapping[str, Path], latents: Tensor, seed: int) -> Audit:
    device = distributed.own_device(config.training.device)
    autoencoder = load_autoencoder(paths["autoencoder"], config).to(device)
    return audit_layouts(decode_maps(latents, autoencoder.decoder), make_reference(config, paths), seed)


def _settings(config: ExperimentConfig, num_samples: int, seed: int, from_start: FromStart | None) -> dict[str, Any]:
    """What the record of an audit names besides its inputs."""
    model = config.fingerprint()
    settings = {name: model[name] for name in ("dataset", "unet", "scheduler")}
    settings["split"] = {name: model["training"][name] for name in ("train_split", "split_seed")}
    settings["num_steps"] = config.audit_steps
    section: AuditSection = config.required("audit")
    settings["audit"] = section.model_dump(exclude={"every", "num_steps", "strengths"}) | {
        "num_samples": num_samples,
        "seed": seed,
    }
    if from_start is not None:
        settings["strength"] = from_start.strength
    return settings


def _inputs(config: ExperimentConfig) -> dict[str, Location]:
    return {
        "manifest": config.required("dataset.manifest"),
        "autoencoder": config.required("autoencoder.checkpoint"),
        **palette_input(config),
    }


def _number(value: float) -> float | None:
    """`value` to six decimals, or None for NaN and infinity, which JSON does not have."""
    return round(float(value), 6) if math.isfinite(value) else None
