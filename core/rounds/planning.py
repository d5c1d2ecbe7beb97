"""The next round: whether there is one, its number, the weight of its adversarial term, the round it starts from."""

from dataclasses import dataclass

from core.config.experiment import ExperimentConfig
from core.config.round_sections import RoundsSection
from core.records.artifacts import round_location
from core.rounds.alarms import Alarm
from core.rounds.finished_rounds import RoundMetrics, last_finished_round, read_round_record

# Documented tuning tips: raise the weight if a good model scores low, lower it if the training is unstable.
_LOW_SCORE, _RAISE, _LOWER = 0.5, 1.5, 0.5


@dataclass(frozen=True)
class NextRoundPlan:
    """A round's plan for the next: factor on the configured weight, the round to start from, the best round so far.

    Round 0 is the model that the first round started from.
    """

    weight_factor: float = 1.0
    parent_round: int = 0
    best_round: int = 0
    best_viable: float | None = None


def plan_next_round(
    section: RoundsSection, number: int, plan: NextRoundPlan, alarms: list[Alarm], metrics: RoundMetrics
) -> NextRoundPlan:
    """Plan for the round after round `number`, which itself followed `plan`.

    `rounds.on_regression` and `rounds.weight_controller` are the rules.
    """
    best_round, best_viable = _best_so_far(number, plan, metrics)
    is_worse = any(alarm.regression for alarm in alarms)
    factor = plan.weight_factor
    if is_worse and (section.on_regression == "halve_weight" or section.weight_controller):
        factor *= _LOWER
    elif section.weight_controller and metrics["viability_after"] < _LOW_SCORE:
        # The configured weight is documented as the highest.
        factor = min(1.0, factor * _RAISE)
    parent_round = best_round if is_worse and section.on_regression == "keep_best" else number
    return NextRoundPlan(factor, parent_round, best_round, best_viable)


def _best_so_far(number: int, plan: NextRoundPlan, metrics: RoundMetrics) -> tuple[int, float | None]:
    """The best of round `number` and the rounds before it, and its share of viable layouts."""
    best_round, best_viable = plan.best_round, plan.best_viable
    if best_viable is None:
        best_round, best_viable = number - 1, metrics.get("viable_before")
    viable = metrics.get("viable")
    if viable is not None and (best_viable is None or viable > best_viable):
        return number, viable
    return best_round, best_viable


def plan_of_round(config: ExperimentConfig, number: int) -> NextRoundPlan:
    """The plan that round `number` follows: the one in the record of the round before it."""
    if number == 1:
        return NextRoundPlan()
    record = read_round_record(config, number - 1)
    recorded = record.get("next") if record is not None else None
    return NextRoundPlan(**recorded) if recorded else NextRoundPlan(parent_round=number - 1)


def next_round(config: ExperimentConfig, extra: bool = False) -> int | None:
    """Number of the first round that is not finished; None if `rounds.count` are finished and `extra` is false."""
    number = last_finished_round(config) + 1
    return number if extra or number <= config.rounds.count else None


def stop_reason(config: ExperimentConfig, number: int) -> str | None:
    """Why no round may follow the finished round `number`; None if one may."""
    record = read_round_record(config, number)
    if record is None:
        return None
    if config.rounds.on_regression == "stop" and record.get("regression"):
        return f"stopped after round {number} (rounds.on_regression): {record['regression'][0]}"
    patience = config.rounds.patience
    return None if patience is None else _lost_patience(config, number, patience)


def _lost_patience(config: ExperimentConfig, number: int, patience: int) -> str | None:
    """Why none of the last `patience` audits up to round `number` is worth another round; None if one is.

    The records alone decide, so a resumed run decides the same.
    """
    best = plan_of_round(config, number + 1)
    later = (read_round_record(config, position) for position in range(best.best_round + 1, number + 1))
    in_vain = sum(record is not None and record["metrics"].get("viable") is not None for record in later)
    if best.best_viable is None or in_vain < patience:
        return None
    audits = "the last audit" if patience == 1 else f"each of the last {patience} audits"
    found = f"stopped after round {number} (rounds.patience): {audits} found no more viable layouts than"
    if best.best_round == 0:
        return f"{found} the model that round 1 started from ({best.best_viable:.3f}): keep that one"
    location = round_location(config, best.best_round)
    return (
        f"{found} round {best.best_round} ({best.best_viable:.3f}): keep it with python -m tasks.export "
        f"--checkpoint {location}, or start another run from it with "
        f"--fork-from {location}"
    )
