"""Stages 1, 2 and 3 of a config: what each starts from, where it writes, what it says at the end."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import UNet2DModel

from core.config.experiment import ExperimentConfig
from core.config.training_sections import TrainingSection
from core.data.latents import Latents
from core.data.layouts import CACHE_BYTES, LayoutPictures
from core.data.manifest import read_manifest, split_by_layout
from core.inputs.places import Location, is_remote
from core.inputs.state_form import weights_digest
from core.models.adversarial import build_adversarial_form, build_sample_fn
from core.models.checkpoints import find_checkpoint, load_autoencoder, load_checkpoint, load_discriminator, load_unet
from core.models.diffusion import Denoiser, build_scheduler, build_unet, denoiser
from core.models.discriminator import LatentDiscriminator
from core.models.losses import LossModels
from core.models.perceptual import build_perceptual
from core.models.pictures import save_grid, save_sample_grid
from core.models.trajectories import kept_trajectories
from core.records.artifacts import CONFIG_NAME, RECORD_NAME, is_stage_folder, stage3_location
from core.records.created_files import CreatedFiles
from core.records.ownership import OwnFiles
from core.records.stage_records import local_path, read_record, run_stage
from core.records.workspace import ClaimedWorkspace, WatchedWorkspace, Workspace
from core.runtime import distributed
from core.runtime.device import memory_format, room_for_data
from core.runtime.errors import InputError
from core.runtime.files import require_writable
from core.runtime.scratch import locked_folder
from core.runtime.seeding import derive_seed
from core.runtime.shares import checkpointed
from core.storage.opening import open_store
from core.storage.store import cache_folder, join
from core.training.online_discriminator import OnlineDiscriminator
from core.training.train_diffusion import (
    GRID_SAMPLES,
    DiffusionTraining,
    EarlyStop,
    LatentSet,
    metric_columns,
    viability_scores,
)
from core.training.train_state import SavedState, measured_otherwise, new_train_state
from core.training.training_files import (
    TRAJECTORIES_NAME,
    checkpoint_name,
    extremes_name,
    real_layouts_name,
    stage3_files,
)

log = logging.getLogger(__name__)

# Viability counts as lasting if it held in this many last evaluations of a round.
SATURATION_EVALUATIONS = 3
_SAVE_PATH = "experiment.save_path"
# Layouts shown of those that the discriminator scores best, and of the worst.
_EXTREMES = 8
# The config key that each input of a stage fills.
_KEYS = {
    "manifest": "dataset.manifest",
    "autoencoder": "autoencoder.checkpoint",
    "stage1": "diffusion.stage1_checkpoint",
    "stage2": "diffusion.stage2_checkpoint",
    "stage3": "diffusion.stage3_checkpoint",
    "discriminator": "discriminator.checkpoint",
    "trunk": "training.loss.semantic_loss.perceptual_loss.backbone",
}


def with_inputs(config: ExperimentConfig, inputs: Mapping[str, Location]) -> ExperimentConfig:
    """`config` with the inputs of a stage, by name, at other places than it says."""
    return config.with_values({_KEYS[name]: str(location) for name, location in inputs.items()})


def train_prerequisite_stage(
    stage: int, training: TrainingSection, config: ExperimentConfig, workspace: Workspace
) -> dict[str, Any]:
    """Metrics after training Stage 1 (noise loss) or Stage 2 (with semantic losses, from Stage 1)."""
    start = None if stage == 1 else config.required("diffusion.stage1_checkpoint")
    run = _training(config, training, f"stage{stage}", workspace, start)
    if run.path("latest").exists():
        run.state.take_over(run.state.read(run.path("latest"), config))
    run.run(training.epochs)
    return {
        "epoch": run.state.epoch,
        **_trunk(run.frozen),
        **metric_columns("val", run.validate(), run.training.loss.weights),
    }


def continue_stage3(config: ExperimentConfig, resume: bool | None, recorded: bool) -> dict[str, Any]:
    """Metrics after continuing Stage 3 until epoch `training.epochs` at `experiment.save_path`.

    `recorded` makes it a stage like the others, in a scratch folder and published with a record at the end, as in
    a round, in a bucket, or where a finished one lies. By itself in a local folder it works there: with more epochs it
    goes on from its last.
    `resume`: None goes on from what is there if anything is, True insists on it, False starts anew.
    Raises InputError at once for a missing discriminator or Stage 2 checkpoint.
    """
    with distributed.joined(config.training.device):
        return _continue_stage3(config, resume, recorded)


def _continue_stage3(config: ExperimentConfig, resume: bool | None, recorded: bool) -> dict[str, Any]:
    location = stage3_location(config)
    recorded = recorded or is_remote(location) or _is_recorded(config, Path(location))
    inputs = _stage3_inputs(config, resume, recorded)
    if not recorded:
        on_disk = with_inputs(config, {name: local_path(path) for name, path in inputs.items()})
        with _own_folder(config, Path(location), inputs, resume) as workspace:
            return _train_stage3(on_disk, resume, workspace, recorded)
    if resume is False:
        raise InputError(
            f"--no-resume: what is at {location} is kept; remove it, or choose another experiment.save_path"
        )

    def work(workspace: Workspace, paths: Mapping[str, Path]) -> dict[str, Any]:
        return _train_stage3(with_inputs(config, paths), None, workspace, recorded)

    return run_stage("stage3", location, inputs, _stage3_settings(config), work, config.artifacts)["metrics"]


def _is_recorded(config: ExperimentConfig, folder: Path) -> bool:
    """Whether a stage with a record is in `folder`, or is to be: in that of a round, unless one by hand is there."""
    if read_record(open_store(folder), RECORD_NAME) is not None:
        return True
    by_hand = CreatedFiles(folder).is_ours or _goes_on(config, folder, None)
    in_round = is_stage_folder(os.path.abspath(folder)) and (folder.parent / CONFIG_NAME).is_file()
    return in_round and not by_hand and OwnFiles(open_store(folder.parent.parent)).is_run()


def _stage3_settings(config: ExperimentConfig) -> dict[str, Any]:
    """What Stage 3 depends on besides its inputs, which stand for how they were made."""
    settings = config.fingerprint()
    del settings["prerequisites"]
    for name in ("count", "epochs_per_round", "discriminator"):
        del settings["rounds"][name]
    for name in ("num_samples", "real_variants"):
        del settings["rounds"]["bad_latents"][name]
    return settings


@contextlib.contextmanager
def _own_folder(
    config: ExperimentConfig, folder: Path, inputs: Mapping[str, Location], resume: bool | None
) -> Iterator[Workspace]:
    """The workspace of a Stage 3 by hand in the user's `folder`, which this process holds until the end.

    InputError if there is no training of ours to go on with and the folder holds anything that `made.json` does not
    say is ours, LeaseError if another process trains there.
    """
    if not distributed.is_first():
        yield WatchedWorkspace(folder)
        return
    names = stage3_files(config.experiment.name)
    require_writable(folder)
    with locked_folder(folder):
        made = CreatedFiles(folder)
        if not _goes_on(config, folder, resume):
            # Earlier versions kept no record: a training of theirs can be continued, but not replaced.
            if not made.covers(names):
                made.require_empty(_SAVE_PATH)
            _require_nothing_to_lose(config, made, inputs, resume)
        with ClaimedWorkspace(folder, made, names, _SAVE_PATH) as workspace:
            yield workspace


def _require_nothing_to_lose(
    config: ExperimentConfig, made: CreatedFiles, inputs: Mapping[str, Location], resume: bool | None
) -> None:
    """InputError if beginning anew would remove an input of the training, or epochs that nobody said may go."""
    removed = [made.folder / name for name in made.existing(stage3_files(config.experiment.name))]
    for name, location in inputs.items():
        if any(path.samefile(location) for path in removed if not is_remote(location) and Path(location).exists()):
            raise InputError(
                f"{_KEYS[name]} {location} is a file that beginning anew removes: move it, or choose another "
                f"{_SAVE_PATH}"
            )
    if resume is False:
        return
    for path in removed:
        if path.suffix != ".pt" or "_checkpoint_" not in path.name:
            continue
        # One that died before it kept anything to go on from has at most these epochs.
        epoch = load_checkpoint(path, "checkpoint").get("epoch", 0)
        if epoch >= config.training.latest_interval:
            raise InputError(
                f"{path} is of epoch {epoch}, and there is no {config.experiment.name}_checkpoint_latest.pt beside it "
                "to go on from: put that back, or give --no-resume to begin anew and remove it"
            )


def _goes_on(config: ExperimentConfig, folder: Path, resume: bool | None) -> bool:
    return resume is not False and (folder / checkpoint_name(config.experiment.name, "latest")).exists()


def _stage3_inputs(config: ExperimentConfig, resume: bool | None, recorded: bool) -> dict[str, Location]:
    manifest, discriminator = config.required("dataset.manifest"), config.required("discriminator.checkpoint")
    if not is_remote(manifest) and not Path(manifest).exists():
        raise InputError(f"manifest {manifest} does not exist: set dataset.manifest")
    location = stage3_location(config)
    latest = join(location, checkpoint_name(config.experiment.name, "latest"))
    there = not is_remote(location) and Path(latest).exists()
    if resume and not there:
        raise InputError(f"--resume: there is no {latest} to go on from; leave the option out to start")
    inputs = {
        "manifest": manifest,
        "autoencoder": config.required("autoencoder.checkpoint"),
        "discriminator": find_checkpoint(discriminator),
    }
    if config.diffusion.stage3_checkpoint is not None:
        inputs["stage3"] = find_checkpoint(config.diffusion.stage3_checkpoint)
    elif recorded or not there or resume is False:
        inputs["stage2"] = find_checkpoint(config.required("diffusion.stage2_checkpoint"))
    semantic = config.training.loss.semantic_loss
    if semantic is not None and semantic.perceptual_loss.backbone is not None:
        inputs["trunk"] = semantic.perceptual_loss.backbone
    return inputs


def _train_stage3(
    config: ExperimentConfig, resume: bool | None, workspace: Workspace, recorded: bool
) -> dict[str, Any]:
    """Train Stage 3 in the workspace, writing `checkpoints/{name}_checkpoint_{best,latest}.pt`,
    `samples/{name}_epoch_*.png` (the first before any step), `samples/{name}_{real,best_and_worst}.png` and
    `{name}_metrics.csv`.
    """
    name, folder = config.experiment.name, workspace.folder
    latest = folder / checkpoint_name(name, "latest")
    going_on = distributed.from_first(_goes_on(config, folder, resume))
    previous = config.diffusion.stage3_checkpoint
    start = previous or (None if going_on else config.required("diffusion.stage2_checkpoint"))
    judge = load_discriminator(config.required("discriminator.checkpoint"), config.latent_shape)
    run = _training(config, config.training, name, workspace, start)
    judge = judge.to(run.device)
    online, run.state.discriminator = _online_discriminator(config, judge), weights_digest(judge)
    afresh = False
    if going_on:
        run.state.online = online
        saved = run.state.read(latest, config)
        afresh = not recorded and _is_of_another_discriminator(saved, run.state.discriminator)
        if afresh:
            saved = saved.judged_anew()
        elif (changed := measured_otherwise(saved.config, config)) is not None:
            log.warning("%s: %s was changed; the figures before are measured anew", latest, changed)
            saved = saved.measured_anew()
        run.state.take_over(saved)
    elif previous is not None:
        # Scores against the last round's discriminator do not compare with this one's, and its copy is not this one's.
        run.state.take_over(run.state.read(find_checkpoint(previous), config).judged_anew())
    run.state.online = online
    if online is not None:
        run.require_online_shares()
    # From here on files are written.
    workspace.claim(going_on)
    return _run_stage3(_with_discriminator(run, judge, afresh))


def _is_of_another_discriminator(saved: SavedState, discriminator: str) -> bool:
    """Whether a training was judged by another discriminator until now, or does not say by which; a line says so."""
    if saved.discriminator == discriminator:
        return False
    known = "does not say which discriminator it" if saved.discriminator is None else "is of another discriminator: it"
    log.warning(
        "%s %s was trained against; viability before, the best checkpoint and the trajectories are made anew for "
        "discriminator.checkpoint, and do not compare with those of earlier epochs",
        saved.path,
        known,
    )
    return True


def _training(
    config: ExperimentConfig, training: TrainingSection, name: str, workspace: Workspace, start: str | None
) -> DiffusionTraining:
    """The stage's training, its UNet from the checkpoint `start` or untrained."""
    device = distributed.own_device(training.device)
    state = new_train_state(_initial_unet(config, start), training, device)
    if config.unet.gradient_checkpointing:
        state.unet.enable_gradient_checkpointing(checkpointed)
    autoencoder = load_autoencoder(config.required("autoencoder.checkpoint"), config).to(device)
    semantic = training.loss.semantic_loss
    data, validation = load_splits(config, with_pictures=semantic is not None)
    for part in (data, validation):
        part.latents.hold(device, room_for_data(device))
    scheduler = build_scheduler(config.scheduler)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(device)
    frozen = LossModels(
        scheduler=scheduler,
        decoder=autoencoder.decoder,
        perceptual=build_perceptual(semantic.perceptual_loss).to(device) if semantic else None,
    )
    return DiffusionTraining(config, training, name, workspace, state, frozen, data, validation, autoencoder.decoder)


