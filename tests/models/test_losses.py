"""The loss terms and how they are summed."""

import pytest
import torch
from torch import nn

from core.models.discriminator import LatentDiscriminator, draw_noise_levels
from core.models.losses import adversarial_losses, segmentation_loss, weighted_sum


def test_a_term_without_weight_or_a_weight_without_term_is_an_error():
    with pytest.raises(ValueError, match="adversarial"):
        weighted_sum({"noise": torch.ones(())}, {"noise": 1.0, "adversarial": 0.1})


def test_worst_samples_are_pushed_hardest():
    """The mean of -log D, not -log of the mean: a few high scorers must not hide the bad ones."""
    logits = torch.tensor([4.0, 0.0, -4.0], requires_grad=True)
    adversarial_losses(logits).mean().backward()
    assert logits.grad[2].abs() > logits.grad[1].abs() > logits.grad[0].abs()


def test_unlabelled_pixels_do_not_count():
    classes = torch.randint(10, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    logits = nn.functional.one_hot(classes, 10).permute(0, 3, 1, 2).float() * 20
    logits[:, :, 0, 0] = torch.roll(logits[:, :, 0, 0], 1, dims=1)
    assert segmentation_loss(logits, classes, torch.ones(2)) > 0.1
    classes[:, 0, 0] = 255
    assert segmentation_loss(logits, classes, torch.ones(2)) < 1e-6


def test_pictures_of_no_weight_give_zero_and_no_nan():
    logits = torch.randn(2, 10, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.zeros(2, 4, 4, dtype=torch.long), torch.zeros(2))
    loss.backward()
    assert loss == 0 and logits.grad.abs().sum() == 0


def test_discriminator_scores_each_latent_alone():
    torch.manual_seed(0)
    model = LatentDiscriminator(4, 8).eval()
    latents = torch.randn(5, 4, 8, 8)
    torch.testing.assert_close(model(latents)[2:3], model(latents[2:3]), rtol=1e-4, atol=1e-5)
    levels = torch.full((5,), 0.3)
    assert not torch.allclose(model(latents, levels), model(latents))


def test_noise_levels_cover_clean_to_noise():
    levels = draw_noise_levels(2000, 0.5, torch.Generator().manual_seed(0))
    assert ((levels >= 0) & (levels <= 1)).all()
    assert (levels == 1).float().mean() == pytest.approx(0.5, abs=0.05)
    assert (levels < 0.1).any() and ((levels > 0.4) & (levels < 0.6)).any()
