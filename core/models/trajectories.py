"""States of the model's own sampling trajectories, which the adversarial term trains on."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from core.config.experiment import ExperimentConfig
from core.inputs.state_form import Source, is_plain, kind_of, mapping
from core.inputs.tensor_files import load_tensors, save_tensors
from core.models.diffusion import build_scheduler, ddim_chain, ddim_timesteps
from core.models.sampling import sampling_denoiser
from core.networks.unet import UNet
from core.runtime import distributed
from core.runtime.device import memory_format
from core.runtime.progress import each
from core.runtime.seeding import derive_seed, generator, sample_noise

log = logging.getLogger(__name__)

# The last eighth of the trajectories is kept for validation.
_HELD_OUT_SHARE = 8


class TrajectoryStates(NamedTuple):
    """States `xt` [A, C, h, w] at timesteps `t` [A], and the ends `x0` [A, C, h, w] of their trajectories.

    `s` [A] are timesteps, uniform over [t / 2, T), and `eps` [A, C, h, w] is noise.
    """

    xt: Tensor
    t: Tensor
    x0: Tensor
    s: Tensor
    eps: Tensor


@dataclass(frozen=True)
class Trajectories:
    """K states of each of N trajectories: `xt` [N, K, C, h, w] at timesteps `t` [N, K]; `x0` [N, C, h, w] the ends."""

    xt: Tensor
    t: Tensor
    x0: Tensor

    def draw(self, count: int, num_timesteps: int, held_out: bool, rng: torch.Generator) -> TrajectoryStates:
        """`count` random states, with a timestep and noise to noise them again; `held_out` for validation."""
        boundary = len(self.xt) - max(1, len(self.xt) // _HELD_OUT_SHARE)
        first, last = (boundary, len(self.xt)) if held_out else (0, max(1, boundary))
        trajectory = torch.randint(first, last, (count,), generator=rng)
        state = torch.randint(self.xt.shape[1], (count,), generator=rng)
        xt, t = self.xt[trajectory, state].float(), self.t[trajectory, state]
        low = t // 2
        s = low + (torch.rand(count, generator=rng) * (num_timesteps - low)).long()
        return TrajectoryStates(xt, t, self.x0[trajectory], s, torch.randn(xt.shape, generator=rng))


@torch.no_grad()
def make_trajectories(unet: UNet, config: ExperimentConfig, epoch: int) -> Trajectories:
    """Random states of new trajectories of `unet`, seeded by the epoch they are made at."""
    section, seed = config.discriminator.trajectories, config.training.seed
    device = next(unet.parameters()).device
    scheduler = build_scheduler(config.scheduler)
    timesteps = ddim_timesteps(scheduler, section.num_steps)
    kept_timesteps = set(_kept_timesteps(config))
    allowed = [position for position, t in enumerate(timesteps) if t in kept_timesteps]
    rng = generator(seed, "trajectory states", epoch)
    order = torch.rand(section.num_samples, len(allowed), generator=rng).argsort(dim=1)
    kept = torch.tensor(allowed)[order[:, : section.states]]
    xt = torch.empty(section.num_samples, kept.shape[1], *config.latent_shape)
    x0 = torch.empty(section.num_samples, *config.latent_shape)
    batch_size = config.rounds.bad_latents.batch_size
    denoise = sampling_denoiser(unet, config)
    for start in each(range(0, section.num_samples, batch_size), "trajectories", "batches"):
        rows = range(start, min(start + batch_size, section.num_samples))
        noise = sample_noise([derive_seed(seed, "trajectories", epoch, row) for row in rows], config.latent_shape)
        noise = noise.to(device, memory_format=memory_format(device))
        for state in ddim_chain(denoise, noise, scheduler.alphas_cumprod, timesteps):
            row, column = (kept[rows.start : rows.stop] == state.position).nonzero(as_tuple=True)
            xt[rows.start + row, column] = state.xt.cpu()[row]
        x0[rows.start : rows.stop] = state.xt.cpu()
    return Trajectories(xt, torch.tensor(timesteps)[kept], x0)


def saved_trajectories(
    path: Path, unet: UNet, config: ExperimentConfig, epoch: int, replace: bool = False
) -> Trajectories:
    """The trajectories saved at `path`, so that a resumed round keeps its states.

    They are made and saved first if there is no file, if it was made with other settings, or to `replace` it. The first
    process makes them and the others wait. InputError if the file is of another form.
    """
    saved = None
    if distributed.is_first():
        saved = None if replace or not path.exists() else _read(path, config)
        if saved is None:
            saved = make_trajectories(unet, config, epoch)
            save_tensors(vars(saved), path)
    distributed.from_first(None)
    saved = saved or _read(path, config)
    assert saved is not None, "the first process has just saved or read them"
    return saved


def _read(path: Path, config: ExperimentConfig) -> Trajectories | None:
    """The trajectories at `path`; None if they were made with other settings than the config's."""
    source = Source("trajectories", path, "move the file away, and new ones are made")
    saved = mapping(load_tensors(path, "trajectories"), ("xt", "t", "x0"), "the file", source)
    xt, t, x0 = (saved[name] for name in ("xt", "t", "x0"))
    for name, value in (("xt", xt), ("x0", x0)):
        if not isinstance(value, Tensor) or not is_plain(value) or value.shape[-3:] != config.latent_shape:
            raise source.error(name, f"is {kind_of(value)}, not latents {list(config.latent_shape)}")
        if not torch.isfinite(value).all():
            raise source.error(name, "holds NaN or infinite numbers")
    if not isinstance(t, Tensor) or not is_plain(t, (torch.long,)):
        raise source.error("t", f"is {kind_of(t)}, not timesteps")
    if xt.shape[:-3] != t.shape or t.dim() != 2 or x0.shape[:-3] != t.shape[:1] or t.numel() == 0:
        raise source.error("t", f"is {kind_of(t)} beside states {list(xt.shape)} and ends {list(x0.shape)}")
    section, allowed = config.discriminator.trajectories, torch.tensor(_kept_timesteps(config))
    expected = (section.num_samples, min(section.states, len(allowed)))
    if t.shape != expected or not torch.isin(t, allowed).all():
        log.warning("%s: discriminator.trajectories was changed; new trajectories are made", path)
        return None
    return Trajectories(xt.detach(), t, x0.detach())


def _kept_timesteps(config: ExperimentConfig) -> list[int]:
    """The timesteps that a state may be kept at."""
    section, span = config.discriminator.trajectories, config.scheduler.num_steps
    timesteps = ddim_timesteps(build_scheduler(config.scheduler), section.num_steps)
    return [t for t in timesteps if section.t_min * span <= t <= section.t_max * span]
