"""Layouts that a model draws, as a folder to use: pictures, a manifest, metadata for the datasets library."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor

from core.audit.layout_maps import LayoutMaps
from core.audit.reference import make_reference
from core.audit.rules import RULES, VIABLE, Rules
from core.checkpoints.strength import FromStart
from core.config.experiment import ExperimentConfig
from core.config.round_sections import SamplerName
from core.data.palette import Palette
from core.data.palette_file import palette_input
from core.generation.layout_model import DRAWING, LayoutModel, layout_model_inputs, layout_seeds, load_layout_model
from core.generation.part_filling import fill_parts
from core.inputs.locations import Location
from core.models.pictures import GRID_SAMPLES, save_grid
from core.models.sampling import CPU_BATCH, require_steps
from core.records.artifacts import RECORD_NAME
from core.records.input_files import local_path
from core.records.latent_parts import LatentParts
from core.records.lease import publishing_store
from core.records.provenance import provenance_of
from core.records.record_files import Record, read_record
from core.records.stage_run import remove_leftovers, run_stage
from core.records.workspace import Workspace
from core.runtime.errors import require_positive
from core.runtime.files import atomic_write
from core.runtime.processes import together
from core.runtime.progress import each

MANIFEST_NAME, METADATA_NAME = "manifest.csv", "metadata.jsonl"
# The datasets library passes over folders whose names begin so. Elsewhere it would take the sheet for a layout without
# metadata, which its versions before 3.4 refuse.
GRID_NAME = "__grid__/layouts.png"

# Least number of latents in a part, of which a crash loses at most one: as many batches as a CPU samples side by side.
_LEAST_PART = 4 * CPU_BATCH


@dataclass(frozen=True)
class DrawRequest:
    """What to draw: `num_samples` layouts of the noise of `seed`, by a sampler of `num_steps` steps, to `output_dir`.

    With `from_start` the model is one between a start and the checkpoint, or beyond. `grid` asks for a picture of the
    first layouts, `audit` for the audit's verdict on each.
    """

    checkpoint: Location
    output_dir: Location
    num_samples: int
    seed: int
    num_steps: int
    sampler: SamplerName = "ddim"
    batch_size: int = 32
    grid: bool = False
    audit: bool = False
    from_start: FromStart | None = None


@dataclass(frozen=True)
class _Models:
    """What draws, and the rules that judge, if asked to."""

    drawing: LayoutModel
    rules: Rules | None


def draw_layouts(config: ExperimentConfig, request: DrawRequest) -> Record:
    """Record of the folder `request.output_dir` after drawing the layouts into it, now or before.

    It holds `layouts/00000.png` and so on in the palette's colours at the working size, and with a row for each
    `manifest.csv`, as training reads it, and `metadata.jsonl`, as the datasets library does. Both name the position and
    the seed of each layout and, with `audit`, the rules that it keeps. Layout i depends on the model, the sampler and
    (seed, i); on a CPU not on the batch size, the number of processes or a crash in between. Metrics are `layouts`, how
    many are `empty` and, with `audit`, how many are `viable`.
    Raises InputError, before anything is written, for a checkpoint that is none or does not fit the config, more steps
    than the schedule has, and a folder that holds other files or layouts of other settings.
    """
    require_positive(num_samples=request.num_samples, batch_size=request.batch_size, num_steps=request.num_steps)
    require_steps(request.num_steps, config)
    inputs, settings = _inputs(config, request), _settings(config, request)
    provenance = provenance_of(DRAWING, inputs, settings, config.artifacts)
    models, store = None, publishing_store(request.output_dir, config.artifacts)
    if read_record(store, RECORD_NAME) is None:
        models = _load(config, request, inputs)  # here, so that a model that cannot draw leaves no folder

    def work(workspace: Workspace, paths: Mapping[str, Path]) -> dict[str, Any]:
        loaded = models or _load(config, request, inputs)
        parts = _sample(loaded.drawing, config, request, provenance)
        return _write(parts.read(), loaded, config, request, workspace.folder) if workspace.writes else {}

    with together(config.training, draw_layouts, config, request):
        record = run_stage(DRAWING, request.output_dir, inputs, settings, work, config.artifacts)
    remove_leftovers(store)
    return record


def _inputs(config: ExperimentConfig, request: DrawRequest) -> dict[str, Location]:
    inputs = layout_model_inputs(config, request.checkpoint, request.from_start)
    if request.audit:
        inputs["manifest"] = config.required("dataset.manifest")
    return inputs | palette_input(config)


def _settings(config: ExperimentConfig, request: DrawRequest) -> dict[str, Any]:
    model = config.fingerprint()
    settings = {name: getattr(request, name) for name in ("num_samples", "seed", "num_steps", "sampler", "grid")}
    # Always named, since what a request leaves out is not compared.
    settings |= {"audited": request.audit, "strength": request.from_start and request.from_start.strength}
    settings |= {name: model[name] for name in ("unet", "scheduler")}
    settings |= {"use_amp": model["training"]["use_amp"], "latent_shape": config.latent_shape}
    settings["rgb_column"] = config.dataset.outputs.rgb
    if request.audit:
        settings["dataset"] = model["dataset"]
        settings["split"] = {name: model["training"][name] for name in ("train_split", "split_seed")}
        settings["audit"] = config.required("audit").model_dump(include={"pass_share", "pixels_per_metre"})
    return settings


def _load(config: ExperimentConfig, request: DrawRequest, inputs: Mapping[str, Location]) -> _Models:
    drawing = load_layout_model(config, request.checkpoint, request.from_start)
    if not request.audit:
        return _Models(drawing, None)
    paths = {name: local_path(place, config.artifacts) for name, place in inputs.items()}
    return _Models(drawing, make_reference(config, paths).rules)


def _sample(
    drawing: LayoutModel, config: ExperimentConfig, request: DrawRequest, provenance: Mapping[str, Any]
) -> LatentParts:
    """The parts of all latents, after sampling those that are missing."""
    store, batch = publishing_store(request.output_dir, config.artifacts), math.lcm(CPU_BATCH, request.batch_size)
    size = -(-_LEAST_PART // batch) * batch
    parts = LatentParts(store, dict(provenance), request.num_samples, size, config.artifacts)

    def draw(positions: Sequence[int]) -> Tensor:
        seeds = layout_seeds(request.seed, positions)
        return drawing.draw(seeds, request.num_steps, request.sampler, request.batch_size)

    fill_parts(parts, parts.missing(), draw, DRAWING, lines=True)
    return parts


def _write(
    latents: Tensor, models: _Models, config: ExperimentConfig, request: DrawRequest, folder: Path
) -> dict[str, Any]:
    """The metrics, after writing all files to `folder`. Only a batch of layouts and the sheet's are in memory."""
    written, shown, palette = [], [], models.drawing.decoder.palette
    for start in each(range(0, len(latents), CPU_BATCH), "pictures", "batches", lines=True):
        maps = models.drawing.decode(latents[start : start + CPU_BATCH])
        names = [f"layouts/{position:05d}.png" for position in range(start, start + len(maps))]
        for name, rgb in zip(names, palette.rgb_from_classes(maps.classes), strict=True):
            with atomic_write(folder / name, on_disk=False) as file:
                Image.fromarray(rgb).save(file, format="PNG")
        written.append(_rows(names, maps, palette, models.rules))
        if start < GRID_SAMPLES:
            shown.append(maps.classes)
    rows = pd.concat(written, ignore_index=True)
    rows.insert(3, "position", np.arange(len(rows)))
    rows.insert(4, "seed", layout_seeds(request.seed, range(len(rows))))
    with atomic_write(folder / MANIFEST_NAME) as file:
        rows.rename(columns={"file_name": config.dataset.outputs.rgb}).to_csv(file, index=False, lineterminator="\n")
    with atomic_write(folder / METADATA_NAME) as file:
        file.writelines(f"{json.dumps(row)}\n".encode() for row in rows.to_dict("records"))
    if request.grid:
        save_grid(palette.rgb_from_classes(np.concatenate(shown)[:GRID_SAMPLES]), folder / GRID_NAME)
    metrics = {"layouts": len(rows), "empty": int(rows["is_empty"].sum())}
    return metrics if models.rules is None else metrics | {"viable": int(rows["is_viable"].sum())}


def _rows(names: list[str], maps: LayoutMaps, palette: Palette, rules: Rules | None) -> pd.DataFrame:
    """A row for each layout: its file, the manifest's flags and, with rules, which of them it keeps."""
    empty = (maps.classes == palette.background).all(axis=(1, 2))
    rows = pd.DataFrame({"file_name": names, "is_empty": empty, "is_augmented": False})
    if rules is None:
        return rows
    kept = rules.check(maps.classes, maps.off_palette)
    return rows.assign(is_viable=kept[VIABLE].to_numpy(), **{rule: kept[rule].to_numpy() for rule in RULES})
