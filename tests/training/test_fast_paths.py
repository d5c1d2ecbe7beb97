"""Every fast way is compared with the plain one."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from core.checkpoints.loading import load_unet
from core.models.diffusion import build_scheduler, denoiser
from core.models.discriminator import LatentDiscriminator, discriminator_loss
from core.models.sampling import CPU_BATCH, sample_latents
from core.networks.unet import build_unet
from core.runtime.device import autocast, reduced_dtype
from core.runtime.seeding import derive_seed, sample_noise
from tests.benchmarks.yardsticks import sample_stock

SEEDS = [derive_seed(0, "fast", index) for index in range(2 * CPU_BATCH)]
STEPS = 20


def plain(config):
    return config.with_values({"training.use_amp": False})


@pytest.fixture(scope="module")
def unet(config):
    return load_unet(config.diffusion.stage2_checkpoint, config).eval()


@pytest.fixture(scope="module")
def discriminator(config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LatentDiscriminator(config.autoencoder.latent_channels, config.latent_size).eval()


def sampled(unet, config):
    return sample_latents(unet, config, SEEDS, STEPS, CPU_BATCH, "")


def test_sampling_equals_the_loop_of_diffusers(unet, config):
    config = plain(config)
    stock = sample_stock(unet, build_scheduler(config.scheduler), sample_noise(SEEDS, config.latent_shape), STEPS)
    torch.testing.assert_close(sampled(unet, config), stock, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_sampling_in_bfloat16_draws_what_fp32_draws(unet, config, discriminator):
    fast, exact = sampled(unet, config), sampled(unet, plain(config))
    assert (fast - exact).square().mean().sqrt() < 0.02 * exact.std()
    for statistic in (torch.mean, torch.std):
        there = statistic(exact, dim=(0, 2, 3))
        torch.testing.assert_close(statistic(fast, dim=(0, 2, 3)), there, rtol=0.01, atol=0.01 * exact.std().item())
    scores = discriminator(fast).sigmoid(), discriminator(exact).sigmoid()
    assert (scores[0] - scores[1]).abs().max() < 0.02


def test_sampling_leaves_the_model_as_it_was(unet, config):
    before = copy.deepcopy(unet.state_dict())
    unet.train()
    sampled(unet, config)
    assert unet.training and next(unet.parameters()).dtype == torch.float32
    unet.eval()
    assert all(torch.equal(before[name], value) for name, value in unet.state_dict().items())


def test_gradients_in_bfloat16_point_where_those_in_fp32_do(config, discriminator):
    scheduler = build_scheduler(config.scheduler)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        unet = build_unet(config.unet, config.latent_size).eval()
    noise, t = sample_noise(SEEDS[:16], config.latent_shape), torch.arange(0, 96, 6)

    def gradient(dtype):
        unet.zero_grad()
        with autocast(torch.device("cpu"), dtype):
            eps_pred = denoiser(unet, scheduler)(noise, t)
            loss = F.mse_loss(eps_pred, noise) + F.softplus(-discriminator(noise - eps_pred)).mean()
        loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in unet.parameters()])

    fast, exact = gradient(torch.bfloat16), gradient(None)
    assert F.cosine_similarity(fast, exact, dim=0) > 0.99
    assert fast.norm() == pytest.approx(exact.norm().item(), rel=0.03)


def test_both_evaluations_of_the_discriminator_at_once_are_those_one_by_one(discriminator, config):
    noised = sample_noise(SEEDS[:8], config.latent_shape)
    shift = torch.randn(noised.shape, generator=torch.Generator().manual_seed(5))
    labels, level = torch.arange(8).float() % 2, torch.linspace(0.1, 1, 8)
    loss, logits = discriminator_loss(discriminator, noised, labels, level, shift)
    moved = discriminator(noised + 0.05 * shift, level)
    torch.testing.assert_close(logits, discriminator(noised, level))
    wanted = F.binary_cross_entropy_with_logits(logits, labels) + (moved - logits).square().mean()
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": False, "avx512_f": True}, None),
        ({}, None),
    ],
    ids=str,
)
def test_reduced_precision_is_used_only_where_it_is_wanted_and_native(monkeypatch, capabilities, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert reduced_dtype(torch.device("cpu"), wanted=True) is dtype
    assert reduced_dtype(torch.device("cpu"), wanted=False) is None


def test_the_gpu_benchmark_runs_at_a_toy_size():
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--toy"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    figures = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert any(name.startswith("64 latents of 4 steps") for name in figures), done.stdout
    assert any(name.startswith("discriminator, 2 epochs") for name in figures), done.stdout
    assert any(name.startswith("25 Stage 3 epochs") for name in figures), done.stdout