def load_splits(config: ExperimentConfig, with_pictures: bool) -> tuple[LatentSet, LatentSet]:
    """Training and validation latents of the config's manifest, and their pictures where a term needs them."""
    outputs, dataset = config.dataset.outputs, config.dataset
    manifest = config.required("dataset.manifest")
    columns = [outputs.latent, *([outputs.rgb, outputs.segmentation] if with_pictures else [])]
    rows = read_manifest(manifest, columns, dataset)
    training, validation = split_by_layout(rows, config.training.train_split, config.training.split_seed)
    scratch = cache_folder(config.artifacts)

    def latent_set(split: pd.DataFrame) -> LatentSet:
        latents, pictures = Latents(split, outputs.latent, config.latent_shape, scratch), None
        if with_pictures:
            share = CACHE_BYTES * len(split) // len(rows)
            pictures = LayoutPictures(split, outputs.rgb, dataset.image_size, share)
        return LatentSet(latents, pictures)

    return latent_set(training), latent_set(validation)


def _initial_unet(config: ExperimentConfig, start: str | None) -> UNet2DModel:
    if start is not None:
        return load_unet(start, config)
    seed = config.prerequisites.seed if config.prerequisites else config.training.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "unet weights"))
        return build_unet(config.unet, config.latent_size)


