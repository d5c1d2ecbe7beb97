"""Whether the models of a config load and belong to each other and to its latents: checked before any work starts."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping

from core.checkpoints.loading import SizedAutoencoder, find_checkpoint, load_sized_autoencoder, load_unet
from core.config.experiment import ExperimentConfig
from core.generation.latent_check import EncodedSample, encode_sample
from core.inputs.locations import Location
from core.models.perceptual import build_perceptual
from core.networks.unet import UNet
from core.records.input_files import local_path
from core.runtime.device import pick_device
from core.runtime.errors import InputError, system_line

log = logging.getLogger(__name__)


class Faults:
    """What is wrong, a line each: the parts of a check are tried on their own, so that one fault hides no other."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        """Note a line, once."""
        if line not in self.lines:
            self.lines.append(line)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Inside, an error of the user's ends the block and is noted."""
        try:
            yield
        except InputError as error:
            self.add(str(error))
        except OSError as error:
            self.add(system_line(error))

    def refuse(self) -> None:
        """InputError with the first line, after logging the others; nothing happens without lines."""
        for line in self.lines[1:]:
            log.error("%s", line)
        if self.lines:
            raise InputError(self.lines[0])


def check_models(
    config: ExperimentConfig,
    checkpoints: Mapping[str, Location],
    faults: Faults,
    loaded: Callable[[str, UNet], object] = lambda name, unet: None,
) -> tuple[SizedAutoencoder | None, EncodedSample | None]:
    """The config's autoencoder and a few layouts that it encoded; None for what the config lacks or cannot be read.

    `faults` gets a line for each thing that is wrong: a device that is not there; a sampler with more steps than the
    schedule, which may be that of a checkpoint; an autoencoder, a perceptual trunk or
    one of the diffusion `checkpoints`, by name, that does not load or fit the config; latents that the manifest names
    and another autoencoder made. `loaded` is called with the UNet of each checkpoint, one at a time.
    """
    autoencoder, sample = None, None
    with faults.noted():
        pick_device(config.training.device)
    _check_samplers(config, faults)
    if config.autoencoder.checkpoint is not None:
        with faults.noted():
            place = find_checkpoint(config.autoencoder.checkpoint)
            autoencoder = load_sized_autoencoder(local_path(place, config.artifacts), config)
    for name, checkpoint in checkpoints.items():
        with faults.noted():
            loaded(name, load_unet(local_path(find_checkpoint(checkpoint), config.artifacts), config))
    if autoencoder is not None and config.dataset.manifest is not None:
        with faults.noted():
            sample = encode_sample(autoencoder.model, config)
    semantic = config.training.loss.semantic_loss
    # Without a name it is the installed trunk, which may have to be downloaded.
    if semantic is not None and semantic.perceptual_loss.backbone is not None:
        with faults.noted():
            trunk = local_path(semantic.perceptual_loss.backbone, config.artifacts)
            build_perceptual(semantic.perceptual_loss.model_copy(update={"backbone": str(trunk)}))
    return autoencoder, sample


def _check_samplers(config: ExperimentConfig, faults: Faults) -> None:
    """A line for each sampler of the rounds that takes more steps than the noise schedule has."""
    steps = {"rounds.bad_latents.num_steps": config.rounds.bad_latents.num_steps}
    if config.discriminator.keeps_trajectories:
        steps["discriminator.trajectories.num_steps"] = config.discriminator.trajectories.num_steps
    if config.audit is not None and config.audit.num_steps is not None:
        steps["audit.num_steps"] = config.audit.num_steps
    most = config.scheduler.num_steps
    for key, count in steps.items():
        if count > most:
            faults.add(f"{key} {count}: the noise schedule has {most} steps; set it to at most {most}")
