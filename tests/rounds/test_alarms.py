"""Alarms of a round: each has its cause."""

import pytest

from core.rounds.alarms import find_alarms

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
        ({"discriminator_val_acc": 0.91}, audit(0.3), audit(0.4), ["bad_latents_too_easy"]),
        ({"discriminator_val_acc": 0.54}, audit(0.3), audit(0.4), ["nothing_left"]),
        ({"val_noise_loss": 0.2101}, audit(0.3), audit(0.4), ["noise_rose"]),
        ({}, audit(0.3), audit(0.3), ["fooled"]),
        ({"viability_after": 0.44}, audit(0.3), audit(0.3), []),
        ({"viability_after": 0.4}, audit(0.3), audit(0.26), ["less_viable"]),
        ({"viability_after": 0.4}, audit(0.3), audit(0.28), []),
        ({}, audit(0.3), audit(0.4, coverage=0.74), ["collapse"]),
        ({}, None, None, []),
        ({"discriminator_val_acc": 0.95}, None, None, ["bad_latents_too_easy"]),
    ],
)
def test_each_alarm_has_its_cause(metrics, before, after, expected):
    assert names(metrics, before, after) == expected
