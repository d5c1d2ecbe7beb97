"""Distances between sets of layouts: how far what is generated is from what is real."""

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import gammaln

from core.audit.bootstrap import Interval, draw_counts, mean_interval, percentile_interval, recentred_interval
from core.audit.layout_features import FeatureSpace
from core.audit.memorisation import memorised_share, nearest_training
from core.audit.two_sample import two_sample_accuracy
from core.data.palette import BACKGROUND, NUM_CLASSES
from core.data.variants import COUNT, all_variants
from core.runtime.seeding import derive_seed


class Prdc(NamedTuple):
    """Precision [N] and density [N] of each generated item, recall [M] and coverage [M] of each real one.

    The figures are their means.
    """

    precision: np.ndarray
    recall: np.ndarray
    density: np.ndarray
    coverage: np.ndarray


def compare_distributions(
    fake_maps: np.ndarray,
    real_training_maps: np.ndarray,
    real_held_out_maps: np.ndarray,
    feature_space: FeatureSpace,
    seed: int,
) -> dict[str, Interval]:
    """How generated layouts differ from real ones, each figure with its 95 % interval; maps are uint8 [N, S, S].

    The model trains on every rotated and mirrored variant of the training layouts and so draws in all orientations:
    each comparison is with all variants of the real layouts or does not see orientation. `frechet_distance`,
    `kernel_distance`, `precision`, `recall`, `density` and `coverage` are against the *held-out* layouts, so that a
    model that repeats its training set gains nothing. `two_sample_accuracy` is that of a classifier trained on training
    layouts, of which there are more, and tested on held-out ones. `class_divergence`, nine frequencies that cannot be
    memorised, is from all real layouts. `nearest_agreement` and `memorised` are against the training layouts,
    `memorised` on the scale that held-out ones set.

    Intervals are over the generated layouts, with the real ones held fixed: they serve to compare models judged
    against the same real layouts. Those of recall and coverage are over the real layouts, those of
    `two_sample_accuracy` and `memorised` over both. The Fréchet distance grows as either set shrinks: compare it at
    equal numbers only. Ten held-out layouts are enough to run, a few hundred to mean something. Raises ValueError if
    there are fewer than two layouts in a set.
    """
    if min(len(fake_maps), len(real_training_maps), len(real_held_out_maps)) < 2:
        raise ValueError(
            f"a comparison needs two layouts of each kind, got {len(fake_maps)} generated, {len(real_training_maps)} "
            f"training and {len(real_held_out_maps)} held-out ones"
        )

    def rng(figure: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(seed, f"{figure} bootstrap"))

    fake, real = feature_space(fake_maps), feature_space(all_variants(real_held_out_maps))
    neighbours = prdc(real, fake, variants=COUNT)
    real_maps = np.concatenate([real_training_maps, real_held_out_maps])
    agreement = nearest_training(fake_maps, real_training_maps)
    held_out_agreement = nearest_training(real_held_out_maps, real_training_maps)
    return {
        "frechet_distance": frechet_interval(real, fake, rng("frechet distance")),
        "kernel_distance": kernel_interval(real, fake, rng("kernel distance"), variants=COUNT),
        "precision": mean_interval(neighbours.precision, rng("precision")),
        "recall": mean_interval(_layout_means(neighbours.recall), rng("recall")),
        "density": mean_interval(neighbours.density, rng("density")),
        "coverage": mean_interval(_layout_means(neighbours.coverage), rng("coverage")),
        "class_divergence": divergence_interval(real_maps, fake_maps, rng("class divergence")),
        "two_sample_accuracy": two_sample_accuracy(real_training_maps, real_held_out_maps, fake_maps, seed),
        "nearest_agreement": mean_interval(agreement, rng("nearest agreement")),
        "memorised": memorised_share(agreement, held_out_agreement, rng("memorised")),
    }


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Fréchet distance of Gaussians fitted to features [N, D] and [M, D]; Heusel et al. (2017), equation 6.

    The trace of the root of the product of covariances is the sum of the roots of its eigenvalues, which are those of
    the symmetric A^1/2 B A^1/2. In units of the features' variance; biased upwards by a term in 1/N.
    """
    mean, covariance = _moments(second)
    return float(_frechet(_moments(first), mean[None], covariance[None])[0])


def frechet_interval(real: np.ndarray, fake: np.ndarray, rng: np.random.Generator, resamples: int = 200) -> Interval:
    """`frechet_distance` with its interval over the generated features, recentred for its bias."""
    reference, fake = _moments(real), np.asarray(fake, np.float64)
    centre, count = fake.mean(0), len(fake)
    centred = fake - centre
    counts = draw_counts(count, rng, resamples)
    shifts = counts @ centred / count
    covariances = np.stack([centred.T @ (row[:, None] * centred) for row in counts])
    covariances -= count * shifts[:, :, None] * shifts[:, None, :]
    resampled = _frechet(reference, centre + shifts, covariances / (count - 1))
    return recentred_interval(frechet_distance(real, fake), resampled)


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy of features [N, D] and [M, D]; Binkowski et al. (2018), equation 4.

    The kernel is (x.y / D + 1)^3. Near 0, on either side, for one distribution. Takes 8 (N^2 + M^2 + NM) bytes.
    """
    within = [_mean_of_pairs(_cubic_kernel(features, features)) for features in (first, second)]
    return float(sum(within) - 2 * _cubic_kernel(first, second).mean())


