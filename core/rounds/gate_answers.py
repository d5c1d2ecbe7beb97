"""What a person answered after a round: to go on or to stop, and with which weight."""

from typing import Literal, TypedDict, cast

from core.config.experiment import ExperimentConfig
from core.records.artifacts import DECISION_NAME, round_location
from core.records.lease import publishing_store
from core.records.record_files import create_record, read_record
from core.storage.opening import open_store


class RecordedDecision(TypedDict):
    """An answer; `discriminator_weight` holds for all later rounds, None leaves it as it is."""

    answer: Literal["go on", "stop"]
    discriminator_weight: float | None


def read_decision(config: ExperimentConfig, number: int) -> RecordedDecision | None:
    """The answer that a person gave after round `number`; None if there is none yet."""
    store = open_store(round_location(config, number), config.artifacts)
    return cast(RecordedDecision | None, read_record(store, DECISION_NAME))


def keep_decision(config: ExperimentConfig, number: int, decision: RecordedDecision) -> None:
    """Store the answer after round `number`, once, so that a restarted run does not ask again."""
    create_record(decision, publishing_store(round_location(config, number), config.artifacts), DECISION_NAME)
