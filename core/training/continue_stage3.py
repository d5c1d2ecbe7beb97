"""Stage 3 of a config: where it trains, what it starts from, its discriminator, and the metrics at its end."""

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.checkpoints.discriminators import load_discriminator
from core.checkpoints.loading import find_checkpoint, load_unet
from core.config.experiment import ExperimentConfig
from core.data.palette_file import palette_input
from core.inputs.locations import Location, is_remote
from core.inputs.state_form import weights_digest
from core.models.adversarial_forms import FormParts, build_adversarial_form
from core.models.diffusion import Denoiser, denoiser
from core.models.discriminator import LatentDiscriminator
from core.models.labelled_latents import LabelledLatents, LabelledPairs, RealLatents
from core.models.trajectories import saved_trajectories
from core.records.artifacts import CONFIG_NAME, RECORD_NAME, is_stage_folder, stage3_location
from core.records.created_files import CreatedFiles
from core.records.input_files import local_path
from core.records.ownership import OwnFiles
from core.records.record_files import read_record
from core.records.stage_run import run_stage
from core.records.workspace import Workspace
from core.runtime import distributed
from core.runtime.device import memory_format
from core.runtime.errors import InputError
from core.runtime.processes import start_others, together
from core.storage.opening import open_store
from core.storage.store import join
from core.trackers.tracking import TrackedStage, require_trackers
from core.training.diffusion_stage import build_training, with_inputs
from core.training.file_names import TRAJECTORIES_NAME, checkpoint_name
from core.training.metrics import EarlyStop
from core.training.online_discriminator import OnlineDiscriminator
from core.training.stage3_figures import final_stage3_metrics, measure_start
from core.training.stage3_folder import own_folder, resumes
from core.training.train_state import SavedState, changed_measure
from core.training.training_step import DiffusionTraining

log = logging.getLogger(__name__)


def continue_stage3(config: ExperimentConfig, resume: bool | None, recorded: bool) -> dict[str, Any]:
    """Metrics after continuing Stage 3 until epoch `training.epochs` at `experiment.save_path`.

    Writes `checkpoints/{name}_checkpoint_{best,latest}.pt`, `samples/{name}_epoch_*.png` (the first before any step),
    `samples/{name}_{real,best_and_worst}.png` and `{name}_metrics.csv`.
    A `recorded` stage works in a scratch folder and is published with a record at the end: in a round, in a bucket, or
    where a finished one lies. Otherwise it works in the local folder itself, and with more epochs it continues there.
    `resume`: None resumes if there is a training to resume, True insists on it, False starts again.
    InputError at once for a missing discriminator or Stage 2 checkpoint.
    """
    with together(config.training, continue_stage3, config, resume, recorded):
        return _continue_stage3(config, resume, recorded)


def _continue_stage3(config: ExperimentConfig, resume: bool | None, recorded: bool) -> dict[str, Any]:
    require_trackers(config)
    location = stage3_location(config)
    recorded = recorded or is_remote(location) or _is_recorded(config, Path(location))
    inputs = _inputs(config, resume, recorded)
    if not recorded:
        start_others()
        on_disk = with_inputs(config, {name: local_path(path, config.artifacts) for name, path in inputs.items()})
        with own_folder(config, Path(location), inputs, resume) as workspace:
            return _train(on_disk, resume, workspace, recorded)
    if resume is False:
        raise InputError(
            f"--no-resume: what is at {location} is kept; remove it, or choose another experiment.save_path"
        )

    def work(workspace: Workspace, paths: Mapping[str, Path]) -> dict[str, Any]:
        return _train(with_inputs(config, paths), None, workspace, recorded)

    record = run_stage("stage3", location, inputs, _settings(config), work, config.artifacts)
    metrics: dict[str, Any] = record["metrics"]
    return metrics


def _is_recorded(config: ExperimentConfig, folder: Path) -> bool:
    """Whether `folder` holds a stage with a record, or is that of a round and holds no training of the user's own."""
    if read_record(open_store(folder, config.artifacts), RECORD_NAME) is not None:
        return True
    users_own = CreatedFiles(folder).is_ours or resumes(config, folder, None)
    in_round = is_stage_folder(os.path.abspath(folder)) and (folder.parent / CONFIG_NAME).is_file()
    return in_round and not users_own and OwnFiles(open_store(folder.parent.parent, config.artifacts)).is_run()