def kernel_interval(
    real: np.ndarray, fake: np.ndarray, rng: np.random.Generator, resamples: int = 1000, variants: int = 1
) -> Interval:
    """`kernel_distance` with its interval over the generated features.

    A resample may hold an item twice; pairs of an item and itself stay out of it, as they do of the estimate. So do
    pairs of real items that are `variants` of one layout, which follow each other: they are not drawn independently.
    """
    within, across = _cubic_kernel(fake, fake), _cubic_kernel(fake, real).mean(1)
    np.fill_diagonal(within, 0)
    counts = draw_counts(len(fake), rng, resamples)
    pairs = len(fake) ** 2 - np.square(counts).sum(1)
    generated = ((counts @ within) * counts).sum(1) / pairs
    fixed = _mean_of_pairs(_cubic_kernel(real, real), variants)
    value = fixed + within.sum() / (len(fake) * (len(fake) - 1)) - 2 * across.mean()
    return percentile_interval(value, fixed + generated - 2 * counts @ across / len(fake))


def prdc(real: np.ndarray, fake: np.ndarray, k: int = 5, variants: int = 1) -> Prdc:
    """Precision and recall of Kynkäänniemi et al. (2019), density and coverage of Naeem et al. (2020), per item.

    Features are [M, D] and [N, D]; a set is the union of balls that reach to each item's k-th neighbour (fewer if
    there are not as many). Real items that are `variants` of one layout, which follow each other, are no neighbours:
    a layout is often like its own mirror image, and its ball would be too small. More generated than real items would
    cover anything: coverage is then the expected one of M of them.
    """
    k_real, k_fake = min(k, len(real) - variants), min(k, len(fake) - 1)
    distances = cdist(real, fake, "sqeuclidean")
    in_real_ball = distances <= _squared_radii(real, k_real, variants)[:, None]
    in_fake_ball = distances <= _squared_radii(fake, k_fake, 1)
    return Prdc(
        precision=in_real_ball.any(0).astype(np.float64),
        recall=in_fake_ball.any(1).astype(np.float64),
        density=in_real_ball.sum(0) / k_real,
        coverage=_share_of_draws_that_hit(in_real_ball.sum(1), len(fake), min(len(real), len(fake))),
    )


