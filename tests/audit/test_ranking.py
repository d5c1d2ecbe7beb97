"""The AUC against pairs counted one by one, its interval, and shares by fifths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.audit.ranking import auc, auc_interval, share_by_fifths


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_the_auc_is_the_share_of_pairs_in_the_right_order(items):
    scores, positive = np.array([s for s, _ in items], float), np.array([p for _, p in items])
    if positive.all() or not positive.any():
        with pytest.raises(ValueError, match="items of both kinds"):
            auc(scores, positive)
        return
    above = scores[positive][:, None] - scores[~positive]
    assert auc(scores, positive) == pytest.approx(((above > 0) + 0.5 * (above == 0)).mean())


def test_the_interval_tells_knowledge_from_chance():
    rng = np.random.default_rng(0)
    positive = rng.random(400) < 0.4
    chance = auc_interval(rng.normal(size=400), positive, np.random.default_rng(1))
    knows = auc_interval(rng.normal(size=400) + positive, positive, np.random.default_rng(1))
    assert chance.low < 0.5 < chance.high and knows.low > 0.65 and knows.low < knows.value < knows.high


def test_shares_rise_by_fifths_of_a_score_that_ranks():
    positive = np.arange(100) >= 60
    assert share_by_fifths(np.arange(100.0), positive) == [0, 0, 0, 1, 1]