def _settings(config: ExperimentConfig) -> dict[str, Any]:
    """The settings that Stage 3 depends on, without those that its inputs were made with."""
    settings = config.fingerprint()
    del settings["prerequisites"]
    for name in ("count", "epochs_per_round", "steps_per_round", "discriminator"):
        settings["rounds"].pop(name, None)
    for name in ("num_samples", "real_variants"):
        del settings["rounds"]["bad_latents"][name]
    return settings


def _inputs(config: ExperimentConfig, resume: bool | None, recorded: bool) -> dict[str, Location]:
    manifest, discriminator = config.required("dataset.manifest"), config.required("discriminator.checkpoint")
    if not is_remote(manifest) and not Path(manifest).exists():
        raise InputError(f"manifest {manifest} does not exist: set dataset.manifest")
    location = stage3_location(config)
    latest = join(location, checkpoint_name(config.experiment.name, "latest"))
    has_latest = not is_remote(location) and Path(latest).exists()
    if resume and not has_latest:
        raise InputError(f"--resume: there is no {latest} to resume from; leave the option out to start")
    inputs: dict[str, Location] = {
        "manifest": manifest,
        "autoencoder": config.required("autoencoder.checkpoint"),
        "discriminator": find_checkpoint(discriminator),
        **palette_input(config),
    }
    if config.diffusion.stage3_checkpoint is not None:
        inputs["stage3"] = find_checkpoint(config.diffusion.stage3_checkpoint)
    elif recorded or not has_latest or resume is False or _needs_reference(config):
        inputs["stage2"] = find_checkpoint(config.required("diffusion.stage2_checkpoint"))
    if config.discriminator.learns_from_labels:
        inputs["labelled"] = config.required("discriminator.labelled_latents")
    semantic = config.training.loss.semantic_loss
    if semantic is not None and semantic.perceptual_loss.backbone is not None:
        inputs["trunk"] = semantic.perceptual_loss.backbone
    return inputs


def _needs_reference(config: ExperimentConfig) -> bool:
    """Whether the adversarial term compares with the model that the stage started from, even when it resumes."""
    return config.discriminator.form in ("ddo", "negative_aware") and config.discriminator.weight != 0


def _train(config: ExperimentConfig, resume: bool | None, workspace: Workspace, recorded: bool) -> dict[str, Any]:
    """Build Stage 3, restore its state, and train it in the workspace; the final metrics."""
    resumed = distributed.from_first(resumes(config, workspace.folder, resume))
    previous = config.diffusion.stage3_checkpoint
    start = previous or (None if resumed else config.required("diffusion.stage2_checkpoint"))
    discriminator = load_discriminator(config.required("discriminator.checkpoint"), config.latent_shape)
    tracked = TrackedStage(config, "stage3", stage3_location(config))
    run = build_training(config, config.training, config.experiment.name, workspace, start, tracked)
    discriminator = discriminator.to(run.device)
    run.state.online = _online_discriminator(config, discriminator)
    run.state.discriminator = weights_digest(discriminator)

    # Restore the state of this training, or that of the previous round.
    new_trajectories = False
    if resumed:
        saved = run.state.read(run.path("latest"), config)
        new_trajectories = not recorded and _has_other_discriminator(saved, run.state.discriminator)
        if new_trajectories:
            saved = saved.without_discriminator()
        elif (changed := changed_measure(saved.config, config)) is not None:
            log.warning("%s: %s was changed; the earlier figures are measured again", saved.path, changed)
            saved = saved.without_figures()
        run.state.restore(saved)
    elif previous is not None:
        # Scores of the previous round's discriminator do not compare with this one's, and its online copy is another.
        saved = run.state.read(Path(find_checkpoint(previous)), config)
        run.state.restore(saved.without_discriminator())
    if run.state.online is not None:
        run.batches.require_online_shares()

    # From here on files are written.
    workspace.claim(resumed)
    run = _with_discriminator(run, discriminator, new_trajectories)
    start_figures = run.state.start or measure_start(run)
    rule = config.rounds.advance_when
    stop = EarlyStop(rule.viability_score, rule.evaluations, since=start_figures["epoch"]) if rule else None
    run.run(config.training.epochs, stop)
    return final_stage3_metrics(run, start_figures)


