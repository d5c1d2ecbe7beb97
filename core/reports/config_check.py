"""A config tried before any work: its models, data and latents, what the model draws, what a round will take."""

import logging
from collections.abc import Sequence

import numpy as np
import torch

from core.checkpoints.imported_models import load_experiment, refused_checkpoints
from core.checkpoints.loading import SizedAutoencoder, find_checkpoint
from core.checkpoints.model_facts import model_facts
from core.config.experiment import ExperimentConfig
from core.data.layouts import LayoutPictures
from core.data.manifest import read_manifest, split_by_layout
from core.data.palette import UNLABELLED
from core.data.palette_file import read_palette
from core.data.variants import COUNT
from core.generation.latent_check import EncodedSample, require_latent_files
from core.generation.model_check import Faults, check_models
from core.generation.pace import Pace, draw_few, measure_pace
from core.inputs.locations import Location
from core.labels.label_sources import label_settings, require_label_source
from core.models.diffusion import build_scheduler
from core.models.pictures import decode_classes
from core.networks.unet import UNet, build_unet
from core.records.input_files import local_path
from core.reports.check_table import ConfigCheck
from core.rounds.round_cost import round_seconds
from core.runtime.device import pick_device
from core.runtime.errors import InputError
from core.runtime.progress import duration
from core.trackers.tracking import require_trackers
from core.training.prerequisites import unfinished, with_prerequisites

log = logging.getLogger(__name__)

_GIBIBYTE = 2**30


def check_config(path: Location, overrides: Sequence[str] = ()) -> ConfigCheck:
    """What is found in the config at `path`. Each part is tried on its own, and nothing is written.

    Works for a config without checkpoints too: it then says what a run makes first. Files in a bucket are downloaded
    to the cache. Time and memory of a round are estimated from a few steps on the config's device.
    """
    found = ConfigCheck()
    config, is_complete = _read(path, overrides, found.faults)
    if config is None:
        return found
    with found.faults.noted():
        config = with_prerequisites(config)
    with found.faults.noted():
        require_trackers(config)
    log.info("checking the data")
    training = _check_data(config, found)
    if is_complete:
        log.info("checking the models")
        if "latents" in _check_unfinished(config, found):
            training *= COUNT if config.dataset.augment else 1
        _check_models(config, found, training)
    return found


def _read(path: Location, overrides: Sequence[str], faults: Faults) -> tuple[ExperimentConfig | None, bool]:
    """The config, and whether its sizes are those of its checkpoints; None if there is none."""
    try:
        return load_experiment(path, overrides), True
    except InputError as error:
        draft, lines = refused_checkpoints(path, overrides)
        for line in lines or [str(error)]:
            faults.add(line)
        return draft, False


def _check_data(config: ExperimentConfig, found: ConfigCheck) -> int:
    """Rows of the training split, after looking for labels and for every file of the manifest; 0 if there are none."""
    with found.faults.noted():
        label_settings(config)
    if config.rounds.gate == "none":  # with a gate, a run asks for a label file that is not there yet
        with found.faults.noted():
            require_label_source(config)
    count, rgb, section = 0, config.dataset.outputs.rgb, config.training
    if config.dataset.manifest is None:
        synthetic = config.dataset.synthetic
        return 0 if synthetic is None else int(synthetic.count * section.train_split)
    with found.faults.noted():
        manifest = local_path(config.dataset.manifest, config.artifacts)
        rows = read_manifest(manifest, [rgb], config.dataset)
        training, held_out = split_by_layout(rows, section.train_split, section.split_seed)
        count = len(training)
        text = f"{len(rows)} layouts with their variants, {count} to train on and {len(held_out)} held out"
        found.add_figure("data", f"{text}: {config.dataset.manifest}")
        with found.faults.noted():
            LayoutPictures(rows, rgb, config.dataset.image_size, read_palette(config), cache_bytes=0)
        require_latent_files(manifest, config)
    return count


def _check_unfinished(config: ExperimentConfig, found: ConfigCheck) -> list[str]:
    """The stages that a run makes before its rounds."""
    stages: list[str] = []
    with found.faults.noted():
        for plan in unfinished(config):
            if plan.work is None:
                raise plan.cannot_be_made()
            found.add_figure(f"make {plan.stage}", f"a run does this first, at {plan.location}")
            stages.append(plan.stage)
    return stages


