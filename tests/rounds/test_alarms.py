"""Alarms of a round, and what a round says of the next."""

import pytest

from core.config.round_sections import RoundsSection
from core.rounds.alarms import NextRoundPlan, find_alarms, plan_next_round

METRICS = {
    "discriminator_val_acc": 0.7,
    "noise_before": 0.2,
    "val_noise_loss": 0.2,
    "viability_before": 0.4,
    "viability_after": 0.6,
}


def audit(viable, coverage=0.8):
    intervals = {"viable": [viable - 0.03, viable + 0.03], "coverage": [coverage - 0.05, coverage + 0.05]}
    return {"viable": viable, "coverage": coverage, "intervals": intervals}


def names(metrics, before, after):
    return [alarm.name for alarm in find_alarms(METRICS | metrics, before, after)]


def test_a_round_that_helped_raises_no_alarm():
    assert names({}, audit(0.3), audit(0.4)) == []


@pytest.mark.parametrize(
    ("metrics", "before", "after", "expected"),
    [
        ({"discriminator_val_acc": 0.91}, audit(0.3), audit(0.4), ["too_easy"]),
        ({"discriminator_val_acc": 0.54}, audit(0.3), audit(0.4), ["nothing_left"]),
        ({"val_noise_loss": 0.2101}, audit(0.3), audit(0.4), ["noise_rose"]),
        ({}, audit(0.3), audit(0.3), ["fooled"]),
        ({"viability_after": 0.44}, audit(0.3), audit(0.3), []),
        ({"viability_after": 0.4}, audit(0.3), audit(0.26), ["less_viable"]),
        ({"viability_after": 0.4}, audit(0.3), audit(0.28), []),
        ({}, audit(0.3), audit(0.4, coverage=0.74), ["collapse"]),
        ({}, None, None, []),
        ({"discriminator_val_acc": 0.95}, None, None, ["too_easy"]),
    ],
)
def test_each_alarm_has_its_cause(metrics, before, after, expected):
    assert names(metrics, before, after) == expected


def after_round(number, last=None, worse=False, score=0.6, viable=0.4, **rules):
    alarms = find_alarms(METRICS | {"val_noise_loss": 0.3} if worse else METRICS, None, None)
    metrics = METRICS | {"viability_after": score}
    return plan_next_round(RoundsSection(**rules), number, last or NextRoundPlan(), alarms, metrics, viable)


def test_without_rules_the_next_round_goes_on_from_this_one():
    assert after_round(2, worse=True) == NextRoundPlan(1.0, parent_round=2, best_round=2, best_viable=0.4)


def test_a_worse_round_halves_the_weight_again_and_again():
    first = after_round(1, worse=True, on_regression="halve_weight")
    assert first.weight_factor == 0.5
    assert after_round(2, first, worse=True, on_regression="halve_weight").weight_factor == 0.25
    assert after_round(2, first, on_regression="halve_weight").weight_factor == 0.5


def test_after_a_worse_round_the_best_one_is_gone_on_from():
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
