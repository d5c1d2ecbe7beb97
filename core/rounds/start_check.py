"""What every start of a run checks before its next round: a wrong model would be found hours later otherwise."""

import logging
import time

from core.config.experiment import ExperimentConfig
from core.generation.model_check import Faults, check_models
from core.rounds.planning import next_round
from core.rounds.round import start_checkpoints
from core.training.prerequisites import with_prerequisites

log = logging.getLogger(__name__)


def require_sound_start(config: ExperimentConfig, extra: bool = False) -> None:
    """InputError if a model that the run's next round starts from does not load, or the latents are of another one.

    All that is wrong is logged; the error is the first. Does nothing if no round is left to do, or with `extra` one
    more than the config asks for. The prerequisites must be finished.
    """
    number = next_round(config, extra)
    if number is None:
        return
    began, config, faults = time.monotonic(), with_prerequisites(config), Faults()
    checkpoints: dict[str, str] = {}
    with faults.noted():
        checkpoints = start_checkpoints(config, number)
    check_models(config, checkpoints, faults)
    faults.refuse()
    log.info("models and latents fit each other (checked in %.1f s)", time.monotonic() - began)
