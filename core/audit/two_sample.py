"""Classifier two-sample test (Lopez-Paz & Oquab, 2017): how well a new network separates generated from real."""

import itertools
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from core.audit.bootstrap import Interval, percentile_interval, resampled_means
from core.data.variants import COUNT, all_variants
from core.runtime.seeding import derive_seed, generator

STEPS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 300, 64, 3e-3, 1e-2
TEST_SHARE = 0.5

# Larger maps are reduced to shares of classes in this many cells a side.
_SIDE = 64
_WIDTH = 128


class LayoutClassifier(nn.Sequential):
    """Logits [B, 1] that one-hot maps [B, classes, S, S] are real; `size` S is at least 16.

    Each block halves the map, down to 4x4, and doubles the width, so that all sizes take about the same time. It shares
    no layer with the discriminator.
    """

    def __init__(self, size: int, num_classes: int):
        blocks = round(math.log2(size / 4))
        widths = [_WIDTH >> (blocks - 1 - block) for block in range(blocks)]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise([num_classes, *widths]):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_WIDTH, 1))


def two_sample_accuracy(
    real_training: np.ndarray,
    real_test: np.ndarray,
    fake: np.ndarray,
    num_classes: int,
    seed: int,
    resamples: int = 1000,
) -> Interval:
    """Test accuracy of a new classifier of real and generated maps, mean of both classes; 0.5 if they are alike.

    Maps are uint8 [N, S, S] of `num_classes` classes. Real ones are given in two sets, so that no layout is in both;
    generated ones are halved by seed. A batch holds equally many of both, in random variants. A test layout is
    classified by its mean logit over all eight variants. The interval is over test layouts, not over trainings. On a
    CPU, equal arguments give the same bits. Torch's global generator is not changed.
    """
    order = np.random.default_rng(derive_seed(seed, "two-sample split")).permutation(len(fake))
    num_test = int(TEST_SHARE * len(fake))
    if min(len(real_training), len(real_test), num_test) < 1:
        raise ValueError(
            f"a two-sample test needs real layouts on both sides and two generated ones, got {len(real_training)}, "
            f"{len(real_test)} and {len(fake)}"
        )

    def shares(maps: np.ndarray) -> Tensor:
        return _class_shares(maps, num_classes)

    model = _train(shares(real_training), shares(fake[order[num_test:]]), seed)
    right = [_logits(model, shares(real_test)) > 0, _logits(model, shares(fake[order[:num_test]])) <= 0]
    rng = np.random.default_rng(derive_seed(seed, "two-sample bootstrap"))
    resampled = np.mean([resampled_means(values, rng, resamples) for values in right], axis=0)
    return percentile_interval(np.mean([values.mean() for values in right]), resampled)


def _train(real: Tensor, fake: Tensor, seed: int) -> LayoutClassifier:
    """Classifier trained on packed class shares, uint8 [N, classes, S, S]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "two-sample weights"))
        model = LayoutClassifier(real.shape[-1], real.shape[1])
    optimizer = AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    half = BATCH_SIZE // 2
    labels = torch.cat([torch.ones(half), torch.zeros(half)])
    pixels = _variant_pixels(real.shape[-1])
    for step in range(STEPS):
        rng = generator(seed, "two-sample step", step)
        batch = torch.cat([pool[torch.randint(len(pool), (half,), generator=rng)] for pool in (real, fake)])
        turned = pixels[torch.randint(COUNT, (BATCH_SIZE,), generator=rng)]
        logits = model(_unpacked(batch, turned)).squeeze(1)
        optimizer.zero_grad(set_to_none=True)
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def _logits(model: LayoutClassifier, shares: Tensor) -> np.ndarray:
    """Mean logit [N] over the eight variants of each layout, of packed class shares, uint8 [N, classes, S, S]."""
    sums = torch.zeros(len(shares))
    for pixels in _variant_pixels(shares.shape[-1]):
        logits = [model(_unpacked(part, pixels.expand(len(part), -1))) for part in torch.split(shares, 256)]
        sums += torch.cat(logits).squeeze(1)
    return (sums / COUNT).numpy()


def _class_shares(maps: np.ndarray, num_classes: int) -> Tensor:
    """One-hot class maps, or shares of classes in 64x64 cells if larger: uint8 [N, classes, S, S], where 255 is 1."""
    parts = []
    for start in range(0, len(maps), 16):
        classes = torch.from_numpy(maps[start : start + 16].astype(np.int64))
        one_hot = F.one_hot(classes, num_classes).permute(0, 3, 1, 2)
        if one_hot.shape[-1] > _SIDE:
            one_hot = F.adaptive_avg_pool2d(one_hot.float(), _SIDE)
        parts.append((one_hot * 255).round().byte())
    return torch.cat(parts)


def _variant_pixels(side: int) -> Tensor:
    """For each variant, the pixel of the layout at each of its positions: long [8, side * side]."""
    return torch.from_numpy(all_variants(np.arange(side * side).reshape(1, side, side))).flatten(1)


def _unpacked(shares: Tensor, pixels: Tensor) -> Tensor:
    """Network input, float [B, classes, S, S]: packed shares [B, classes, S, S] in the order of `pixels` [B, S * S]."""
    index = pixels[:, None].expand(-1, shares.shape[1], -1)
    return shares.flatten(2).gather(2, index).view(shares.shape).float() / 255
