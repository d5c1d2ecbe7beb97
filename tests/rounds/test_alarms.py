"""Alarms of a round: each has its cause."""

import pytest

from core.config.experiment import ExperimentConfig
from core.rounds.alarms import find_alarms, taught_figures

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


KNOWS = {"viability_auc": 0.7, "viability_auc_low": 0.65, "viability_auc_high": 0.75}


def test_a_score_that_knows_nothing_is_an_alarm_and_stops_only_a_run_that_learns_from_it():
    assert names(KNOWS, audit(0.3), audit(0.4)) == []
    for scores_teach in (True, False):
        (alarm,) = find_alarms(METRICS | KNOWS | {"viability_auc_low": 0.5}, None, None, scores_teach=scores_teach)
        assert alarm.name == "knows_nothing" and alarm.stops == scores_teach and not alarm.regression


def figures(**values):
    values = {"viable": 0.5, **values}
    return {**values, "intervals": {name: [value - 0.02, value + 0.02] for name, value in values.items()}}


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({"enclosed": 0.7, "reachable": 0.5, "doorless": 0.2}, "reachable went from 0.600 to 0.500"),
        ({"enclosed": 0.7, "reachable": 0.6, "doorless": 0.3}, "doorless went from 0.200 to 0.300"),
        ({"enclosed": 0.7, "reachable": 0.57, "doorless": 0.2}, None),  # within both intervals
        ({"enclosed": 0.61, "reachable": 0.5, "doorless": 0.2}, None),  # what is taught did not rise
        ({"enclosed": 0.7, "reachable": 0.7, "doorless": 0.1}, None),  # all became better
    ],
)
def test_a_figure_that_is_not_taught_and_becomes_worse_is_an_alarm(after, expected):
    before = figures(enclosed=0.6, reachable=0.6, doorless=0.2)
    metrics = METRICS | {"viability_after": 0.4}
    alarms = find_alarms(metrics, before, figures(**after), taught=["viable", "enclosed"])
    if expected is None:
        assert alarms == []
    else:
        (alarm,) = alarms
        assert alarm.name == "partial_labels" and expected in alarm.text and not alarm.regression
        assert alarm.text.startswith("what is taught rose (enclosed), and what is not became worse: ")


RULES_TAUGHT = {"labels": "rules", "rules": ("enclosed", "reachable")}


@pytest.mark.parametrize(
    ("viability", "weight", "taught"),
    [
        (RULES_TAUGHT, 1.0, ["viable", "enclosed", "reachable"]),
        (RULES_TAUGHT, 0.0, []),  # Stage 3 sees no label
        ({"labels": "generated"}, 1.0, []),
    ],
)
def test_what_is_taught_are_the_rules_of_labels_that_stage_3_learns_from(viability, weight, taught):
    sections = {"rounds": {"viability": viability}, "discriminator": {"weight": weight}}
    config = ExperimentConfig.model_validate(
        {"experiment": {"name": "a"}, "dataset": {"manifest": "m.csv"}, **sections}
    )
    assert taught_figures(config) == taught
