"""Confidence intervals by the percentile bootstrap (Efron, 1979): the items are drawn again, with replacement."""

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A figure and both ends of its confidence interval."""

    value: float
    low: float
    high: float


def mean_interval(values: np.ndarray, rng: np.random.Generator, resamples: int = 1000, level: float = 0.95) -> Interval:
    """Mean of `values` [N] with its interval.

    Of values that are all the same, such as a share of nought, the interval has no width: read it as "less than
    about 3 / N" then. Raises ValueError if there are no values or one is not finite.
    """
    values = np.asarray(values, np.float64)
    resampled = resampled_means(values, rng, resamples)
    return percentile_interval(values.mean(), resampled, level)


def resampled_means(values: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Mean of each of `resamples` draws of N items from `values` [N, ...]: float64 [resamples, ...]."""
    values = np.asarray(values, np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"a bootstrap needs finite values, got {len(values)} of which some may not be")
    return np.tensordot(draw_counts(len(values), rng, resamples), values, 1) / len(values)


def draw_counts(count: int, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """How often each of `count` items is in each resample of as many: float64 [resamples, count]."""
    drawn = rng.integers(count, size=(resamples, count)) + count * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)


def percentile_interval(value: float, resampled: np.ndarray, level: float = 0.95) -> Interval:
    """`value` with the middle `level` of its resampled values [R]."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def recentred_interval(value: float, resampled: np.ndarray, level: float = 0.95) -> Interval:
    """Interval of a distance that grows with sampling noise, the resampled ones [R] moved to have `value` as mean.

    A resample is to its sample what that is to its distribution, so such a distance carries its bias twice when
    resampled, and plain percentiles may all lie above it. The interval is that of the expected distance at this
    number of items, and not below 0.
    """
    _, low, high = percentile_interval(value, resampled, level)
    bias = float(np.mean(resampled) - value)
    return Interval(float(value), max(low - bias, 0.0), max(high - bias, 0.0))
