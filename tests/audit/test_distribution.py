"""Distances between sets of layouts: known where the truth is known, and moving when layouts get worse."""

import numpy as np
import pytest
import torch

from core.audit.distribution import (
    class_divergence,
    compare_distributions,
    divergence_interval,
    frechet_distance,
    frechet_interval,
    kernel_distance,
    kernel_interval,
    prdc,
)
from core.audit.layout_features import FeatureSpace, alexnet_features
from core.audit.memorisation import memorised_share, nearest_training
from core.audit.two_sample import two_sample_accuracy
from core.config.loss_sections import PerceptualLossSection
from core.data.layouts import resize_layout
from core.data.palette import DEFAULT_PALETTE
from core.data.variants import all_variants, variant_of_each
from core.houses.layout_generator import generate_layout
from core.runtime.errors import InputError
from tests.quick_audits import REAL_STEPS

BACKGROUND, WALL = DEFAULT_PALETTE.background, DEFAULT_PALETTE.wall


@pytest.fixture(scope="module")
def houses() -> np.ndarray:
    """Class maps, [360, 32, 32], of generated houses of one room."""
    drawn = [generate_layout(np.random.default_rng([9, index]), 1, 128) for index in range(360)]
    return np.stack(
        [
            DEFAULT_PALETTE.classes_from_rgb(
                resize_layout(DEFAULT_PALETTE.rgb_from_classes(layout), 32, DEFAULT_PALETTE)
            )
            for layout in drawn
        ]
    )


@pytest.fixture(scope="module")
def space(houses, trunk) -> FeatureSpace:
    return FeatureSpace.fit(houses[:40], PerceptualLossSection(backbone=str(trunk)), DEFAULT_PALETTE)


def torn(maps: np.ndarray, share: float = 0.1) -> np.ndarray:
    """The same layouts with holes in their walls and crumbs of furniture on the floor."""
    rng = np.random.default_rng(0)
    hit = rng.random(maps.shape) < share
    return np.where(hit & (maps == WALL), BACKGROUND, np.where(hit & (rng.random(maps.shape) < 0.2), 2, maps)).astype(
        np.uint8
    )


def gaussian(seed: int, count: int = 400, size: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def test_frechet_distance_of_shifted_gaussians_is_the_squared_shift():
    sample, shift = gaussian(0), np.array([2.0, 0, -1, 0, 0, 0.5])
    assert frechet_distance(sample, sample) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(sample, sample + shift) == pytest.approx(5.25, rel=1e-5)


def test_frechet_distance_of_scaled_gaussians_is_that_of_their_deviations():
    sample = gaussian(0)
    trace = np.trace(np.cov(sample, rowvar=False))
    assert frechet_distance(sample, 3 * sample) == pytest.approx(
        trace * 4 + 4 * np.square(sample.mean(0)).sum(), rel=1e-5
    )


def test_frechet_distance_is_symmetric_and_holds_with_fewer_items_than_dimensions():
    first, second = gaussian(1, 10, 30) * 2, gaussian(2, 50, 30) + 1
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-5)


def test_kernel_distance_is_unbiased():
    distances = [kernel_distance(gaussian(2 * seed, 60), gaussian(2 * seed + 1, 40)) for seed in range(200)]
    assert abs(np.mean(distances)) < 3 * np.std(distances) / np.sqrt(200)
    assert min(distances) < 0
    assert kernel_distance(gaussian(0), gaussian(1) + 0.5) > 10 * np.std(distances)


def test_kernel_distance_leaves_out_pairs_of_one_layout():
    """Eight variants that are hardly different would make any real set seem less varied than it is."""
    rng = np.random.default_rng(0)
    distances = []
    for seed in range(60):
        real = np.repeat(gaussian(seed, 15), 8, axis=0)
        distances.append([kernel_interval(real, gaussian(seed + 900, 200), rng, 2, v).value for v in (1, 8)])
    plain, grouped = np.mean(distances, axis=0)
    error = np.std(distances, axis=0)[1] / np.sqrt(60)
    assert abs(grouped) < 3 * error < plain