def class_divergence(real_maps: np.ndarray, fake_maps: np.ndarray) -> float:
    """Kullback-Leibler divergence, in nats, of the classes of generated pixels from those of real ones.

    KL(real || generated) over furniture and wall, as ATISS has it for objects (Paschalidou et al., 2021): classes
    that are generated too rarely weigh most. Maps are [N, H, W]; one pixel is added to every class.
    """
    return float(_divergence(_class_counts(real_maps).sum(0), _class_counts(fake_maps).sum(0)))


def divergence_interval(
    real_maps: np.ndarray, fake_maps: np.ndarray, rng: np.random.Generator, resamples: int = 1000
) -> Interval:
    """`class_divergence` with its interval over the generated layouts, recentred for its bias."""
    real, fake = _class_counts(real_maps).sum(0), _class_counts(fake_maps)
    resampled = _divergence(real, draw_counts(len(fake), rng, resamples) @ fake)
    return recentred_interval(float(_divergence(real, fake.sum(0))), resampled)


def _layout_means(values: np.ndarray) -> np.ndarray:
    """Mean [M] over the eight variants of each layout, which are no independent items, of values [8 M]."""
    return values.reshape(-1, COUNT).mean(1)


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = np.asarray(features, np.float64)
    return features.mean(0), np.cov(features, rowvar=False).reshape(features.shape[1], -1)


def _frechet(reference: tuple[np.ndarray, np.ndarray], means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Distances [R] of Gaussians of `means` [R, D] and `covariances` [R, D, D] from one."""
    mean, covariance = reference
    variances, axes = np.linalg.eigh(covariance)
    root = (axes * np.sqrt(np.maximum(variances, 0))) @ axes.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances @ root), 0)).sum(-1)
    traces = np.trace(covariance) + np.trace(covariances, axis1=1, axis2=2)
    return np.maximum(np.square(means - mean).sum(-1) + traces - 2 * overlap, 0)


def _cubic_kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return (first @ second.T / first.shape[1] + 1) ** 3


def _mean_of_pairs(kernel: np.ndarray, variants: int = 1) -> float:
    """Mean of a kernel matrix [N, N] over pairs of items that are not among the same `variants`."""
    own = np.einsum("iaib->", kernel.reshape(len(kernel) // variants, variants, -1, variants))
    return float((kernel.sum() - own) / (len(kernel) * (len(kernel) - variants)))


def _squared_radii(features: np.ndarray, k: int, variants: int) -> np.ndarray:
    """Squared distance [N] of each item to its k-th nearest one that is not among the same `variants`."""
    distances = cdist(features, features, "sqeuclidean")
    layout = np.arange(len(features)) // variants
    distances[layout[:, None] == layout] = np.inf
    return np.partition(distances, k - 1, axis=1)[:, k - 1]


def _share_of_draws_that_hit(hits: np.ndarray, count: int, drawn: int) -> np.ndarray:
    """Probability that among `drawn` of `count` items, without replacement, is one of the `hits` [M]."""
    misses = count - hits
    # C(misses, drawn) / C(count, drawn); nothing is missed where there are fewer misses than draws.
    log_missed = (
        gammaln(misses + 1)
        - gammaln(np.maximum(misses - drawn, 0) + 1)
        - gammaln(count + 1)
        + gammaln(count - drawn + 1)
    )
    return np.where(misses < drawn, 1.0, -np.expm1(log_missed))


def _class_counts(maps: np.ndarray) -> np.ndarray:
    """Pixels of each furniture class and of wall, float64 [N, 9], in each of `maps` [N, H, W]."""
    return np.stack([(maps == index).sum((1, 2)) for index in range(NUM_CLASSES) if index != BACKGROUND], axis=1) * 1.0


def _divergence(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """KL divergence of counts [..., 9]."""
    p, q = ((counts + 1) / (counts + 1).sum(-1, keepdims=True) for counts in (real, fake))
    return (p * np.log(p / q)).sum(-1)
