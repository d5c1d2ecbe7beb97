"""Intervals that contain the truth as often as they say, from the generator that is handed in."""

import numpy as np
import pytest

from core.bootstrap import Interval, difference_interval, draw_counts, mean_interval, recentred_interval


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


def test_what_paired_items_share_drops_out():
    rng = np.random.default_rng(3)
    shared = rng.normal(0, 10, 300)
    first, second = shared + rng.normal(0.5, 1, 300), shared + rng.normal(0, 1, 300)
    paired = difference_interval(first, second, rng)
    assert paired.value == pytest.approx(first.mean() - second.mean())
    assert paired.low > 0.2
    alone = mean_interval(first, rng)
    assert alone.high - alone.low > 5 * (paired.high - paired.low)


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


def test_pairs_must_be_pairs():
    with pytest.raises(ValueError, match="as many"):
        difference_interval(np.zeros(3), np.zeros(4), np.random.default_rng(0))