@pytest.mark.parametrize("interval", [frechet_interval, kernel_interval])
def test_distance_intervals_contain_the_expected_distance_and_repeat(interval):
    real, samples = gaussian(999), [gaussian(seed, 150) * 1.2 for seed in range(100)]
    intervals = [interval(real, sample, np.random.default_rng(0), resamples=100) for sample in samples]
    expected = np.mean([i.value for i in intervals])
    assert np.mean([i.low <= expected <= i.high for i in intervals]) >= 0.87
    # Not by being far too wide.
    assert np.mean([i.high - i.low for i in intervals]) < 6 * np.std([i.value for i in intervals])
    assert all(i.low < i.value < i.high for i in intervals)
    assert interval(real, samples[0], np.random.default_rng(0), resamples=100) == intervals[0]
    pointwise = frechet_distance if interval is frechet_interval else kernel_distance
    assert intervals[0].value == pytest.approx(pointwise(real, samples[0]))


def test_kernel_interval_is_unbiased_among_few_items():
    """An item that a resample holds twice must not count as a pair that is alike."""
    real, rng = gaussian(99) + 3, np.random.default_rng(0)
    offsets = []
    for seed in range(40):
        interval = kernel_interval(real, gaussian(seed, 20) + 3, rng, resamples=400)
        offsets.append(((interval.low + interval.high) / 2 - interval.value) / (interval.high - interval.low))
    assert abs(np.mean(offsets)) < 0.1


def test_precision_recall_density_and_coverage_of_equal_and_of_far_sets():
    real = gaussian(0)
    equal, far = prdc(real, real), prdc(real, real + 100)
    assert [values.mean() for values in (equal.precision, equal.recall, equal.coverage)] == [1, 1, 1]
    assert equal.density.mean() == pytest.approx(1, abs=0.25)
    assert [values.sum() for values in far] == [0, 0, 0, 0]
    alike = prdc(real, gaussian(1))
    assert alike.density.mean() == pytest.approx(1, abs=0.15) and alike.coverage.mean() > 0.9


def test_coverage_and_recall_fall_when_modes_are_dropped_and_precision_does_not():
    centres = np.repeat(10 * np.eye(6)[:4], 100, axis=0)
    real, all_modes, half = gaussian(0) + centres, gaussian(1) + centres, gaussian(2)[:200] + centres[:200]
    whole, part = prdc(real, all_modes), prdc(real, half)
    assert whole.coverage.mean() > 0.9 and part.coverage.mean() < 0.5
    assert part.recall.mean() < 0.6 * whole.recall.mean()
    assert part.precision.mean() > 0.9 * whole.precision.mean()


def test_precision_falls_and_recall_does_not_when_half_is_rubbish():
    real, fake = gaussian(0), gaussian(1)
    fake[:200] += 50
    figures = prdc(real, fake)
    assert figures.precision[:200].sum() == figures.density[:200].sum() == 0
    assert figures.precision[200:].mean() > 0.8 and figures.recall.mean() > 0.8


def test_wide_layouts_have_recall_without_precision_and_narrow_ones_the_reverse():
    real, fake = gaussian(0), gaussian(1)
    wide, narrow = prdc(real, 10 * fake), prdc(real, 0.1 * fake)
    assert wide.recall.mean() > 0.9 and wide.precision.mean() < 0.1
    assert narrow.recall.mean() < 0.1 and narrow.precision.mean() > 0.9


def test_coverage_does_not_rise_with_the_number_of_generated_items():
    real = gaussian(0, 60)
    few, many = (np.mean([prdc(real, gaussian(s, n)).coverage.mean() for s in range(1, 21)]) for n in (60, 1500))
    assert few == pytest.approx(many, abs=0.02) and few < 0.99


def test_variants_of_a_layout_are_not_neighbours_of_each_other():
    layouts = gaussian(0, 50)
    real = np.repeat(layouts, 8, axis=0) + 1e-6 * gaussian(1)
    fake = gaussian(2, 400)
    assert prdc(real, fake).density.mean() == 0
    # The five nearest items of others are all of the nearest layout; its ball is that layout's with k = 1.
    grouped = prdc(real, fake, k=5, variants=8).density.mean() * 5 / 8
    assert grouped == pytest.approx(prdc(layouts, fake, k=1).density.mean(), rel=0.01)


