"""Whether generated layouts repeat training layouts: the nearest one, in whatever orientation, by pixels."""

import numpy as np

from core.audit.bootstrap import Interval, draw_counts, percentile_interval
from core.data.palette import NUM_CLASSES
from core.data.variants import COUNT, variant_of_each

# Of real layouts that were not trained on, the share that is taken for memorised by chance.
CHANCE = 0.01

# Larger maps are compared on a grid of about this many pixels a side; one-hot chunks take this much memory.
_GRID = 64
_CHUNK_BYTES = 100 * 2**20


def nearest_training(maps: np.ndarray, training_maps: np.ndarray) -> np.ndarray:
    """Share of pixels on which each of `maps` [N, S, S] agrees with its nearest training layout: float64 [N], 0 to 1.

    `training_maps` [M, S, S] are compared in all eight rotations and mirrored forms. Of maps larger than 64x64 every
    second pixel of a line counts, every third from 192x192 on, and so on.
    """
    if not len(training_maps) or maps.shape[1:] != training_maps.shape[1:]:
        raise ValueError(f"maps {maps.shape} need training layouts of the same size, got {training_maps.shape}")
    step = -(-maps.shape[1] // _GRID)
    maps = maps[:, ::step, ::step]
    rows = max(1, _CHUNK_BYTES // (4 * NUM_CLASSES * maps[0].size)) if len(maps) else 1
    nearest = np.zeros(len(maps))
    for start in range(0, len(maps), rows):
        chunk = _one_hot(maps[start : start + rows])
        for index in range(COUNT):
            oriented = variant_of_each(training_maps, index)[:, ::step, ::step]
            for first in range(0, len(oriented), rows):
                agreeing = chunk @ _one_hot(oriented[first : first + rows]).T
                np.maximum(nearest[start : start + rows], agreeing.max(1), out=nearest[start : start + rows])
    return nearest / maps[0].size if len(maps) else nearest


def memorised_share(
    agreement: np.ndarray, held_out_agreement: np.ndarray, rng: np.random.Generator, resamples: int = 1000
) -> Interval:
    """Share of generated layouts nearer to training than all but 1 % of real layouts that were not trained on.

    Both are what `nearest_training` says, [N] of generated and [M] of held-out real layouts; 0.01 is chance. The
    interval draws both again, since with few held-out layouts it is their percentile that is uncertain.
    """
    value = (agreement > np.quantile(held_out_agreement, 1 - CHANCE)).mean()
    counts = draw_counts(len(agreement), rng, resamples)
    held_out = rng.choice(held_out_agreement, (resamples, len(held_out_agreement)))
    thresholds = np.quantile(held_out, 1 - CHANCE, axis=1)
    shares = (counts * (agreement > thresholds[:, None])).sum(1) / len(agreement)
    return percentile_interval(value, shares)


def _one_hot(maps: np.ndarray) -> np.ndarray:
    """float32 [N, pixels * classes]: the product of two rows counts the pixels on which they agree."""
    return (maps[..., None] == np.arange(NUM_CLASSES, dtype=maps.dtype)).reshape(len(maps), -1).astype(np.float32)
