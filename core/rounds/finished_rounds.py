"""Finished rounds: a round is finished when its record `round.json` exists, which `close_round` writes last."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict, cast

from core.config.experiment import ExperimentConfig
from core.records.artifacts import REPORT_NAME, ROUND_RECORD, round_location
from core.records.record_files import read_record
from core.runtime.errors import InputError
from core.runtime.files import Entry
from core.storage.opening import open_store
from core.storage.store import join, split_location
from core.training.file_names import checkpoint_name

# A bound of an interval, or a figure, that could not be computed is None.
Number = float | None


class InputEntry(Entry):
    """An input file: its address, size and sha256."""

    path: str


class AuditFigures(TypedDict):
    """The figures of an audit that rounds read, and both ends of the interval of every figure."""

    viable: float
    coverage: NotRequired[Number]
    intervals: dict[str, list[Number]]


class RoundMetrics(TypedDict):
    """The metrics of a round that rounds read; those of earlier versions lack some."""

    epoch: int
    first_epoch: int
    discriminator_val_acc: float
    discriminator_weight: NotRequired[Number]
    viability_before: float
    viability_after: float
    viability_floor: NotRequired[float]
    noise_before: NotRequired[Number]
    val_noise_loss: NotRequired[Number]
    viable_before: NotRequired[Number]
    viable: NotRequired[Number]
    # What the discriminator knows of viability, on generated latents that it was not trained on.
    viability_auc: NotRequired[float]
    viability_auc_low: NotRequired[float]
    viability_auc_high: NotRequired[float]
    # Share of viable ones in each fifth of these latents by its score, from the lowest.
    viable_fifth_1: NotRequired[float]
    viable_fifth_2: NotRequired[float]
    viable_fifth_3: NotRequired[float]
    viable_fifth_4: NotRequired[float]
    viable_fifth_5: NotRequired[float]
    # Share of viable ones among the latents that the round drew and judged.
    viable_share: NotRequired[float]
    # How well a critic ranks labels by hand that it did not see, and how many of these there are.
    critic_auc: NotRequired[float]
    critic_auc_low: NotRequired[float]
    critic_auc_high: NotRequired[float]
    labels_used: NotRequired[int]


class RecordedPlan(TypedDict):
    """The plan for the next round, the fields of `planning.NextRoundPlan`."""

    weight_factor: float
    parent_round: int
    best_round: int
    best_viable: Number


class RoundRecord(TypedDict):
    """What a finished round was made from and what it gave; records of earlier versions lack the optional fields."""

    round: int
    location: str
    experiment: str
    inputs: dict[str, InputEntry]
    settings: dict[str, Any]
    outputs: dict[str, Entry]
    metrics: RoundMetrics
    audit: NotRequired[AuditFigures | None]
    taught: NotRequired[list[str]]  # figures of the audit that the round's labels teach
    earlier_audit: NotRequired[AuditFigures]  # the last before the round, if the round itself was not audited
    alarms: NotRequired[list[str]]
    alarm_names: NotRequired[list[str]]
    regression: NotRequired[list[str]]
    next: NotRequired[RecordedPlan | None]
    seconds: float
    size: int


def read_round_record(config: ExperimentConfig, number: int) -> RoundRecord | None:
    """Record of round `number` of the run; None if the round is not finished. RecordError if it is damaged."""
    return _read(round_location(config, number), config)


def report_of_run(record: RoundRecord) -> str:
    """Address of the report of the round's run."""
    return join(split_location(record["location"])[0], REPORT_NAME)


def model_of_round(location: str, experiment: str) -> str:
    """Address of the model that the round of an experiment at `location` makes."""
    return join(location, "stage3", checkpoint_name(experiment, "latest"))


def last_finished_round(config: ExperimentConfig) -> int:
    """Number of the last of the run's rounds, counted from 1 without a gap, that are finished; 0 if none is."""
    number = 0
    while read_round_record(config, number + 1) is not None:
        number += 1
    return number


def require_finished_round(location: str, config: ExperimentConfig) -> RoundRecord:
    """Record of the round at `location`, of this run or another.

    Raises InputError if the round is not finished, or if a file that its record names is missing or altered.
    """
    record = _read(location, config)
    if record is None:
        raise InputError(f"{location} holds no finished round: run the rounds in their order")
    open_store(location, config.artifacts).fetch(record["outputs"])
    return record


def audit_figure(audit: AuditFigures, name: str) -> Number:
    """The figure called `name`, of which `audit` has an interval."""
    return cast(Mapping[str, Number], audit)[name]


def _read(location: str, config: ExperimentConfig) -> RoundRecord | None:
    return cast(RoundRecord | None, read_record(open_store(location, config.artifacts), ROUND_RECORD))
