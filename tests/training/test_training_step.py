"""Every term trains the UNet, and nothing else; the adversarial weight, the learning rate and the EMA."""

import copy
import dataclasses
import itertools

import pytest
import torch
from torch import nn

from core.checkpoints.loading import load_unet
from core.config.discriminator_sections import DiscriminatorSection
from core.config.loss_sections import PerceptualLossSection
from core.config.training_sections import OptimizationSection
from core.data.layouts import Pictures
from core.data.palette import DEFAULT_PALETTE
from core.models.adversarial import NegativeAware, NoisePass
from core.models.adversarial_forms import FormParts, build_adversarial_form
from core.models.adversarial_weight import BALANCE_INTERVAL, adversarial_weight, gradient_norms
from core.models.diffusion import add_noise, build_scheduler, denoiser
from core.models.discriminator import LatentDiscriminator
from core.models.labelled_latents import LabelledLatents, LabelledPairs, RealLatents
from core.models.losses import weighted_mean, weighted_sum
from core.models.perceptual import build_perceptual
from core.models.trajectories import Trajectories
from core.models.updates import ema_decay, learning_rate, update_ema
from core.networks.autoencoder import ConvDecoder
from core.runtime.batch_shares import Share
from core.training.batches import Batch, SemanticDraws
from core.training.training_step import LossModels, diffusion_losses

FORMS = {
    "renoise": DiscriminatorSection(form="renoise"),
    "x0_prediction": DiscriminatorSection(form="x0_prediction"),
    "draft_1": DiscriminatorSection(form="draft_k", draft_steps=1),
    "draft_3": DiscriminatorSection(form="draft_k", draft_steps=3),
    "ddo": DiscriminatorSection(form="ddo"),
    "negative_aware": DiscriminatorSection(form="negative_aware"),
}
ALL_FORMS = FORMS | {"published": DiscriminatorSection(form="published")}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def unet(config):
    return load_unet(config.diffusion.stage2_checkpoint, config).eval()


def labelled_pairs():
    viable, rng = torch.tensor([True, False, True, False]), torch.Generator().manual_seed(5)
    latents = torch.randn(4, 4, 8, 8, generator=rng)
    labelled = LabelledLatents(latents, viable, torch.zeros(4, dtype=torch.long), (), torch.zeros(4, 0) > 0)
    return LabelledPairs(labelled, match=True, shares={})


@pytest.fixture(scope="module")
def loss_models(config, trunk, unet):
    """The models of the losses, for every form."""
    torch.manual_seed(0)
    discriminator = LatentDiscriminator(4, 8).eval().requires_grad_(False)
    decoder = ConvDecoder(4, 8, 2, 16, DEFAULT_PALETTE).eval().requires_grad_(False)
    scheduler = build_scheduler(config.scheduler)
    perceptual = build_perceptual(PerceptualLossSection(backbone=str(trunk)))
    reference = denoiser(copy.deepcopy(unet).requires_grad_(False), scheduler)
    t = torch.tensor([[5, 30], [60, 20]])
    trajectories = Trajectories(torch.randn(2, 2, 4, 8, 8), t, torch.randn(2, 4, 8, 8))
    parts = FormParts(discriminator, scheduler.alphas_cumprod, False, trajectories, reference, labelled_pairs())
    forms = {name: build_adversarial_form(section, parts) for name, section in ALL_FORMS.items()}
    return {name: LossModels(scheduler, decoder, perceptual, form) for name, form in forms.items()}


def draws(form, t, count=3, share=None):
    rng = torch.Generator().manual_seed(4)
    return form.draw(t, count, False, rng).part(share or Share(), CPU)


@pytest.fixture
def batch():
    """A batch of six, without the draws of a form."""
    rng = torch.Generator().manual_seed(3)
    x0, eps = torch.randn(2, 6, 4, 8, 8, generator=rng)
    t = torch.tensor([5, 10, 20, 30, 60, 90])
    pictures = Pictures(torch.rand(2, 3, 32, 32, generator=rng) * 2 - 1, torch.randint(10, (2, 32, 32), generator=rng))
    weights = torch.tensor([0.9, 0.8])
    return Batch(x0, eps, t, SemanticDraws(torch.tensor([0, 1]), pictures, weights, weights.sum()))