def test_neighbours_are_capped_in_tiny_sets():
    figures = prdc(gaussian(0, 2), gaussian(1, 3), k=5)
    assert all(np.isfinite(values).all() for values in figures)


def test_class_divergence_is_that_of_the_frequencies():
    real, fake = np.full((2, 1, 100), WALL, np.uint8), np.full((2, 1, 100), WALL, np.uint8)
    real[:, :, :50], fake[:, :, :90] = 0, 0
    assert class_divergence(real, real, DEFAULT_PALETTE) == 0
    truth = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert class_divergence(real, fake, DEFAULT_PALETTE) == pytest.approx(truth, abs=0.05)
    # Background does not count, and a missing class does not give infinity.
    framed = [np.pad(maps, ((0, 0), (1, 1), (3, 3)), constant_values=BACKGROUND) for maps in (real, fake)]
    assert class_divergence(*framed, DEFAULT_PALETTE) == class_divergence(real, fake, DEFAULT_PALETTE)
    assert 1 < class_divergence(real, np.full_like(real, 0), DEFAULT_PALETTE) < 10


def test_class_divergence_of_houses_is_small_and_of_torn_ones_is_not(houses):
    interval, worse = (
        divergence_interval(houses[:180], x, DEFAULT_PALETTE, np.random.default_rng(0))
        for x in (houses[180:], torn(houses[180:]))
    )
    assert 0 <= interval.low <= interval.value <= interval.high < worse.low


def test_a_rotated_copy_of_a_training_layout_is_found(houses):
    copies = np.stack([variant_of_each(houses[index : index + 1], index)[0] for index in range(8)])
    assert (nearest_training(copies, houses[:20], len(DEFAULT_PALETTE)) == 1).all()
    assert (nearest_training(copies, houses[20:40], len(DEFAULT_PALETTE)) < 1).all()
    changed = copies.copy()
    changed[:, 3, :8] = (changed[:, 3, :8] + 1) % len(DEFAULT_PALETTE)
    assert nearest_training(changed, houses[:20], len(DEFAULT_PALETTE)) == pytest.approx(1 - 8 / 1024)
    enlarged = [maps.repeat(6, axis=1).repeat(6, axis=2) for maps in (copies, houses[:20])]
    assert (nearest_training(*enlarged, len(DEFAULT_PALETTE)) == 1).all()


def test_agreement_does_not_depend_on_chunks(houses, monkeypatch):
    whole = nearest_training(houses[:30], houses[30:60], len(DEFAULT_PALETTE))
    monkeypatch.setattr("core.audit.memorisation._CHUNK_BYTES", 7 * 4 * len(DEFAULT_PALETTE) * 1024)
    assert np.array_equal(nearest_training(houses[:30], houses[30:60], len(DEFAULT_PALETTE)), whole)
    by_pixel = max((houses[0] == other).mean() for other in all_variants(houses[30:60]))
    assert whole[0] == by_pixel


def test_held_out_layouts_are_memorised_about_as_often_as_chance(houses):
    """Copies always are."""
    training, held_out, others = houses[:120], houses[120:240], houses[240:]
    rng = np.random.default_rng(0)
    threshold = nearest_training(held_out, training, len(DEFAULT_PALETTE))
    assert memorised_share(threshold, threshold, rng).value == pytest.approx(0.01, abs=0.01)
    fresh = memorised_share(nearest_training(others, training, len(DEFAULT_PALETTE)), threshold, rng)
    assert fresh.value <= 0.06 and fresh.low <= 0.01
    mixed = np.concatenate([variant_of_each(training[:60], 5), others[:60]])
    copied = memorised_share(nearest_training(mixed, training, len(DEFAULT_PALETTE)), threshold, rng)
    assert 0.4 < copied.low < copied.value < copied.high < 0.62


