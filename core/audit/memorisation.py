"""Whether generated layouts repeat training layouts, by pixels and in any orientation."""

import numpy as np

from core.audit.bootstrap import Interval, draw_counts, percentile_interval
from core.data.variants import COUNT, variant_of_each

# Share of held-out real layouts that count as memorised by chance.
CHANCE = 0.01

# Larger maps are compared on a grid of about this many pixels a side. A chunk of one-hot maps takes this much memory.
_GRID = 64
_CHUNK_BYTES = 100 * 2**20


def nearest_training(maps: np.ndarray, training_maps: np.ndarray, num_classes: int) -> np.ndarray:
    """Share of pixels on which each of `maps` [N, S, S] agrees with its nearest training layout: float64 [N], 0 to 1.

    Both are of `num_classes` classes. `training_maps` [M, S, S] are compared in all eight variants. Of maps larger than
    64x64, every second pixel of a row or column counts; above 128x128 every third, and so on.
    """
    if not len(training_maps) or maps.shape[1:] != training_maps.shape[1:]:
        raise ValueError(f"maps {maps.shape} need training layouts of the same size, got {training_maps.shape}")
    step = -(-maps.shape[1] // _GRID)
    maps = maps[:, ::step, ::step]
    rows = max(1, _CHUNK_BYTES // (4 * num_classes * maps[0].size)) if len(maps) else 1
    nearest = np.zeros(len(maps))
    for start in range(0, len(maps), rows):
        chunk = _one_hot(maps[start : start + rows], num_classes)
        for index in range(COUNT):
            oriented = variant_of_each(training_maps, index)[:, ::step, ::step]
            for first in range(0, len(oriented), rows):
                agreeing = chunk @ _one_hot(oriented[first : first + rows], num_classes).T
                np.maximum(nearest[start : start + rows], agreeing.max(1), out=nearest[start : start + rows])
    return nearest / maps[0].size if len(maps) else nearest


def memorised_share(
    agreement: np.ndarray, held_out_agreement: np.ndarray, rng: np.random.Generator, resamples: int = 1000
) -> Interval:
    """Share of generated layouts that are closer to the training layouts than 99 % of held-out real layouts are.

    `agreement` [N] of generated and `held_out_agreement` [M] of held-out layouts come from `nearest_training`. 0.01 is
    chance. The interval resamples both, since with few held-out layouts their percentile is uncertain.
    """
    value = (agreement > np.quantile(held_out_agreement, 1 - CHANCE)).mean()
    counts = draw_counts(len(agreement), rng, resamples)
    held_out = rng.choice(held_out_agreement, (resamples, len(held_out_agreement)))
    thresholds = np.quantile(held_out, 1 - CHANCE, axis=1)
    shares = (counts * (agreement > thresholds[:, None])).sum(1) / len(agreement)
    return percentile_interval(value, shares)


def _one_hot(maps: np.ndarray, num_classes: int) -> np.ndarray:
    """float32 [N, pixels * classes]; the dot product of two rows is the number of pixels on which they agree."""
    one_hot: np.ndarray = maps[..., None] == np.arange(num_classes, dtype=maps.dtype)
    return one_hot.reshape(len(maps), -1).astype(np.float32)
