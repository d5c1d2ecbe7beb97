"""The documented training: rounds of generate bad latents, retrain the discriminator, continue Stage 3."""

import time
from collections.abc import Sequence
from typing import Any

from prefect import flow

from core.config import load_config
from core.rounds import begin_run, close_round, hold_run, open_round, round_table
from core.store import Location
from flows.command import run_flow, say
from flows.prerequisites import prerequisites
from tasks.continue_stage3 import continue_stage3
from tasks.generate_bad_latents import generate_bad_latents
from tasks.retrain_discriminator import retrain_discriminator


@flow(name="adversarial-training")
def adversarial_training(
    config: Location, overrides: Sequence[str] = (), wait: bool = False, fork_from: str | None = None
) -> list[dict[str, Any]]:
    """Run every round of the experiment that is not finished yet; return the records of all.

    One process at a time works on a run: another says who does, or waits with `wait`. `fork_from`, a round's address,
    starts a new run from that round's model.
    """
    experiment = load_config(config, overrides)
    with hold_run(experiment, wait):
        begin_run(experiment, fork_from)
        if experiment.prerequisites is not None:
            prerequisites(config, overrides, wait)
        return [adversarial_round(config, number, overrides) for number in range(1, experiment.rounds.count + 1)]


@flow(name="adversarial-round", flow_run_name="round {number}")
def adversarial_round(config: Location, number: int, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Generate bad latents, retrain the discriminator on them, continue Stage 3 against it."""
    experiment = load_config(config, overrides)
    with hold_run(experiment):
        this = open_round(experiment, number)
        if this.record is not None:
            return this.record
        started = time.monotonic()
        bad_latents = generate_bad_latents(**this.bad_latents_options())
        discriminator = retrain_discriminator(**this.discriminator_options())
        stage3 = continue_stage3(this.config_path, recorded=True)
        return close_round(this, bad_latents, discriminator, stage3, seconds=time.monotonic() - started)


if __name__ == "__main__":
    records = run_flow(adversarial_training)
    say(round_table(records))
