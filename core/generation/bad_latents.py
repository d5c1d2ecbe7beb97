"""generate-bad-latents: real latents of original layouts, and equally many bad latents that the model generates."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from core.checkpoints.loading import find_checkpoint, load_autoencoder, load_unet
from core.config.experiment import ExperimentConfig
from core.config.round_sections import SamplerName
from core.data.layouts import LayoutPictures
from core.data.manifest import choose_rows, originals, read_manifest, split_by_layout
from core.data.palette_file import palette_input, read_palette
from core.generation.latent_check import compare_with_manifest
from core.generation.part_filling import fill_parts
from core.inputs.locations import Location, is_remote
from core.inputs.tensor_files import save_tensors
from core.labels.label_sources import label_inputs, label_settings, labeller, require_label_source
from core.labels.labelling import LABELLED_NAME
from core.models.labelled_latents import LabelledLatents
from core.models.pictures import encode_pictures
from core.models.sampling import CPU_BATCH, require_steps, sample_latents
from core.networks.unet import UNet
from core.records.artifacts import RECORD_NAME
from core.records.input_files import local_path
from core.records.latent_parts import LatentParts, Shard
from core.records.lease import publishing_store
from core.records.provenance import provenance_of
from core.records.record_files import read_record
from core.records.stage_run import run_stage
from core.records.workspace import Workspace
from core.runtime import distributed, processes
from core.runtime.device import pick_device
from core.runtime.errors import require_positive
from core.runtime.files import atomic_write, require_writable
from core.runtime.progress import bar
from core.runtime.seeding import derive_seed
from core.storage.opening import open_store

log = logging.getLogger(__name__)

_STAGE = "bad latents"
# Least number of latents in a part. A crash loses at most a part, and shards are cut between parts.
_LEAST_PART = 64


@dataclass(frozen=True)
class BadLatentsRequest:
    """The inputs and options of the task."""

    manifest: Location
    autoencoder_checkpoint: Location
    diffusion_checkpoint: Location
    output_dir: Location
    num_samples: int = 5000
    batch_size: int = 32
    num_steps: int = 100
    seed: int = 42
    device: str = "auto"
    held_out: bool = True  # use layouts of the validation split if there are too few training layouts
    real_variants: bool = False  # use rotated and mirrored layouts as real ones too
    sampler: SamplerName = "ddim"
    judged: bool = False  # judge each generated layout by the audit's rules; always with rounds.viability.labels: rules


def generate_bad_latents(config: ExperimentConfig, request: BadLatentsRequest) -> dict[str, Any]:
    """Stage record after writing the discriminator's dataset to `request.output_dir`.

    It consists of `real_latents/`, `real_latents_all.pt`, `bad_latents/`, `bad_latents_all.pt` ([N, C, h, w] float32)
    and `discriminator_manifest.csv`. Generated latent i depends only on seed i and the sampler's `num_steps`.
    If generated layouts are judged, `labelled_latents.pt` holds all of them with their labels. With
    `rounds.viability.labels: rules`, viable ones are in `viable_latents/` and `viable_latents_all.pt`, the rest is bad.
    So it is with `file`, by a critic; if its AUC is too low, all of these files hold the latents labelled by hand. With
    `command`, the user's program says which are viable.
    """
    _check_options(config, request)
    inputs = {
        "manifest": request.manifest,
        "autoencoder": find_checkpoint(request.autoencoder_checkpoint),
        "diffusion": find_checkpoint(request.diffusion_checkpoint),
        **palette_input(config),
        **label_inputs(config),
    }
    settings = {
        name: getattr(request, name) for name in ("num_samples", "num_steps", "seed", "held_out", "real_variants")
    }
    model = config.fingerprint()
    settings |= {name: model[name] for name in ("dataset", "unet", "scheduler")}
    settings |= _sampler_settings(request) | label_settings(config)
    settings["use_amp"] = model["training"]["use_amp"]
    settings["split"] = {name: model["training"][name] for name in ("train_split", "split_seed")}

    def work(workspace: Workspace, paths: Mapping[str, Path]) -> dict[str, Any]:
        if workspace.writes:
            return _generate(config, request, paths, workspace.folder)
        _sample_missing(config, request, paths)
        return {}

    with processes.together(config.training, generate_bad_latents, config, request):
        return run_stage(_STAGE, request.output_dir, inputs, settings, work, config.artifacts)


def _sampler_settings(request: BadLatentsRequest) -> dict[str, str]:
    # Earlier versions had no other sampler, and do not name it.
    return {} if request.sampler == "ddim" else {"sampler": request.sampler}


def find_shards(config: ExperimentConfig, request: BadLatentsRequest, count: int) -> list[Shard]:
    """At most `count` shards of about equal size of the missing bad latents; [] if the stage is finished.

    Raises InputError, as `generate_bad_latents` does, for wrong options, a wrong diffusion checkpoint, and existing
    latents with another provenance.
    """
    _check_options(config, request)
    if read_record(open_store(request.output_dir, config.artifacts), RECORD_NAME) is not None:
        return []
    require_label_source(config)  # before the sampling, which may take hours
    missing = _latent_parts(config, request).missing()
    chunks = [missing[len(missing) * n // count : len(missing) * (n + 1) // count] for n in range(count)]
    return [Shard(chunk[0].start, chunk[-1].stop) for chunk in chunks if chunk]


def sample_shard(config: ExperimentConfig, request: BadLatentsRequest, shard: Shard) -> None:
    """Sample the missing latents of a shard and store them for `generate_bad_latents` with the same request.

    Of the request's inputs it needs only the diffusion checkpoint. It needs no lease, since every process samples the
    same latent from a seed.
    """
    parts = _latent_parts(config, request)
    if not is_remote(request.output_dir):
        require_writable(Path(request.output_dir))
    checkpoint = local_path(find_checkpoint(request.diffusion_checkpoint), config.artifacts)
    unet = load_unet(checkpoint, config).to(pick_device(request.device))
    _sample(unet, config, request, parts, shard)


def _check_options(config: ExperimentConfig, request: BadLatentsRequest) -> None:
    """InputError for an option out of its range."""
    require_positive(num_samples=request.num_samples, batch_size=request.batch_size, num_steps=request.num_steps)
    require_steps(request.num_steps, config)


def _generate(
    config: ExperimentConfig, request: BadLatentsRequest, paths: Mapping[str, Path], folder: Path
) -> dict[str, Any]:
    device = distributed.own_device(request.device)
    label, labelled = labeller(config, paths, folder, request.judged), None
    rows = _candidates(config, request, paths["manifest"])
    autoencoder = load_autoencoder(paths["autoencoder"], config).to(device)
    chosen = choose_rows(rows, request.num_samples, derive_seed(request.seed, "real latents"))
    pictures = LayoutPictures(chosen, config.dataset.outputs.rgb, config.dataset.image_size, read_palette(config))
    real = encode_pictures(pictures, autoencoder, request.batch_size, "real latents")
    metrics = compare_with_manifest(real, chosen, paths["manifest"], config)
    generated = _sample_missing(config, request, paths).read()
    metrics["bad_latent_std"] = generated.std().item()
    if label is not None:
        labelled, known = label(generated, autoencoder)
        labelled.save(folder / LABELLED_NAME)
        generated, metrics = labelled.latents, metrics | known
    bad = torch.ones(len(generated), dtype=torch.bool)
    if labelled is not None and config.rounds.viability.labels != "generated":
        bad = ~labelled.viable
    written = [_write_latents(real, range(len(real)), "real", folder).assign(source="real", is_viable=True)]
    for kind, which in (("viable", ~bad), ("bad", bad)):
        if which.any():
            indices = which.nonzero().squeeze(1).tolist()
            names = _write_latents(generated[which], indices, kind, folder)
            names = names.assign(source="generated", is_viable=kind == "viable", score=_score(labelled, kind, which))
            written.append(names if labelled is None else names.join(_label_columns(labelled, which)))
    _write_manifest(pd.concat(written, ignore_index=True), request.seed, folder, with_source=labelled is not None)
    metrics |= {"real_latents": len(real), "bad_latents": int(bad.sum())}
    if labelled is not None:
        metrics["viable_share"] = labelled.viable.double().mean().item()
    return metrics


def _sample_missing(config: ExperimentConfig, request: BadLatentsRequest, paths: Mapping[str, Path]) -> LatentParts:
    """The parts of all bad latents, after sampling those that are missing."""
    parts = _latent_parts(config, request)
    unet = load_unet(paths["diffusion"], config).to(distributed.own_device(request.device))
    _sample(unet, config, request, parts, Shard(0, request.num_samples))
    return parts


def _score(labelled: LabelledLatents | None, kind: str, chosen: Tensor) -> float | np.ndarray:
    """The scores of the `chosen` latents, which are of one kind: the critic's, else 1 for viable ones and 0 for bad."""
    if labelled is None or labelled.score is None:
        return float(kind == "viable")
    return labelled.score[chosen].numpy()