def test_a_classifier_separates_houses_only_from_broken_ones(houses, monkeypatch):
    monkeypatch.setattr("core.audit.two_sample.STEPS", REAL_STEPS)
    training, test, fake = houses[:160], houses[160:220], houses[220:]
    alike, broken = (
        two_sample_accuracy(training, test, maps, len(DEFAULT_PALETTE), seed=1) for maps in (fake, torn(fake))
    )
    assert alike.low < 0.5 < alike.high
    assert broken.value > 0.8 and alike.high < broken.low


def test_two_sample_accuracy_repeats_and_leaves_the_global_generator_alone(houses, monkeypatch):
    monkeypatch.setattr("core.audit.two_sample.STEPS", 20)
    small = houses[:60, ::2, ::2]
    results = []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 1, 2):
            torch.rand(1)
            state = torch.random.get_rng_state()
            results.append(two_sample_accuracy(small[:20], small[20:30], small[30:], len(DEFAULT_PALETTE), seed))
            assert torch.equal(torch.random.get_rng_state(), state)
    assert results[0] == results[1] != results[2]


def test_features_are_scaled_to_the_fitted_layouts(houses, space):
    features = space(all_variants(houses[:40]))
    assert features.dtype == np.float32 and features.shape == (320, 64)
    assert features.var(0, ddof=1).mean() == pytest.approx(1, rel=1e-3)
    assert features.mean(0) == pytest.approx(0, abs=1e-3)
    correlation = np.corrcoef(features[:, :8], rowvar=False)
    assert correlation == pytest.approx(np.eye(8), abs=1e-2)
    assert space.trunk == "trunk.pt"


def test_features_do_not_depend_on_neighbours_and_see_where_things_are(houses, space):
    torch.testing.assert_close(space(houses[:70])[66:67], space(houses[66:67]), rtol=1e-3, atol=1e-3)
    assert not np.allclose(space(houses[:1]), space(variant_of_each(houses[:1], 2)), atol=0.1)
    assert alexnet_features(
        houses[:2].repeat(8, axis=1).repeat(8, axis=2), space.perceptual, DEFAULT_PALETTE
    ).shape == (2, 1024)


def test_unlabelled_pixels_have_no_features(houses, space):
    maps = houses[:2].copy()
    maps[0, 0, 0] = 255
    with pytest.raises(ValueError, match="255"):
        space(maps)


def test_few_layouts_span_few_dimensions(houses, trunk):
    section = PerceptualLossSection(backbone=str(trunk))
    assert FeatureSpace.fit(houses[:2], section, DEFAULT_PALETTE).components.shape[1] <= 15
    with pytest.raises(InputError, match="all the same"):
        FeatureSpace.fit(np.full((3, 32, 32), BACKGROUND, np.uint8), section, DEFAULT_PALETTE)


def test_every_figure_of_a_comparison_moves_when_layouts_are_torn(houses, space):
    training, held_out, fake = houses[:100], houses[100:140], houses[160:230]
    good, again, bad = (compare_distributions(maps, training, held_out, space, 3) for maps in (fake, fake, torn(fake)))
    assert good == again
    assert list(good) == [
        "frechet_distance",
        "kernel_distance",
        "precision",
        "recall",
        "density",
        "coverage",
        "class_divergence",
        "two_sample_accuracy",
        "nearest_agreement",
        "memorised",
    ]
    for figures in (good, bad):
        assert all(np.isfinite(interval).all() for interval in figures.values())
        assert all(interval.low <= interval.value <= interval.high for interval in figures.values())
    for name in ("frechet_distance", "kernel_distance", "class_divergence"):
        assert good[name].high < bad[name].low, name
    for name in ("precision", "coverage", "nearest_agreement"):
        assert good[name].low > bad[name].high, name
    assert good["density"].value > bad["density"].value


def test_ten_held_out_layouts_are_enough_to_run(houses, space):
    figures = compare_distributions(houses[:12], houses[20:30], houses[30:40], space, 0)
    assert all(np.isfinite(interval).all() for interval in figures.values())
    with pytest.raises(ValueError, match="1 held-out"):
        compare_distributions(houses[:12], houses[20:30], houses[30:31], space, 0)
