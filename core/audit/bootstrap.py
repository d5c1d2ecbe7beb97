"""Confidence intervals by the percentile bootstrap (Efron, 1979), which resamples the items with replacement."""

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A figure and the ends of its confidence interval."""

    value: float
    low: float
    high: float


def mean_interval(values: np.ndarray, rng: np.random.Generator, resamples: int = 1000, level: float = 0.95) -> Interval:
    """Mean of `values` [N] with its interval.

    If all values are equal, such as for a share of 0, the interval has no width: read it as "less than about 3 / N".
    Raises ValueError if there are no values or one is not finite.
    """
    values = np.asarray(values, np.float64)
    resampled = resampled_means(values, rng, resamples)
    return percentile_interval(values.mean(), resampled, level)


def resampled_means(values: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Mean of each of `resamples` draws of N items from `values` [N, ...]: float64 [resamples, ...]."""
    values = np.asarray(values, np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"a bootstrap needs finite values, got {len(values)} of which some may not be")
    means: np.ndarray = np.tensordot(draw_counts(len(values), rng, resamples), values, 1) / len(values)
    return means


def draw_counts(count: int, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """How often each of `count` items is in each resample of `count` items: float64 [resamples, count]."""
    drawn = rng.integers(count, size=(resamples, count)) + count * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)


def percentile_interval(value: float, resampled: np.ndarray, level: float = 0.95) -> Interval:
    """`value` with the interval that contains the middle `level` of its resampled values [R]."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def recentred_interval(value: float, resampled: np.ndarray, level: float = 0.95) -> Interval:
    """Interval of a distance that grows with sampling noise: `resampled` [R] is shifted to have `value` as its mean.

    A resample relates to its sample as the sample to its distribution. So a resampled distance has this bias twice, and
    plain percentiles may all lie above `value`. The interval is that of the expected distance at this number of items,
    and not below 0.
    """
    _, low, high = percentile_interval(value, resampled, level)
    bias = float(np.mean(resampled) - value)
    return Interval(float(value), max(low - bias, 0.0), max(high - bias, 0.0))
