"""The whole training: rounds of generate bad latents, retrain the discriminator, continue Stage 3."""

import logging
from collections.abc import Sequence
from typing import cast

from prefect import flow

from core.checkpoints.imported_models import load_experiment
from core.config.experiment import ExperimentConfig
from core.reports.before_and_after import ending, keep_picture
from core.reports.round_table import round_table
from core.reports.time_left import time_left
from core.rounds.finished_rounds import RoundRecord
from core.rounds.run import begin_run, hold_run
from core.rounds.start_check import require_sound_start
from core.training.prerequisites import needs_prerequisites
from flows.adversarial_round import adversarial_round
from flows.command import run_flow, say
from flows.gate import Stopped, pass_gate, require_somebody_to_ask
from flows.parameters import ConfigLocation, Override, RoundLocation
from flows.prerequisites import prerequisites
from flows.restarts import Restarts, require_few_restarts
from flows.round_events import announced_failure
from flows.run_labels import label_run
from flows.sample_bad_latents import require_dask
from flows.suspension import suspendable

# A child of the logger `core`, so that its lines are part of a run's logs too.
log = logging.getLogger("core.flows")


@flow(name="adversarial-training")
def adversarial_training(
    config: ConfigLocation,
    overrides: Sequence[Override] = (),
    wait: bool = False,
    fork_from: RoundLocation | None = None,
    *,
    restarts: Restarts = 0,
) -> list[RoundRecord]:
    """Do every unfinished round of the experiment; return the records of all rounds.

    Args:
        config: YAML file of the experiment, a path on the worker or an s3:// address.
        overrides: Settings of the config to change, each as key.path=value.
        wait: If another process works on the run, wait for it instead of ending.
        fork_from: Address of a finished round of any run, whose model a new run starts from.
        restarts: How many times in a row the run crashed; the automation that restarts it sets this.
    """
    require_few_restarts(restarts)
    experiment = load_experiment(config, overrides)
    require_somebody_to_ask(experiment)
    require_dask(experiment)
    label_run(experiment, "training")
    with announced_failure(experiment, config, overrides), suspendable(), hold_run(experiment, wait):
        begin_run(experiment, None if fork_from is None else str(fork_from))
        if needs_prerequisites(experiment):
            prerequisites(config, overrides, wait)
        require_sound_start(experiment)
        records = []
        for number in range(1, experiment.rounds.count + 1):
            try:
                decided = pass_gate(experiment, number, overrides)
            except Stopped as stopped:
                log.info("%s", stopped)
                break
            # With a number a round is always done, or was.
            records.append(cast(RoundRecord, adversarial_round(config, number, decided)))
            if (left := time_left(records, experiment.rounds.count)) is not None:
                log.info("%s", left)
        keep_picture(experiment, records)
        return records


def _shown(experiment: ExperimentConfig, records: Sequence[RoundRecord]) -> str:
    return "\n".join([round_table(records), *ending(experiment, records)])


if __name__ == "__main__":
    say(run_flow(adversarial_training, _shown))
