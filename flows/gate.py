"""The gate between two rounds: a person sees the results of a round and decides whether and how to continue."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Literal

from prefect.input import RunInput
from pydantic import Field

from core.config.experiment import ExperimentConfig
from core.inputs.section import Weight
from core.reports.report import round_summary
from core.rounds.awaited_labels import awaited_labels
from core.rounds.gate_answers import RecordedDecision, keep_decision, read_decision
from core.rounds.planning import stop_reason
from core.runtime.errors import InputError
from core.runtime.escaping import markdown_text
from flows.prefect_api import configured_server
from flows.round_events import announce_waiting
from flows.suspension import ask_person


class Decision(RunInput):
    """A person's answer."""

    answer: Literal["go on", "stop"] = Field("go on", description="whether to do the next round")
    discriminator_weight: Weight | None = Field(
        None, description="discriminator.weight from the next round on; empty: unchanged"
    )


class LabelsMade(RunInput):
    """A person's answer while the label file is missing."""

    answer: Literal["go on", "stop"] = Field("go on", description="go on: the file is there now; stop: end the run")


class Stopped(Exception):
    """The run ends after a round: a person decided so, or the model became worse."""


def require_somebody_to_ask(experiment: ExperimentConfig) -> None:
    """InputError if rounds wait for a person and there is no server that shows the question."""
    if experiment.rounds.gate == "manual" and configured_server() is None:
        raise InputError(
            "rounds.gate is manual, and there is no Prefect server to ask on: set PREFECT_API_URL, or rounds.gate: none"
        )


def pass_gate(experiment: ExperimentConfig, number: int, overrides: Sequence[str]) -> Sequence[str]:
    """The overrides for round `number`, with the decisions made after earlier rounds; asks for one that is missing.

    With a gate, rounds that learn from a label file also wait until it exists: the question comes again as long as it
    is missing. Without a gate no question is asked and no answer stops the run. A weight that was decided earlier,
    while there was a gate, still holds, because later rounds were made with it. Raises Stopped if the answer was to
    stop, or if the model became worse in the round before and `rounds.on_regression` is stop.
    """
    if number > 1 and (reason := stop_reason(experiment, number - 1)) is not None:
        raise Stopped(reason)
    asks = experiment.rounds.gate == "manual"
    for finished in range(1, number):
        decision = read_decision(experiment, finished)
        if decision is None:
            if not asks:
                continue
            decision = _ask(experiment, finished)
            keep_decision(experiment, finished, decision)
        if asks and decision["answer"] == "stop":
            raise Stopped(f"stopped after round {finished}, as answered")
        if decision["discriminator_weight"] is not None:
            overrides = [*overrides, f"discriminator.weight={decision['discriminator_weight']}"]
    if asks:
        _wait_for_labels(experiment, number)
    return overrides


def _wait_for_labels(experiment: ExperimentConfig, number: int) -> None:
    """Ask for the label file that the rounds learn from, until it is there; Stopped if the answer was to stop."""
    for asked in itertools.count():
        missing = awaited_labels(experiment)
        if missing is None:
            return
        question = f"Round {number} of {markdown_text(experiment.experiment.name)} waits for labels. {missing}"
        # Numbered: a run that goes on finds the answers to its earlier questions, and then asks again.
        asked_for = LabelsMade.with_initial_data(description=question)
        announce = partial(announce_waiting, experiment, f"round {number} waits for labels")
        answer = ask_person(asked_for, f"labels-{number}-{asked}", announce)
        if answer.answer == "stop":
            raise Stopped(f"stopped before round {number}, as answered: its label file is missing")


def _ask(experiment: ExperimentConfig, number: int) -> RecordedDecision:
    question = f"Round {number} of {markdown_text(experiment.experiment.name)} is finished. Go on?\n\n"
    asked = Decision.with_initial_data(description=question + round_summary(experiment, number))
    announce = partial(announce_waiting, experiment, f"round {number} is finished, go on?")
    answer = ask_person(asked, f"after-round-{number}", announce)
    return {"answer": answer.answer, "discriminator_weight": answer.discriminator_weight}
