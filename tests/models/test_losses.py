"""Every term trains the UNet, and nothing else."""

import copy

import pytest
import torch
from torch import nn

from core.config.discriminator_sections import DiscriminatorSection
from core.config.loss_sections import PerceptualLossSection
from core.data.layouts import Pictures
from core.models.adversarial import AdversarialDraws, build_adversarial_form
from core.models.autoencoder import Decoder
from core.models.checkpoints import load_unet
from core.models.diffusion import build_scheduler, denoiser
from core.models.discriminator import LatentDiscriminator, draw_noise_levels
from core.models.losses import (
    Batch,
    LossModels,
    SemanticDraws,
    adversarial_loss,
    diffusion_losses,
    segmentation_loss,
    weighted_sum,
)
from core.models.perceptual import build_perceptual

FORMS = {
    "renoise": DiscriminatorSection(form="renoise"),
    "x0_prediction": DiscriminatorSection(form="x0_prediction"),
    "draft_1": DiscriminatorSection(form="draft_k", draft_steps=1),
    "draft_3": DiscriminatorSection(form="draft_k", draft_steps=3),
    "ddo": DiscriminatorSection(form="ddo"),
}


@pytest.fixture(scope="module")
def unet(config):
    return load_unet(config.diffusion.stage2_checkpoint, config).eval()


@pytest.fixture(scope="module")
def frozen(config, trunk, unet):
    torch.manual_seed(0)
    discriminator = LatentDiscriminator(4, 8).eval().requires_grad_(False)
    decoder = Decoder(4, 8, 2, 16).eval().requires_grad_(False)
    scheduler = build_scheduler(config.scheduler)
    alpha_bars = scheduler.alphas_cumprod
    perceptual = build_perceptual(PerceptualLossSection(backbone=str(trunk)))
    reference = denoiser(copy.deepcopy(unet).requires_grad_(False), scheduler)
    return {
        name: LossModels(
            scheduler, decoder, perceptual, build_adversarial_form(section, discriminator, reference, alpha_bars)
        )
        for name, section in (FORMS | {"published": DiscriminatorSection(form="published")}).items()
    }


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(3)
    latent, eps = torch.randn(2, 6, 4, 8, 8, generator=rng)
    t = torch.tensor([5, 10, 20, 30, 60, 90])
    pictures = Pictures(torch.rand(2, 3, 32, 32, generator=rng) * 2 - 1, torch.randint(10, (2, 32, 32), generator=rng))
    weights = torch.tensor([0.9, 0.8])
    semantic = SemanticDraws(torch.tensor([0, 1]), pictures, weights, weights.sum())
    xt, x0, noise = torch.randn(3, 3, 4, 8, 8, generator=rng)
    s, weights = torch.tensor([10, 40, 70]), torch.ones(3)
    states = (xt, torch.tensor([5, 30, 60]), x0, s, noise)
    adversarial = AdversarialDraws(*states, torch.arange(3), weights, weights.sum())
    return Batch(latent, eps, t, semantic, adversarial)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("term", ["noise", "segmentation", "perceptual", "adversarial"])
def test_every_term_alone_trains_the_unet_and_nothing_else(term, form, unet, frozen, batch):
    unet.zero_grad()
    diffusion_losses(unet, frozen[form], batch)[term].backward()
    assert all(p.grad is not None for p in unet.parameters())
    assert sum(p.grad.abs().sum() for p in unet.parameters()) > 0
    judges = [frozen[form].decoder, frozen[form].perceptual, getattr(frozen[form].adversarial, "discriminator", None)]
    assert all(p.grad is None for judge in judges if judge is not None for p in judge.parameters())


@pytest.mark.parametrize("form", [*FORMS, "published"])
def test_the_gradient_differs_from_that_without_the_adversarial_term(form, unet, frozen, batch):
    """That of the public code does not: its discriminator sees the dataset's own latents."""

    def gradient(weight):
        unet.zero_grad()
        losses = diffusion_losses(unet, frozen[form], batch)
        weighted_sum(losses, {"noise": 1, "segmentation": 0.1, "perceptual": 0.05, "adversarial": weight}).backward()
        return torch.cat([p.grad.flatten().clone() for p in unet.parameters()])

    assert torch.equal(gradient(0.0), gradient(0.0))
    assert torch.equal(gradient(0.0), gradient(0.1)) == (form == "published")


def test_adversarial_gradient_is_that_of_a_finite_difference(unet, frozen, batch):
    unet = copy.deepcopy(unet).double()
    frozen64 = copy.deepcopy(frozen["draft_3"])
    frozen64.adversarial.discriminator.double()
    object.__setattr__(frozen64.adversarial.make, "alpha_bars", frozen64.adversarial.make.alpha_bars.double())
    given = batch.adversarial._asdict()
    draws = AdversarialDraws(
        **{k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in given.items()}
    )
    # eps_pred is cast to fp32 in training; here the chain is followed in float64.
    denoise = lambda xt, t: unet(xt, t, return_dict=False)[0]  # noqa: E731

    def loss():
        judged = frozen64.adversarial(denoise, draws, None)
        return adversarial_loss(judged.logits, judged.weights)

    weight = unet.conv_out.weight
    direction = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(loss(), weight)
    step = 1e-6
    with torch.no_grad():
        weight += step * direction
        above = loss()
        weight -= 2 * step * direction
        below = loss()
    assert (gradient * direction).sum().item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-4)


def test_a_term_without_weight_or_a_weight_without_term_is_an_error():
    with pytest.raises(ValueError, match="adversarial"):
        weighted_sum({"noise": torch.ones(())}, {"noise": 1.0, "adversarial": 0.1})


def test_worst_samples_are_pushed_hardest():
    """The mean of -log D, not -log of the mean: a few high scorers must not hide the bad ones."""
    logits = torch.tensor([4.0, 0.0, -4.0], requires_grad=True)
    adversarial_loss(logits, torch.ones(3)).backward()
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


def test_discriminator_judges_each_latent_alone():
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
