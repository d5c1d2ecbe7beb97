"""What a round plans for the next one."""

from core.config.round_sections import RoundsSection
from core.rounds.alarms import find_alarms
from core.rounds.planning import NextRoundPlan, plan_next_round
from tests.rounds.test_alarms import METRICS


def after_round(number, last=None, worse=False, score=0.6, viable=0.4, **rules):
    alarms = find_alarms(METRICS | {"val_noise_loss": 0.3} if worse else METRICS, None, None)
    metrics = METRICS | {"viability_after": score, "viable": viable}
    return plan_next_round(RoundsSection(**rules), number, last or NextRoundPlan(), alarms, metrics)


def test_without_rules_the_next_round_starts_from_this_one():
    assert after_round(2, worse=True) == NextRoundPlan(1.0, parent_round=2, best_round=2, best_viable=0.4)


def test_a_worse_round_halves_the_weight_again_and_again():
    first = after_round(1, worse=True, on_regression="halve_weight")
    assert first.weight_factor == 0.5
    assert after_round(2, first, worse=True, on_regression="halve_weight").weight_factor == 0.25
    assert after_round(2, first, on_regression="halve_weight").weight_factor == 0.5


def test_after_a_worse_round_the_next_starts_from_the_best_one():
    first = after_round(1, viable=0.4, on_regression="keep_best")
    second = after_round(2, first, worse=True, viable=0.3, on_regression="keep_best")
    assert (second.parent_round, second.best_round) == (1, 1)
    third = after_round(3, second, viable=0.5, on_regression="keep_best")
    assert (third.parent_round, third.best_round, third.best_viable) == (3, 3, 0.5)


def test_the_controller_raises_a_low_pass_to_the_configured_weight_and_lowers_an_unstable_one():
    lowered = after_round(1, worse=True, weight_controller=True)
    assert lowered.weight_factor == 0.5
    raised = after_round(2, lowered, score=0.3, weight_controller=True)
    assert raised.weight_factor == 0.75
    assert after_round(3, raised, score=0.3, weight_controller=True).weight_factor == 1.0
    assert after_round(3, raised, score=0.7, weight_controller=True).weight_factor == 0.75


def test_what_the_first_round_started_from_may_be_the_best_so_far():
    metrics = METRICS | {"viable_before": 0.5, "viable": 0.4, "val_noise_loss": 0.3}
    section = RoundsSection(on_regression="keep_best")
    plan = plan_next_round(section, 1, NextRoundPlan(), find_alarms(metrics, None, None), metrics)
    assert plan == NextRoundPlan(1.0, parent_round=0, best_round=0, best_viable=0.5)
