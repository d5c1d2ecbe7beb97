"""Intervals that contain the truth as often as they say, from the generator that is handed in."""

import numpy as np
import pytest

from core.audit.bootstrap import Interval, draw_counts, mean_interval, recentred_interval


def covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


@pytest.mark.parametrize("draw", [lambda rng: rng.normal(3, 2, 200), lambda rng: 10.0 * (rng.random(200) < 0.3)])
def test_intervals_contain_the_true_mean_as_often_as_they_say(draw):
    rng = np.random.default_rng(0)
    share = np.mean([covers(mean_interval(draw(rng), rng, 400), 3.0) for _ in range(400)])
    assert 0.91 <= share <= 0.98
    narrow = np.mean([covers(mean_interval(draw(rng), rng, 400, level=0.5), 3.0) for _ in range(400)])
    assert 0.43 <= narrow <= 0.57


def test_the_generator_alone_decides():
    values = np.random.default_rng(1).normal(size=50)
    first, again, other = (mean_interval(values, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert first == again and first != other
    assert first.value == other.value == values.mean()
    assert first.low < first.value < first.high


def test_four_times_the_items_halve_the_interval():
    rng = np.random.default_rng(2)
    few, many = (mean_interval(rng.normal(size=count), rng) for count in (500, 2000))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(2, rel=0.25)


def test_a_distance_biased_twice_by_resampling_lies_in_its_own_interval():
    """The squared mean of noise is above 0 at any size; a resample's is about twice that."""
    rng = np.random.default_rng(4)
    items = rng.normal(size=(100, 50))
    value = np.square(items.mean(0)).sum()
    resampled = np.square(draw_counts(100, rng, 500) @ items / 100).sum(1)
    assert resampled.mean() == pytest.approx(2 * value, rel=0.2) and np.quantile(resampled, 0.025) > value
    interval = recentred_interval(value, resampled)
    assert interval.low < value < interval.high
    assert recentred_interval(0.01, np.array([0.0, 0.5, 1.0])).low == 0


def test_every_resample_holds_as_many_items():
    counts = draw_counts(30, np.random.default_rng(5), 2000)
    assert counts.shape == (2000, 30) and (counts.sum(1) == 30).all()
    # Poisson-like: the variance of how often an item is drawn is near 1.
    assert counts.var(0).mean() == pytest.approx(1 - 1 / 30, rel=0.05)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_nothing_to_resample_is_an_error(values):
    with pytest.raises(ValueError, match="finite values"):
        mean_interval(np.array(values), np.random.default_rng(0))