def _latent_parts(config: ExperimentConfig, request: BadLatentsRequest) -> LatentParts:
    """The parts of the request's bad latents. A part holds a whole number of batches on any device."""
    store = publishing_store(request.output_dir, config.artifacts)
    model = config.fingerprint()
    settings = {"num_steps": request.num_steps, "seed": request.seed, "latent_shape": config.latent_shape}
    settings |= _sampler_settings(request)
    settings["use_amp"] = model["training"]["use_amp"]
    settings |= {name: model[name] for name in ("unet", "scheduler")}
    inputs = {"diffusion": find_checkpoint(request.diffusion_checkpoint)}
    provenance = provenance_of(_STAGE, inputs, settings, config.artifacts)
    batch = math.lcm(CPU_BATCH, request.batch_size)
    return LatentParts(store, provenance, request.num_samples, -(-_LEAST_PART // batch) * batch, config.artifacts)


def _sample(unet: UNet, config: ExperimentConfig, request: BadLatentsRequest, parts: LatentParts, shard: Shard) -> None:
    """Sample the missing parts of the shard."""

    def draw(positions: Sequence[int]) -> Tensor:
        seeds = [derive_seed(request.seed, _STAGE, position) for position in positions]
        return sample_latents(unet, config, seeds, request.num_steps, request.batch_size, _STAGE, request.sampler)

    fill_parts(parts, [part for part in parts.missing() if part.start in range(*shard)], draw, _STAGE)


def _candidates(config: ExperimentConfig, request: BadLatentsRequest, manifest: Path) -> pd.DataFrame:
    """Rows to choose real layouts from: the training split, which later validations do not use.

    If these are too few and `held_out` allows it, all rows are candidates.
    """
    rows = read_manifest(manifest, [config.dataset.outputs.rgb], config.dataset)
    training, _ = split_by_layout(rows, config.training.train_split, config.training.split_seed)
    if not request.real_variants:
        training, rows = originals(training), originals(rows)
    if len(training) < request.num_samples and request.held_out:
        training = rows
    if len(training) < request.num_samples:
        log.warning(
            "num_samples %d is above the %d %s layouts of %s: all of them are used",
            request.num_samples,
            len(training),
            "real" if request.real_variants else "original",
            request.manifest,
        )
    return training


def _write_latents(latents: Tensor, indices: Sequence[int], kind: str, folder: Path) -> pd.DataFrame:
    """Rows of the manifest with their names, after writing files of single latents and a file of all of the kind."""
    names = [f"{kind}_latents/{kind}_latent_{index:05d}.pt" for index in indices]
    for name, latent in zip(bar(names, f"writing {kind} latents"), latents, strict=True):
        save_tensors(latent.clone(), folder / name, on_disk=False)
    save_tensors(latents, folder / f"{kind}_latents_all.pt")
    return pd.DataFrame({"latent_path": names})


def _label_columns(labelled: LabelledLatents, chosen: Tensor) -> pd.DataFrame:
    """A row for each of the `chosen` latents, bool [N]: which rules it keeps, and its fifth by furniture."""
    kept = pd.DataFrame(labelled.kept[chosen].numpy(), columns=list(labelled.rules))
    return kept.assign(furniture_fifth=labelled.fifth[chosen].numpy())


def _write_manifest(rows: pd.DataFrame, seed: int, folder: Path, with_source: bool) -> None:
    """Write the manifest in a random order: path, label (1: good), is_viable, what is known of generated latents."""
    rows.insert(1, "label", rows["is_viable"].astype(int))
    first = ["latent_path", "label", "is_viable"]
    columns = [*first, *(name for name in rows.columns if name not in first)] if with_source else first
    shuffled = rows[columns].sample(frac=1, random_state=seed % 2**32)
    with atomic_write(folder / "discriminator_manifest.csv") as file:
        shuffled.to_csv(file, index=False)