def losses_of(unet, models, batch):
    return diffusion_losses(unet, models, batch._replace(adversarial=draws(models.form, batch.t)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("term", ["noise", "segmentation", "perceptual", "adversarial"])
def test_every_term_alone_trains_the_unet_and_nothing_else(term, form, unet, loss_models, batch):
    models = loss_models[form]
    unet.zero_grad()
    losses_of(unet, models, batch)[term].backward()
    assert all(p.grad is not None for p in unet.parameters())
    assert sum(p.grad.abs().sum() for p in unet.parameters()) > 0
    frozen = [models.decoder, models.perceptual, getattr(models.form, "discriminator", None)]
    assert all(p.grad is None for model in frozen if model is not None for p in model.parameters())


@pytest.mark.parametrize("form", ALL_FORMS)
def test_the_gradient_differs_from_that_without_the_adversarial_term(form, unet, loss_models, batch):
    """That of the public code does not: its discriminator sees the dataset's own latents."""

    def gradient(weight):
        unet.zero_grad()
        losses = losses_of(unet, loss_models[form], batch)
        weighted_sum(losses, {"noise": 1, "segmentation": 0.1, "perceptual": 0.05, "adversarial": weight}).backward()
        return torch.cat([p.grad.flatten().clone() for p in unet.parameters()])

    assert torch.equal(gradient(0.0), gradient(0.0))
    assert torch.equal(gradient(0.0), gradient(0.1)) == (form == "published")


@pytest.mark.parametrize("form", ALL_FORMS)
@pytest.mark.parametrize("count", [2, 5])
def test_the_mean_loss_over_shares_is_that_of_the_whole_batch(form, count, unet, loss_models, batch):
    """Five shares of three draws: some shares hold none."""
    models, batch = loss_models[form], batch._replace(semantic=None)
    whole = losses_of(unet, models, batch)["adversarial"]
    parts = []
    for number in range(count):
        share = Share(number, count)
        rows = share.rows(len(batch.t))
        part = Batch(*(value[rows.positions] for value in (batch.x0, batch.eps, batch.t)), rows=rows)
        part = part._replace(adversarial=draws(models.form, batch.t, share=share))
        parts.append(diffusion_losses(unet, models, part)["adversarial"])
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_adversarial_gradient_is_that_of_a_finite_difference(unet, loss_models, batch):
    unet = copy.deepcopy(unet).double()
    form = copy.deepcopy(loss_models["draft_3"].form)
    form.discriminator.double()
    object.__setattr__(form.sample_fn, "alpha_bars", form.sample_fn.alpha_bars.double())
    given = draws(form, batch.t)
    object.__setattr__(given, "xt", given.xt.double())
    # eps_pred is cast to fp32 in training; here the chain is followed in float64.
    denoise = lambda xt, t: unet(xt, t, return_dict=False)[0]  # noqa: E731

    def loss():
        scored = form(denoise, given, None)
        return weighted_mean(scored.losses, scored.weights)

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


@pytest.mark.parametrize("predicts_v", [False, True])
def test_negative_aware_goes_towards_viable_latents_and_away_from_others(predicts_v, loss_models):
    """At the start the two gradients are opposite and equal, for what the UNet predicts."""
    alpha_bars = loss_models["negative_aware"].scheduler.alphas_cumprod
    old = torch.nn.Parameter(torch.zeros(()))  # eps_pred = xt + its value
    reference = lambda xt, t: xt  # noqa: E731
    parts = FormParts(None, alpha_bars, predicts_v, None, reference, labelled_pairs())
    form = build_adversarial_form(DiscriminatorSection(form="negative_aware", negative_aware_beta=0.5), parts)
    drawn = form.draw(torch.zeros(6, dtype=torch.long), 6, False, torch.Generator().manual_seed(1)).part(Share(), CPU)
    assert drawn.viable.tolist() == [1, -1] * 3
    assert ((drawn.t >= 0.05 * len(alpha_bars)) & (drawn.t < 0.95 * len(alpha_bars))).all()

    def gradients(viable):
        given = dataclasses.replace(drawn, viable=torch.full((6,), viable))
        losses = form(lambda xt, t: xt + old, given, NoisePass(None, None, None, None)).losses
        return torch.stack([torch.autograd.grad(loss, old, retain_graph=True)[0] for loss in losses])

    towards, away = gradients(1.0), gradients(-1.0)
    torch.testing.assert_close(towards, -away)
    xt = add_noise(drawn.x0, drawn.eps, alpha_bars[drawn.t])
    expected = 2 * 0.5 * (xt - drawn.eps).mean(dim=(1, 2, 3))
    torch.testing.assert_close(towards, expected / alpha_bars[drawn.t] if predicts_v else expected)


class Constant:
    """Real latents that are all of one value."""

    def __init__(self, value):
        self.value = value

    def __len__(self):
        return 3

    def batch(self, rows):
        return torch.full((len(rows), 4, 8, 8), self.value)


@pytest.mark.parametrize(("share", "stand_ins"), [(0.0, 0), (0.34, 2), (0.5, 3), (0.99, 6)])
@pytest.mark.parametrize(("held_out", "value"), [(False, 7.0), (True, 9.0)])
def test_real_latents_stand_in_for_a_share_of_the_viable_ones(share, stand_ins, held_out, value):
    real = RealLatents(share, Constant(7.0), Constant(9.0))
    form = NegativeAware(None, labelled_pairs(), torch.linspace(0.99, 0.01, 100), 1.0, False, real)
    drawn = form.draw(torch.zeros(12, dtype=torch.long), 12, held_out, torch.Generator().manual_seed(1))
    is_real = (drawn.x0 == value).flatten(1).all(1)
    assert is_real.sum() == stand_ins and (drawn.viable[is_real] == 1).all()


def test_the_adversarial_weight_balances_the_gradients_up_to_the_cap():
    section = DiscriminatorSection(weight=0.1, balance=0.5)
    norms = iter([(1.0, 10.0), (1.0, 50.0), (1.0, 0.0)])
    weight = adversarial_weight(section, None, 0, lambda: next(norms))
    assert weight == pytest.approx(0.05)
    for step in range(1, BALANCE_INTERVAL):
        assert adversarial_weight(section, weight, step, lambda: pytest.fail("measured")) == weight
    weight = adversarial_weight(section, weight, BALANCE_INTERVAL, lambda: next(norms))
    assert weight == pytest.approx((0.05 + 0.01) / 2)
    assert adversarial_weight(section, None, 0, lambda: next(norms)) == 0.1


def test_a_resumed_weight_is_not_above_a_cap_that_was_lowered():
    section = DiscriminatorSection(weight=0.05)
    assert adversarial_weight(section, 0.2, 1, lambda: pytest.fail("measured")) == 0.05
    assert adversarial_weight(section, 0.2, BALANCE_INTERVAL, lambda: (1.0, 1e-9)) == 0.05


@pytest.mark.parametrize("settings", [{"balance": None}, {"form": "published"}])
def test_a_fixed_adversarial_weight_needs_no_gradients(settings):
    section = DiscriminatorSection(weight=0.07, **settings)
    assert adversarial_weight(section, None, 0, lambda: pytest.fail("measured")) == 0.07


def test_gradient_norms_are_those_of_the_mean_over_the_parts():
    weight = torch.tensor([1.0, 2.0], requires_grad=True)

    def forward(part):
        return {"noise": (part * weight).sum(), "adversarial": (part * weight**2).sum()}

    parts = [torch.tensor([3.0, 0.0]), torch.tensor([3.0, 8.0])]
    assert gradient_norms(forward, parts, [weight]) == pytest.approx((5.0, (6.0**2 + 16.0**2) ** 0.5))
    assert weight.grad is None


def test_the_learning_rate_warms_up_and_falls_to_zero():
    section = OptimizationSection(epochs=10, learning_rate=0.1, warmup_steps=4)
    assert [learning_rate(section, step, 5) for step in range(6)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    cosine = section.model_copy(update={"warmup_steps": 0, "scheduler": OptimizationSection(scheduler={}).scheduler})
    rates = [learning_rate(cosine, step, 5) for step in range(51)]
    assert rates[0] == 0.1 and rates[25] == pytest.approx(0.05) and rates[50] == pytest.approx(0)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))


def test_the_ema_follows_the_model_fast_at_first():
    assert ema_decay(0.999, 1) == 2 / 11 and ema_decay(0.999, 10**6) == 0.999
    ema, model = nn.Linear(1, 1), nn.Linear(1, 1)
    expected = 0.75 * ema.weight.item() + 0.25 * model.weight.item()
    update_ema(ema, model, 0.75)
    assert ema.weight.item() == pytest.approx(expected)
