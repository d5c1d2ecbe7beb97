"""The schedule's identities, and the sampler against diffusers' own."""

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from core.checkpoints.loading import load_unet
from core.config.loading import load_config
from core.config.model_sections import SchedulerSection
from core.models.diffusion import add_noise, build_scheduler, ddim_timesteps, predict_x0, sample_ddim
from core.models.sampling import CPU_BATCH, sample_latents
from core.networks.unet import build_unet
from core.runtime.seeding import derive_seed, sample_noise


@given(t=st.integers(0, 498), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_predict_x0_inverts_add_noise(t, seed):
    alpha_bars = build_scheduler(SchedulerSection()).alphas_cumprod.double()
    x0, eps = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    level = alpha_bars[torch.full((3,), t)]
    torch.testing.assert_close(predict_x0(add_noise(x0, eps, level), eps, level), x0, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["CosineScheduler", "LinearScheduler"])
@pytest.mark.parametrize("num_steps", [1, 7, 100])
def test_ddim_equals_diffusers_in_float64(kind, num_steps):
    ours = build_scheduler(SchedulerSection(type=kind, num_steps=500))
    theirs = DDIMScheduler.from_config(ours.config)
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    theirs.final_alpha_cumprod = theirs.final_alpha_cumprod.double()
    theirs.set_timesteps(num_steps)

    def denoise(xt, t):
        return torch.tanh(xt * (1 + t[:, None, None, None].double() / 500))

    noise = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = noise
    for t in theirs.timesteps:
        expected = theirs.step(denoise(expected, t.repeat(2)), t, expected).prev_sample
    actual = sample_ddim(denoise, noise, ours.alphas_cumprod, ddim_timesteps(ours, num_steps))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("num_steps", [1, 50, 100, 500])
def test_sampling_evaluates_the_unet_once_a_step(num_steps):
    scheduler = build_scheduler(SchedulerSection())
    seen = []

    def denoise(xt, t):
        seen.append(t[0].item())
        return torch.zeros_like(xt)

    sample_ddim(denoise, torch.ones(1, 1, 2, 2), scheduler.alphas_cumprod, ddim_timesteps(scheduler, num_steps))
    assert len(seen) == num_steps
    assert seen == sorted(seen, reverse=True)


def test_the_true_noise_leads_ddim_back_to_the_latent():
    scheduler = build_scheduler(SchedulerSection())
    x0 = torch.randn(2, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    alpha_bars = scheduler.alphas_cumprod.double()

    def denoise(xt, t):
        level = alpha_bars[t][:, None, None, None]
        return (xt - level.sqrt() * x0) / (1 - level).sqrt()

    noise = torch.randn(2, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = sample_ddim(denoise, noise, alpha_bars, ddim_timesteps(scheduler, 50))
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-9)


def test_bad_latent_does_not_depend_on_batch_size(config):
    unet = load_unet(config.diffusion.stage1_checkpoint, config)
    seeds = [derive_seed(0, "bad latents", index) for index in range(CPU_BATCH + 3)]
    whole = sample_latents(unet, config, seeds, num_steps=3, batch_size=32, description="")
    assert torch.equal(whole, sample_latents(unet, config, seeds, num_steps=3, batch_size=5, description=""))
    assert torch.equal(whole[:3], sample_latents(unet, config, seeds[:3], num_steps=3, batch_size=2, description=""))
    assert whole.std() > 0.1


def test_bad_latent_does_not_depend_on_the_number_of_threads():
    config = load_config("configs/houses.yaml")  # large enough for threads to share a sum
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = build_unet(config.unet, config.latent_size).to(memory_format=torch.channels_last)

    def sample(count: int) -> torch.Tensor:
        return sample_latents(unet, config, range(count), num_steps=3, batch_size=32, description="")

    expected = sample(2 * CPU_BATCH)  # on one
    for threads in (3, 4):
        torch.set_num_threads(threads)
        side_by_side, alone = sample(2 * CPU_BATCH), sample(CPU_BATCH)
        assert torch.get_num_threads() == threads
        assert torch.equal(side_by_side, expected) and torch.equal(alone, expected[:CPU_BATCH])
    torch.set_num_threads(1)


def test_noise_belongs_to_its_seed():
    seeds = [derive_seed(0, "stream", index) for index in range(4)]
    whole = sample_noise(seeds, (2, 3))
    assert torch.equal(whole, torch.cat([sample_noise(seeds[:1], (2, 3)), sample_noise(seeds[1:], (2, 3))]))
    assert len({derive_seed(0, "a", 1), derive_seed(0, "a", 2), derive_seed(0, "b", 1), derive_seed(1, "a", 1)}) == 4