def _check_models(config: ExperimentConfig, found: ConfigCheck, training: int) -> None:
    """Load the models, encode and decode a few layouts, draw some, and time what a round does."""
    named = {name.partition("_")[0]: place for name, place in dict(config.diffusion).items() if place is not None}
    last: list[UNet] = []
    refused = dict(named)

    def loaded(name: str, unet: UNet) -> None:
        facts = model_facts(local_path(find_checkpoint(named[name]), config.artifacts), unet)
        found.add_model(name, config.unet.type, facts, refused.pop(name))
        last[:] = [unet]

    autoencoder, sample = check_models(config, named, found.faults, loaded)
    place = config.autoencoder.checkpoint
    if place is not None and autoencoder is None:
        refused["autoencoder"] = place
    elif place is not None and autoencoder is not None:
        facts = model_facts(local_path(find_checkpoint(place), config.artifacts), autoencoder.model)
        halvings = config.autoencoder.downsampling_steps
        found.add_model("autoencoder", f"to {config.latent_shape[0]} channels at 1/{2**halvings}", facts, place)
    for name, missing in refused.items():
        found.add_refused(name, missing)
    if config.discriminator.checkpoint is not None:
        found.add_figure("discriminator", f"each round trains its own; not tried: {config.discriminator.checkpoint}")
    _show_schedule(config, found)
    if autoencoder is not None and sample is not None:
        _show_sample(autoencoder, sample, found)
    if last or (training and not named):
        with found.faults.noted():
            _try_round(config, last[0] if last else None, autoencoder, training, found)


def _show_schedule(config: ExperimentConfig, found: ConfigCheck) -> None:
    section = config.scheduler
    kind = section.type if section.trained_betas is None else "that of the checkpoint"
    alpha_bars = build_scheduler(section).alphas_cumprod.double()
    first, end = alpha_bars[0].item(), alpha_bars[-1].item()
    ends = f"alpha_bar from {first:.6f} to {end:.3g}, terminal SNR {end / (1 - end):.3g}"
    found.add_figure("schedule", f"{kind}, {section.num_steps} steps, predicts {section.prediction_type}: {ends}")


def _show_sample(autoencoder: SizedAutoencoder, sample: EncodedSample, found: ConfigCheck) -> None:
    figures, count = sample.figures, len(sample.latents)
    text = f"mean {figures['latent_mean']:.3f}, spread {figures['latent_std']:.3f}, of {count} layouts encoded now"
    found.add_figure("latents", text)
    if "latent_difference" in figures:
        difference = figures["latent_difference"]
        found.add_figure("agreement", f"the manifest's latents of these differ by {difference:.4f} of the spread")
    classes = torch.from_numpy(decode_classes(sample.latents, autoencoder.model.decoder)).long()
    same = (classes == sample.classes)[sample.classes != UNLABELLED].double().mean().item()
    found.add_figure("decoded", f"{100 * same:.2f} % of their pixels keep their class through encoding and decoding")


def _try_round(
    config: ExperimentConfig, unet: UNet | None, autoencoder: SizedAutoencoder | None, training: int, found: ConfigCheck
) -> None:
    """Draw a few layouts with the UNet, or try an untrained one if there is none, and show what a round takes."""
    log.info("trying a few steps of a round")
    with torch.random.fork_rng(devices=[]):
        tried = unet or build_unet(config.unet, config.latent_size)
    tried = tried.to(pick_device(config.training.device))
    latents, evaluation = draw_few(tried, config)
    if unet is not None and autoencoder is not None:
        if not torch.isfinite(latents).all():
            raise InputError("the model draws latents that are not finite: give a checkpoint that was saved before")
        maps = decode_classes(latents, autoencoder.model.decoder)
        seen = [len(np.unique(drawn)) for drawn in maps]
        found.add_figure("drawn", f"{len(maps)} layouts in few steps, of {min(seen)} to {max(seen)} classes each")
    if training:
        _show_cost(config, measure_pace(tried, config, evaluation), training, found)


def _show_cost(config: ExperimentConfig, pace: Pace, training: int, found: ConfigCheck) -> None:
    seconds = round_seconds(config, pace, training)
    parts = ", ".join(f"{name} {duration(value)}" for name, value in seconds.items())
    found.add_figure("time", f"a round takes at least {duration(sum(seconds.values()))} here, by estimate: {parts}")
    whole = "" if pace.step_latents == pace.batch else f", with {pace.step_latents} of a batch's {pace.batch} latents"
    gibibytes = pace.peak_bytes / _GIBIBYTE
    found.add_figure("memory", f"at least {gibibytes:.1f} GiB, by estimate: as much as these steps took{whole}")
