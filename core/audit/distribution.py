"""Distances between sets of generated and real layouts."""

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import gammaln

from core.audit.bootstrap import Interval, draw_counts, mean_interval, percentile_interval, recentred_interval
from core.audit.layout_features import FeatureSpace
from core.audit.memorisation import memorised_share, nearest_training
from core.audit.two_sample import two_sample_accuracy
from core.data.palette import Palette
from core.data.variants import COUNT, all_variants
from core.runtime.seeding import derive_seed


class Prdc(NamedTuple):
    """Precision [N] and density [N] of each generated item, recall [M] and coverage [M] of each real item.

    The published figures are the means.
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
    """Figures of how generated layouts differ from real ones, with 95 % intervals; maps are uint8 [N, S, S].

    They are in the palette of the feature space. The model trains on every variant of the training layouts and
    generates all orientations. So each figure either compares with all variants of the real layouts or ignores
    orientation. Real layouts of each figure:

    - `frechet_distance`, `kernel_distance`, `precision`, `recall`, `density`, `coverage`: held-out layouts, so that a
      model that repeats its training set gains nothing.
    - `two_sample_accuracy`: the classifier trains on training layouts, of which there are more, and is tested on
      held-out ones.
    - `class_divergence`: all, since a few frequencies cannot be memorised.
    - `nearest_agreement`, `memorised`: training layouts; `memorised` uses held-out layouts as its scale.

    Intervals are over the generated layouts with the real ones fixed, for comparing models with the same real layouts.
    Those of recall and coverage are over the real layouts, those of `two_sample_accuracy` and `memorised` over both.
    The Fréchet distance grows as either set shrinks: compare it at equal numbers only. Ten held-out layouts are enough
    to run, a few hundred to be meaningful. Raises ValueError if a set has fewer than two layouts.
    """
    if min(len(fake_maps), len(real_training_maps), len(real_held_out_maps)) < 2:
        raise ValueError(
            f"a comparison needs two layouts of each kind, got {len(fake_maps)} generated, {len(real_training_maps)} "
            f"training and {len(real_held_out_maps)} held-out ones"
        )

    def rng(figure: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(seed, f"{figure} bootstrap"))

    palette = feature_space.palette
    fake, real = feature_space(fake_maps), feature_space(all_variants(real_held_out_maps))
    neighbours = prdc(real, fake, variants=COUNT)
    real_maps = np.concatenate([real_training_maps, real_held_out_maps])
    agreement = nearest_training(fake_maps, real_training_maps, len(palette))
    held_out_agreement = nearest_training(real_held_out_maps, real_training_maps, len(palette))
    return {
        "frechet_distance": frechet_interval(real, fake, rng("frechet distance")),
        "kernel_distance": kernel_interval(real, fake, rng("kernel distance"), variants=COUNT),
        "precision": mean_interval(neighbours.precision, rng("precision")),
        "recall": mean_interval(_layout_means(neighbours.recall), rng("recall")),
        "density": mean_interval(neighbours.density, rng("density")),
        "coverage": mean_interval(_layout_means(neighbours.coverage), rng("coverage")),
        "class_divergence": divergence_interval(real_maps, fake_maps, palette, rng("class divergence")),
        "two_sample_accuracy": two_sample_accuracy(
            real_training_maps, real_held_out_maps, fake_maps, len(palette), seed
        ),
        "nearest_agreement": mean_interval(agreement, rng("nearest agreement")),
        "memorised": memorised_share(agreement, held_out_agreement, rng("memorised")),
    }


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Fréchet distance of Gaussians fitted to features [N, D] and [M, D]; Heusel et al. (2017), equation 6.

    The trace of (AB)^1/2 is the sum of the roots of the eigenvalues of AB, which are those of the symmetric
    A^1/2 B A^1/2. In units of the features' variance; biased upwards by a term in 1/N.
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

    The kernel is (x.y / D + 1)^3. For equal distributions the value is near 0 and may be negative. Needs
    8 (N^2 + M^2 + NM) bytes.
    """
    within = [_mean_of_pairs(_cubic_kernel(features, features)) for features in (first, second)]
    return float(sum(within) - 2 * _cubic_kernel(first, second).mean())