def _online_discriminator(config: ExperimentConfig, judge: LatentDiscriminator) -> OnlineDiscriminator | None:
    section = config.discriminator
    if section.update == "frozen" or section.weight == 0:
        return None
    return OnlineDiscriminator(judge, section, config.training.seed)


def _with_discriminator(run: DiffusionTraining, discriminator: LatentDiscriminator, afresh: bool) -> DiffusionTraining:
    """`run` judged by the frozen discriminator, and trained against it unless its weight is zero.

    Trajectories that are there already are made again if `afresh`.
    """
    config, state = run.config, run.state
    run.discriminator = discriminator
    run.viability_seeds = [
        derive_seed(config.training.seed, "viability", index) for index in range(config.rounds.viability_samples)
    ]
    if config.discriminator.weight == 0:
        return run
    path = run.folder / TRAJECTORIES_NAME
    run.trajectories = kept_trajectories(path, state.ema, config, state.epoch, afresh)
    section, alpha_bars = config.discriminator, run.frozen.scheduler.alphas_cumprod
    met = state.online.model if state.online is not None else discriminator
    reference = _reference(config, run) if section.form == "ddo" else None
    run.maker = build_sample_fn(section, alpha_bars)
    run.frozen = dataclasses.replace(
        run.frozen, adversarial=build_adversarial_form(section, met, reference, alpha_bars)
    )
    return run


