"""The critic that learns from labels what a person takes for viable: what it ranks, and how well it says it does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.audit.ranking import auc
from core.labels.critic import FOLDS, train_critic


def layouts(count, seed):
    """Measures [N, 4], and which of the layouts are viable: those with a low first and a high second one."""
    measures = np.random.default_rng(seed).uniform(size=(count, 4))
    return measures, (measures[:, 0] < 0.7) & (measures[:, 1] > 0.3)


def test_it_ranks_layouts_that_it_did_not_see_as_well_as_it_says():
    critic = train_critic(*layouts(200, 1), seed=3)
    measures, viable = layouts(1000, 2)
    scores = critic.probability(measures)
    assert scores.shape == (1000,) and scores.min() >= 0 and scores.max() <= 1
    assert critic.auc.low <= critic.auc.value <= critic.auc.high
    assert auc(scores, viable) > 0.9 and critic.auc.value == pytest.approx(auc(scores, viable), abs=0.05)
    assert ((scores > 0.5) == viable).mean() > 0.9


def test_labels_that_mean_nothing_are_not_learnt():
    """The classifier itself knows by heart what it learnt from, so an AUC on the same labels would be 1."""
    measures, _ = layouts(200, 1)
    viable = np.random.default_rng(5).uniform(size=200) < 0.5
    critic = train_critic(measures, viable, seed=3)
    assert critic.auc.value == pytest.approx(0.5, abs=0.1)
    assert auc(critic.probability(measures), viable) > 0.95


@given(seed=st.integers(0, 2**62), rarer=st.integers(FOLDS, 20))
@settings(max_examples=5, deadline=None)
def test_the_same_labels_give_the_same_critic(seed, rarer):
    measures, _ = layouts(40, 1)
    viable = np.arange(40) < rarer
    first, second = (train_critic(measures, viable, seed) for _ in range(2))
    assert first.auc == second.auc
    assert np.array_equal(first.probability(measures), second.probability(measures))