def _has_other_discriminator(saved: SavedState, discriminator: str) -> bool:
    """Whether the checkpoint was trained against another discriminator, or names none; a warning says so."""
    if saved.discriminator == discriminator:
        return False
    known = "does not say which discriminator it" if saved.discriminator is None else "is of another discriminator: it"
    log.warning(
        "%s %s was trained against; with discriminator.checkpoint the start viability is measured again and the best "
        "checkpoint and the trajectories are made again; they do not compare with those of earlier epochs",
        saved.path,
        known,
    )
    return True


def _online_discriminator(config: ExperimentConfig, discriminator: LatentDiscriminator) -> OnlineDiscriminator | None:
    section = config.discriminator
    if section.update == "frozen" or section.weight == 0:
        return None
    return OnlineDiscriminator(discriminator, section, config.training.seed)


def _with_discriminator(
    run: DiffusionTraining, discriminator: LatentDiscriminator, new_trajectories: bool
) -> DiffusionTraining:
    """`run` evaluated by the frozen discriminator, and trained against it unless its weight is zero.

    `new_trajectories` replace those that an earlier start saved.
    """
    config, state = run.config, run.state
    if config.discriminator.weight == 0:
        state.adversarial_weight = None
        return dataclasses.replace(run, discriminator=discriminator)
    trained_against = state.online.model if state.online is not None else discriminator
    parts = FormParts(
        trained_against,
        run.loss_models.scheduler.alphas_cumprod,
        config.scheduler.prediction_type == "v_prediction",
        reference=_reference(run) if _needs_reference(config) else None,
    )
    if config.discriminator.learns_from_labels:
        parts = dataclasses.replace(parts, pairs=_labelled_pairs(run), real=_real_latents(run))
    else:
        path = run.workspace.folder / TRAJECTORIES_NAME
        trajectories = saved_trajectories(path, state.ema, config, state.epoch, replace=new_trajectories)
        parts = dataclasses.replace(parts, trajectories=trajectories)
    form = build_adversarial_form(config.discriminator, parts)
    return dataclasses.replace(
        run,
        discriminator=discriminator,
        loss_models=dataclasses.replace(run.loss_models, form=form),
        batches=dataclasses.replace(run.batches, form=form),
    )


def _labelled_pairs(run: DiffusionTraining) -> LabelledPairs:
    """The labelled latents of the config's file; InputError if they have another shape than the model's."""
    config, viability = run.config, run.config.rounds.viability
    path = config.required("discriminator.labelled_latents")
    labelled = LabelledLatents.load(Path(path))
    if labelled.latents.shape[1:] != config.latent_shape:
        raise InputError(
            f"labelled latents {path} have shape {list(labelled.latents.shape[1:])}, the model's have "
            f"{list(config.latent_shape)}: give those that this model drew"
        )
    shares = viability.shares if viability.labels == "rules" else {}
    return LabelledPairs(labelled, viability.match, {str(rule): share for rule, share in shares.items()})


def _real_latents(run: DiffusionTraining) -> RealLatents | None:
    share = run.config.rounds.viability.real_share
    return RealLatents(share, run.batches.data.latents, run.batches.validation.latents) if share > 0 else None


def _reference(run: DiffusionTraining) -> Denoiser:
    """The frozen model that this stage started from, as a function."""
    config = run.config
    start = config.diffusion.stage3_checkpoint or config.required("diffusion.stage2_checkpoint")
    unet = load_unet(start, config)
    unet.to(run.device, memory_format=memory_format(run.device))  # type: ignore[call-overload]  # torch omits it
    return denoiser(unet.eval().requires_grad_(False), run.loss_models.scheduler)