def _reference(config: ExperimentConfig, run: DiffusionTraining) -> Denoiser:
    """The frozen model that this stage started from, as a function."""
    start = config.diffusion.stage3_checkpoint or config.required("diffusion.stage2_checkpoint")
    unet = load_unet(start, config).to(run.device, memory_format=memory_format(run.device))
    return denoiser(unet.eval().requires_grad_(False), run.frozen.scheduler)


def _run_stage3(run: DiffusionTraining) -> dict[str, Any]:
    config, state = run.config, run.state
    if not state.start:
        state.start = {
            "epoch": state.epoch,
            "viability_score": run.viability(),
            "noise_loss": run.validate()["noise"],
        }
        run.sample()
        if run.workspace.writes:
            _show_real_layouts(run)
    rule = config.rounds.advance_when
    stop = EarlyStop(rule.viability_score, rule.evaluations, since=state.start["epoch"]) if rule else None
    run.run(config.training.epochs, stop)
    latents, scores = run.judged()
    by_score = scores.argsort(descending=True, stable=True)
    extremes = torch.cat([by_score[:_EXTREMES], by_score[-_EXTREMES:]])
    if run.workspace.writes:
        save_sample_grid(latents[extremes], run.decoder, run.folder / extremes_name(config.experiment.name), _EXTREMES)
    viability = scores.mean().item()
    recent = viability_scores(state.history, state.start["epoch"])[-SATURATION_EVALUATIONS:]
    return {
        "epoch": state.epoch,
        "first_epoch": state.start["epoch"],
        "viability_before": state.start["viability_score"],
        "viability_after": viability,
        "noise_before": state.start["noise_loss"],
        "viability_floor": min([*recent, viability]),
        "discriminator_weight": state.adversarial_weight,
        **_trunk(run.frozen),
        **metric_columns("val", run.validate(), run.training.loss.weights),
    }


def _show_real_layouts(run: DiffusionTraining) -> None:
    path = run.folder / real_layouts_name(run.config.experiment.name)
    data, count = run.validation, min(GRID_SAMPLES, len(run.validation))
    if data.pictures is None:
        save_sample_grid(data.latents.batch(torch.arange(count)), run.decoder, path)
    else:
        save_grid(np.stack([data.pictures.rgb(index) for index in range(count)]), path)


def _trunk(frozen: LossModels) -> dict[str, str]:
    return {"perceptual_trunk": frozen.perceptual.trunk} if frozen.perceptual else {}