def kernel_interval(
    real: np.ndarray, fake: np.ndarray, rng: np.random.Generator, resamples: int = 1000, variants: int = 1
) -> Interval:
    """`kernel_distance` with its interval over the generated features.

    Pairs of an item with itself are left out, also where a resample holds an item twice. So are pairs of real items
    that are `variants` of one layout, which are consecutive: they are not independent.
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

    Features are [M, D] and [N, D]. A set is the union of balls, each from an item to its k-th neighbour, or to the last
    if there are fewer. Real items that are `variants` of one layout, which are consecutive, do not count as neighbours:
    a layout is often similar to its mirror image, and its ball would be too small. With more generated than real items,
    coverage would rise by number alone; it is then the expected coverage by M of them.
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


def class_divergence(real_maps: np.ndarray, fake_maps: np.ndarray, palette: Palette) -> float:
    """Kullback-Leibler divergence, in nats, of the classes of generated pixels from those of real ones.

    KL(real || generated) over furniture and wall, like that of objects in ATISS (Paschalidou et al., 2021). Classes
    that are generated too rarely count most. Maps are [N, H, W]; one pixel is added to every class.
    """
    return float(_divergence(*(_class_counts(maps, palette).sum(0) for maps in (real_maps, fake_maps))))


def divergence_interval(
    real_maps: np.ndarray, fake_maps: np.ndarray, palette: Palette, rng: np.random.Generator, resamples: int = 1000
) -> Interval:
    """`class_divergence` with its interval over the generated layouts, recentred for its bias."""
    real, fake = _class_counts(real_maps, palette).sum(0), _class_counts(fake_maps, palette)
    resampled = _divergence(real, draw_counts(len(fake), rng, resamples) @ fake)
    return recentred_interval(float(_divergence(real, fake.sum(0))), resampled)


def _layout_means(values: np.ndarray) -> np.ndarray:
    """Mean [M] of `values` [8 M] over the eight variants of each layout, which are not independent."""
    means: np.ndarray = values.reshape(-1, COUNT).mean(1)
    return means


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and covariance [D, D] of features [N, D]."""
    features = np.asarray(features, np.float64)
    return features.mean(0), np.cov(features, rowvar=False).reshape(features.shape[1], -1)


def _frechet(reference: tuple[np.ndarray, np.ndarray], means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Squared Fréchet distances [R] of Gaussians with `means` [R, D] and `covariances` [R, D, D] from `reference`."""
    mean, covariance = reference
    variances, axes = np.linalg.eigh(covariance)
    root = (axes * np.sqrt(np.maximum(variances, 0))) @ axes.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances @ root), 0)).sum(-1)
    traces = np.trace(covariance) + np.trace(covariances, axis1=1, axis2=2)
    distances: np.ndarray = np.maximum(np.square(means - mean).sum(-1) + traces - 2 * overlap, 0)
    return distances


def _cubic_kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    kernel: np.ndarray = (first @ second.T / first.shape[1] + 1) ** 3
    return kernel


def _mean_of_pairs(kernel: np.ndarray, variants: int = 1) -> float:
    """Mean of a kernel matrix [N, N] over the pairs of items that are not `variants` of one layout."""
    own = np.einsum("iaib->", kernel.reshape(len(kernel) // variants, variants, -1, variants))
    return float((kernel.sum() - own) / (len(kernel) * (len(kernel) - variants)))


def _squared_radii(features: np.ndarray, k: int, variants: int) -> np.ndarray:
    """Squared distance [N] of each item to its k-th neighbour that is not a variant of the same layout."""
    distances = cdist(features, features, "sqeuclidean")
    layout = np.arange(len(features)) // variants
    distances[layout[:, None] == layout] = np.inf
    return np.partition(distances, k - 1, axis=1)[:, k - 1]


def _share_of_draws_that_hit(hits: np.ndarray, count: int, drawn: int) -> np.ndarray:
    """Probability [M] that `drawn` of `count` items, without replacement, include one of `hits` [M] items."""
    misses = count - hits
    # The probability of no hit is C(misses, drawn) / C(count, drawn), and 0 with fewer misses than draws.
    log_missed = (
        gammaln(misses + 1)
        - gammaln(np.maximum(misses - drawn, 0) + 1)
        - gammaln(count + 1)
        + gammaln(count - drawn + 1)
    )
    return np.where(misses < drawn, 1.0, -np.expm1(log_missed))


def _class_counts(maps: np.ndarray, palette: Palette) -> np.ndarray:
    """Number of pixels of each class but background in each of `maps` [N, H, W]: float64 [N, classes - 1]."""
    counted = [index for index in range(len(palette)) if index != palette.background]
    return np.stack([(maps == index).sum((1, 2)) for index in counted], axis=1) * 1.0


def _divergence(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """KL divergence of class counts [..., K], in nats."""
    p, q = ((counts + 1) / (counts + 1).sum(-1, keepdims=True) for counts in (real, fake))
    divergence: np.ndarray = (p * np.log(p / q)).sum(-1)
    return divergence
