"""One round: generate bad latents, retrain the discriminator, continue Stage 3, audit."""

import contextlib
import logging
import time
from collections.abc import Sequence

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from core.checkpoints.imported_models import load_experiment
from core.config.experiment import ExperimentConfig
from core.inputs.section import Rounds
from core.reports.round_table import round_table
from core.rounds.announcements import is_announced, last_unannounced_round, note_announced
from core.rounds.close_round import close_round
from core.rounds.finished_rounds import RoundRecord
from core.rounds.planning import next_round
from core.rounds.round import Round, open_round
from core.rounds.run import begin_run, hold_run
from core.rounds.start_check import require_sound_start
from core.runtime.errors import LeaseError
from core.training.prerequisites import needs_prerequisites
from flows.command import run_flow, say
from flows.gate import Stopped, pass_gate, require_somebody_to_ask
from flows.gpu_slot import gpu_slot
from flows.parameters import ConfigLocation, Override
from flows.prerequisites import prerequisites
from flows.restarts import Restarts, require_few_restarts
from flows.round_events import announce_round, announced_failure
from flows.run_labels import label_run
from flows.sample_bad_latents import require_dask, sample_in_shards
from flows.suspension import suspendable
from tasks.audit import audit
from tasks.continue_stage3 import continue_stage3
from tasks.generate_bad_latents import generate_bad_latents
from tasks.report_round import report_round
from tasks.retrain_discriminator import retrain_discriminator

# A child of the logger `core`, so that its lines are part of a run's logs too.
log = logging.getLogger("core.flows")


@flow(name="adversarial-round")
def adversarial_round(
    config: ConfigLocation,
    number: Rounds | None = None,
    overrides: Sequence[Override] = (),
    extra: bool = False,
    *,
    restarts: Restarts = 0,
) -> RoundRecord | State[None]:
    """Do one round of an experiment: the next unfinished one, or none if nothing is due.

    If the process of the last finished round died before it sent the round's events, they are sent instead.

    Args:
        config: YAML file of the experiment, a path on the worker or an s3:// address.
        number: The round to do, from 1; empty for the next unfinished one.
        overrides: Settings of the config to change, each as key.path=value.
        extra: Do one more round even if all of rounds.count are finished.
        restarts: How many times in a row the run crashed; the automation that restarts it sets this.
    """
    require_few_restarts(restarts)
    experiment = load_experiment(config, overrides)
    require_dask(experiment)
    if number is not None:
        with hold_run(experiment):
            begin_run(experiment)
            record = _do_round(experiment, number)
        return _announced(experiment, record, config, overrides)
    label_run(experiment, "next round")
    with announced_failure(experiment, config, overrides), suspendable(), contextlib.ExitStack() as held:
        try:
            held.enter_context(hold_run(experiment))
        except LeaseError as error:
            return _nothing_is_due(str(error))
        begin_run(experiment)
        # An unannounced round comes first: a chain of rounds that start each other by events would end there.
        due = last_unannounced_round(experiment) or next_round(experiment, extra)
        if due is None:
            return _nothing_is_due(f"all {experiment.rounds.count} rounds are finished")
        require_somebody_to_ask(experiment)
        try:
            decided = pass_gate(experiment, due, overrides)
        except Stopped as stopped:
            return _nothing_is_due(str(stopped))
        if needs_prerequisites(experiment):
            prerequisites(config, overrides)
        require_sound_start(experiment, extra)
        record = _do_round(load_experiment(config, decided), due)
    return _announced(experiment, record, config, decided)


def _do_round(experiment: ExperimentConfig, number: int) -> RoundRecord:
    label_run(experiment, f"round {number}", f"round:{number}")
    this = open_round(experiment, number)
    record = this.record or _make(this)
    # A process may have died after the round and before its report.
    if not is_announced(experiment, number):
        report_round(this.config_path, number, artifacts=experiment.artifacts)
    return record


def _make(this: Round) -> RoundRecord:
    started = time.monotonic()
    with gpu_slot(this.config):
        sample_in_shards(this)
        bad_latents = generate_bad_latents(**this.bad_latents_options())
        discriminator = retrain_discriminator(**this.discriminator_options())
        stage3 = continue_stage3(this.config_path, recorded=True, artifacts=this.config.artifacts)
        audits = {name: audit(**options) for name, options in this.audits_options().items()}
    return close_round(this, bad_latents, discriminator, stage3, audits, seconds=time.monotonic() - started)


def _announced(
    experiment: ExperimentConfig, record: RoundRecord, config: ConfigLocation, overrides: Sequence[str]
) -> RoundRecord:
    """The round's record, after sending its events: the lease is released by now, for a run that an event starts."""
    if not is_announced(experiment, record["round"]):
        announce_round(record, config, overrides, experiment.rounds.count)
        note_announced(experiment, record["round"])
    return record


def _nothing_is_due(reason: str) -> State[None]:
    log.info("nothing is due: %s", reason)
    return Completed(message=f"nothing is due: {reason}")


if __name__ == "__main__":
    made = run_flow(adversarial_round)
    if made is not None:
        say(round_table([made]))
