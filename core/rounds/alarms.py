"""What is wrong with a round, by its own figures and its audit, and what that means for the next."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.config.round_sections import RoundsSection

# Documented: above the first the discriminator's task is too easy, below the second it has nothing left to learn.
TOO_EASY_ACCURACY, NOTHING_LEARNT_ACCURACY = 0.9, 0.55
# The discriminator's score rises if it does by more than this; the noise loss if it does by more than this share.
_SCORE_RISE, _NOISE_RISE = 0.05, 0.05
# Documented tuning tips: a low pass of a good model asks for more weight, an unstable one for less.
_LOW_PASS, _RAISE, _LOWER = 0.5, 1.5, 0.5

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Alarm:
    """One thing that is wrong, in a sentence; `regression` if the model became worse by it."""

    name: str
    text: str
    regression: bool = False


@dataclass(frozen=True)
class NextRoundPlan:
    """What a round says of the next: factor on the configured weight, the round it starts from, the best so far.

    Round 0 is what the first round started from.
    """

    weight_factor: float = 1.0
    parent_round: int = 0
    best_round: int = 0
    best_viable: float | None = None


def find_alarms(metrics: Metrics, before: Metrics | None, after: Metrics | None) -> list[Alarm]:
    """Alarms of a round with these metrics, whose model was audited `before` and `after` (None without an audit)."""
    alarms = []
    accuracy = metrics["discriminator_val_acc"]
    if accuracy > TOO_EASY_ACCURACY:
        alarms.append(Alarm("too_easy", f"discriminator accuracy {accuracy:.3f}: bad latents are too easy to tell"))
    if accuracy < NOTHING_LEARNT_ACCURACY:
        alarms.append(Alarm("nothing_left", f"discriminator accuracy {accuracy:.3f}: it has nothing left to learn"))
    noise = [metrics.get(name) for name in ("noise_before", "val_noise_loss")]
    if None not in noise and noise[1] > (1 + _NOISE_RISE) * noise[0]:
        text = f"held-out noise loss rose from {noise[0]:.4f} to {noise[1]:.4f}"
        alarms.append(Alarm("noise_rose", text, regression=True))
    if before is None or after is None:
        return alarms
    viable, coverage = (_change(name, before, after) for name in ("viable", "coverage"))
    if _fell(viable, before, "viable"):
        text = f"viable layouts fell from {viable[0]:.3f} to {viable[1]:.3f}"
        alarms.append(Alarm("less_viable", text, regression=True))
    scores = metrics["viability_before"], metrics["viability_after"]
    if scores[1] > scores[0] + _SCORE_RISE and viable[1] <= viable[0]:
        text = f"the discriminator's score rose from {scores[0]:.3f} to {scores[1]:.3f}, viable layouts did not"
        alarms.append(Alarm("fooled", f"{text}: it is being fooled", regression=True))
    if None not in coverage and _fell(coverage, before, "coverage"):
        text = f"coverage of real layouts fell from {coverage[0]:.3f} to {coverage[1]:.3f}: variety collapses"
        alarms.append(Alarm("collapse", text, regression=True))
    return alarms


def plan_next_round(
    section: RoundsSection,
    number: int,
    last: NextRoundPlan,
    alarms: list[Alarm],
    metrics: Metrics,
    viable: float | None,
) -> NextRoundPlan:
    """What round `number` says of the next one, by `rounds.on_regression` and `rounds.weight_controller`."""
    worse = any(alarm.regression for alarm in alarms)
    best_round, best_viable = last.best_round, last.best_viable
    if viable is not None and (best_viable is None or viable > best_viable):
        best_round, best_viable = number, viable
    factor = last.weight_factor
    if worse and (section.on_regression == "halve_weight" or section.weight_controller):
        factor *= _LOWER
    elif section.weight_controller and metrics["viability_after"] < _LOW_PASS:
        # Up to the configured weight, which is documented as the most.
        factor = min(1.0, factor * _RAISE)
    back = worse and section.on_regression == "keep_best"
    return NextRoundPlan(factor, best_round if back else number, best_round, best_viable)


def _change(name: str, before: Metrics, after: Metrics) -> tuple[Any, Any]:
    return before.get(name), after.get(name)


def _fell(change: tuple[float, float], before: Metrics, name: str) -> bool:
    """Whether a figure is below the interval it was in before."""
    low = before["intervals"][name][0]
    return low is not None and change[1] < low
