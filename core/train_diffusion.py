"""The one training loop of Stages 1, 2 and 3: which terms it has is decided by what it is given."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from core.adversarial import Maker
from core.autoencoder import Decoder
from core.checkpoints import TrainState
from core.config import ExperimentConfig, OptimizationSection, TrainingSection
from core.device import autocast, reduced_dtype
from core.diffusion import add_noise, denoiser
from core.discriminator import LatentDiscriminator
from core.errors import InputError
from core.files import whole_file
from core.latents import Latents
from core.layouts import LayoutPictures, Pictures
from core.losses import Batch, Frozen, SemanticDraws, diffusion_losses, weighted_sum
from core.pictures import save_sample_grid
from core.progress import EpochProgress
from core.sampling import sample_latents
from core.seeding import derive_seed, generator
from core.trajectories import Trajectories
from core.workspace import Workspace

# Steps between two measurements of the gradient norms that balance the adversarial weight.
BALANCE_INTERVAL = 25
GRID_SAMPLES = 64


@dataclass(frozen=True)
class LatentSet:
    """Latents of one split and the pictures they encode (None where no term needs them)."""

    latents: Latents
    pictures: LayoutPictures | None = None

    def __len__(self) -> int:
        return len(self.latents)


@dataclass
class DiffusionTraining:
    """One stage of diffusion training, resumable from `checkpoints/{name}_checkpoint_latest.pt` of its workspace."""

    config: ExperimentConfig
    training: TrainingSection
    name: str
    workspace: Workspace
    state: TrainState
    frozen: Frozen
    data: LatentSet
    validation: LatentSet
    decoder: Decoder
    trajectories: Trajectories | None = None
    discriminator: LatentDiscriminator | None = None
    maker: Maker | None = None
    viability_seeds: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device = next(self.state.unet.parameters()).device
        self.num_timesteps = len(self.frozen.scheduler.alphas_cumprod)
        self.steps_per_epoch = max(1, len(self.data) // self.training.batch_size)
        self.dtype = reduced_dtype(self.device, self.training.use_amp)

    def run(self, until_epoch: int, stop_early: "EarlyStop | None" = None) -> None:
        """Train until the epoch (or `stop_early`), writing checkpoints, samples and metrics as documented."""
        first_epoch = self.state.epoch
        with EpochProgress(self.name, until_epoch, self.steps_per_epoch, first_epoch) as progress:
            while self.state.epoch < until_epoch and not (stop_early and stop_early.reached(self.state.history)):
                self._epoch(progress)
        self.workspace.settle()
        if self.state.epoch > first_epoch or not self.path("latest").exists():
            write_metrics(self.state.history, self.folder / f"{self.name}_metrics.csv")
            self.state.save(self.path("latest"), self.config)
        if not self.path("best").exists():
            # Shorter than one evaluation interval: there is no better one.
            self.state.save(self.path("best"), self.config, resumable=False)
        if not self._sample_path().exists():
            self.sample()

    @property
    def folder(self) -> Path:
        """Where checkpoints, samples and metrics go."""
        return self.workspace.folder

    def path(self, kind: str) -> Path:
        """Checkpoint file of a kind: best, latest or epoch_NNN."""
        return self.folder / checkpoint_name(self.name, kind)

    def validate(self) -> dict[str, float]:
        """Mean of every term over the validation set with the EMA weights and fixed draws, and their `loss`."""
        totals: dict[str, Tensor] = {}
        weights = self._weights(self.config.discriminator.weight)
        batches = torch.arange(len(self.validation)).split(self.training.batch_size)
        with torch.no_grad(), autocast(self.device, self.dtype):
            for position, indices in enumerate(tqdm(batches, "validation", leave=False, disable=None)):
                batch = self._draw(self.validation, indices, "validation", position)
                for name, value in diffusion_losses(self.state.ema, self.frozen, batch).items():
                    totals[name] = totals.get(name, 0) + value.double() * len(indices) / len(self.validation)
        self._check_finite(totals, f"the validation of epoch {self.state.epoch}")
        return {"loss": weighted_sum(totals, weights).item()} | {k: v.item() for k, v in totals.items()}

    def viability(self) -> float:
        """Mean discriminator score, in [0, 1], of latents generated with the EMA weights from held-out seeds."""
        return self.judged()[1].mean().item()

    def judged(self) -> tuple[Tensor, Tensor]:
        """Latents [N, C, h, w] generated with the EMA weights from held-out seeds, and the scores [N] they get."""
        latents = self._generate(self.viability_seeds, "viability")
        with torch.no_grad():
            scores = [self.discriminator(part.to(self.device)).sigmoid().cpu() for part in latents.split(256)]
        return latents, torch.cat(scores)

    def sample(self) -> None:
        """Write `samples/{name}_epoch_NNN_samples.png`: what the EMA weights draw from the same seeds every time."""
        seeds = [derive_seed(self.training.seed, "samples", index) for index in range(GRID_SAMPLES)]
        save_sample_grid(self._generate(seeds, "samples"), self.decoder, self._sample_path())

    def _epoch(self, progress: EpochProgress) -> None:
        epoch = self.state.epoch
        totals: dict[str, Tensor] = {}
        for position, indices in enumerate(self._order(epoch)):
            losses = self._step(self._draw(self.data, indices, "training", epoch, position))
            for name, value in losses.items():
                totals[name] = totals.get(name, 0) + value.detach()
            progress.step()
        self.state.epoch += 1
        means = {name: (total / self.steps_per_epoch).item() for name, total in totals.items()}
        weights = self._weights(self.state.adversarial_weight)
        row = {"epoch": self.state.epoch, **metric_columns("train", means, weights)}
        if self.state.adversarial_weight is not None:
            row["discriminator_weight"] = self.state.adversarial_weight
        if self.state.epoch % self.training.eval_interval == 0:
            row |= metric_columns("val", self.validate(), weights)
            if self.discriminator is not None:
                row["viability_score"] = self.viability()
        self.state.history = [*self.state.history, row]
        self._write_epoch(row)
        progress.epoch(self.state.epoch, means)

    def _write_epoch(self, row: dict[str, Any]) -> None:
        improved = "val_loss" in row and (
            self.state.best_val_loss is None or row["val_loss"] < self.state.best_val_loss
        )
        if improved:
            self.state.best_val_loss = row["val_loss"]
            self.state.save(self.path("best"), self.config, resumable=False)
        if self.state.epoch % self.training.save_interval == 0:
            self.state.save(self.path(f"epoch_{self.state.epoch:03d}"), self.config, resumable=False)
        if self.state.epoch % self.training.sample_interval == 0:
            self.sample()
        write_metrics(self.state.history, self.folder / f"{self.name}_metrics.csv")
        if self.state.epoch % self.training.latest_interval == 0:
            latest = checkpoint_name(self.name, "latest")
            self.workspace.keep(latest, lambda: self.state.checkpoint(self.config), f"epoch {self.state.epoch}")

    def _order(self, epoch: int) -> Iterator[Tensor]:
        """Index batches of an epoch, whole ones only; the order comes from (seed, epoch) alone."""
        count = len(self.data)
        order = torch.arange(count)
        if self.training.shuffle:
            order = torch.randperm(count, generator=generator(self.training.seed, "order", epoch))
        size = min(self.training.batch_size, count)
        yield from order[: self.steps_per_epoch * size].split(size)

    def _draw(self, data: LatentSet, indices: Tensor, stream: str, *position: int) -> Batch:
        """The batch of rows `indices` with everything random about it drawn."""
        rng = generator(self.training.seed, stream, *position)
        latent = data.latents.batch(indices)
        t = torch.randint(self.num_timesteps, (len(indices),), generator=rng)
        eps = torch.randn(latent.shape, generator=rng)
        semantic = self._draw_semantic(data, indices, t) if self.training.loss.semantic_loss else None
        adversarial = None
        if self.trajectories is not None:
            # Draws of its own, so that a run without the term sees the same batches.
            adversarial_rng = generator(self.training.seed, f"{stream} adversarial", *position)
            count = max(1, round(len(indices) * self.config.discriminator.batch_fraction))
            held_out = data is self.validation
            adversarial = self.trajectories.draw(count, self.num_timesteps, held_out, adversarial_rng).to(self.device)
        return Batch(latent.to(self.device), eps.to(self.device), t.to(self.device), semantic, adversarial)

    def _draw_semantic(self, data: LatentSet, indices: Tensor, t: Tensor) -> SemanticDraws:
        section = self.training.loss.semantic_loss
        count = max(1, round(len(indices) * section.batch_fraction))
        lowest = t.argsort(stable=True)[:count]
        alpha_bars = self.frozen.scheduler.alphas_cumprod.cpu()
        weights = alpha_bars[t[lowest]] * (t[lowest] <= section.max_t * self.num_timesteps)
        pictures = data.pictures.batch(indices[lowest].tolist())
        on_device = Pictures(pictures.rgb.to(self.device), pictures.classes.to(self.device))
        return SemanticDraws(lowest.to(self.device), on_device, weights.to(self.device))

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimizer step; returns every term and the total `loss`."""
        state, parameters = self.state, list(self.state.unet.parameters())
        # Dropout draws from the global generator; give it a seed by position and put the old state back.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(derive_seed(self.training.seed, "dropout", state.step))
            state.unet.train()
            with autocast(self.device, self.dtype):
                losses = diffusion_losses(state.unet, self.frozen, batch)
        if "adversarial" in losses:
            self._balance(losses, parameters)
        total = weighted_sum(losses, self._weights(state.adversarial_weight))
        nothing_done = f"epoch {state.epoch + 1}, step {state.step + 1}; nothing was updated"
        self._check_finite(losses, nothing_done)
        state.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.training.max_grad_norm or math.inf)
        self._check_finite({"gradient of the": norm}, nothing_done)
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(self.training, state.step, self.steps_per_epoch)
        state.optimizer.step()
        if state.online is not None:
            self._update_online(batch)
        state.step += 1
        # A young average follows faster, as it has little to average.
        decay = min(self.training.ema_decay, (1 + state.step) / (10 + state.step))
        torch._foreach_lerp_(list(state.ema.parameters()), parameters, 1 - decay)
        return {"loss": total, **losses}

    @torch.no_grad()
    def _update_online(self, batch: Batch) -> None:
        """Let the online discriminator learn on real latents of the batch against what the model makes by now."""
        state = self.state
        denoise = denoiser(state.unet.eval(), self.frozen.scheduler)
        for number in range(self.config.discriminator.online_steps):
            rng = generator(self.training.seed, "online", state.step, number)
            count = len(batch.adversarial.t)
            draws = self.trajectories.draw(count, self.num_timesteps, False, rng).to(self.device)
            with autocast(self.device, self.dtype):
                made = self.maker(denoise, draws, None)
            real = batch.latent[torch.randperm(len(batch.latent), generator=rng)[:count].to(self.device)]
            eps = torch.randn(real.shape, generator=rng).to(self.device)
            state.online.step(add_noise(real, eps, made.alpha_bar), made, state.step, number)

    def _balance(self, losses: dict[str, Tensor], parameters: list[Tensor]) -> None:
        """Set the adversarial weight: fixed, or such that its gradient is `balance` times the noise gradient.

        The configured weight is the cap. Measured every `BALANCE_INTERVAL` steps and smoothed.
        """
        section, state = self.config.discriminator, self.state
        if section.balance is None or not losses["adversarial"].requires_grad:
            state.adversarial_weight = section.weight
            return
        if state.adversarial_weight is not None and state.step % BALANCE_INTERVAL:
            return
        noise, adversarial = (
            math.sqrt(
                sum(g.float().square().sum().item() for g in torch.autograd.grad(loss, parameters, retain_graph=True))
            )
            for loss in (losses["noise"], losses["adversarial"])
        )
        aimed = min(section.weight, section.balance * noise / max(adversarial, 1e-12))
        known = state.adversarial_weight
        state.adversarial_weight = aimed if known is None else 0.5 * (known + aimed)

    def _weights(self, adversarial: float | None) -> dict[str, float]:
        """Weights of the terms this stage has; the terms of `diffusion_losses`."""
        weights = dict(self.training.loss.weights)
        if self.trajectories is not None:
            weights["adversarial"] = adversarial
        return weights

    def _check_finite(self, losses: dict[str, Tensor], where: str) -> None:
        if torch.isfinite(torch.stack(list(losses.values()))).all():
            return
        term = next(name for name, value in losses.items() if not torch.isfinite(value))
        raise InputError(
            f"{self.name}: the {term} loss is {losses[term].item()} in {where}: lower "
            "training.learning_rate or the term's weight and run the same command again"
        )

    def _generate(self, seeds: list[int], description: str) -> Tensor:
        section = self.config.rounds.bad_latents
        return sample_latents(self.state.ema, self.config, seeds, section.num_steps, section.batch_size, description)

    def _sample_path(self) -> Path:
        return self.folder / samples_name(self.name, self.state.epoch)


def checkpoint_name(stage: str, kind: str) -> str:
    """Name, below a stage's folder, of its checkpoint of a kind: best, latest or epoch_NNN."""
    return f"checkpoints/{stage}_checkpoint_{kind}.pt"


def samples_name(stage: str, epoch: int) -> str:
    """Name, below a stage's folder, of what its model drew after an epoch."""
    return f"samples/{stage}_epoch_{epoch:03d}_samples.png"


@dataclass(frozen=True)
class EarlyStop:
    """Ends a round once viability stayed above a score for a number of evaluations after epoch `since`."""

    viability_score: float
    evaluations: int
    since: int

    def reached(self, history: list[dict[str, Any]]) -> bool:
        """Whether the last evaluations in `history` were all above the score."""
        recent = viability_scores(history, self.since)[-self.evaluations :]
        return len(recent) == self.evaluations and min(recent) > self.viability_score


def viability_scores(history: list[dict[str, Any]], since: int) -> list[float]:
    """The evaluations of viability in `history` after epoch `since`, in order."""
    return [row["viability_score"] for row in history if row["epoch"] > since and "viability_score" in row]


def learning_rate(section: OptimizationSection, step: int, steps_per_epoch: int) -> float:
    """Rate of optimizer step `step` (from 0): linear warm-up, then constant or a cosine to 0 at the last epoch."""
    rate = section.learning_rate * min(1.0, (step + 1) / max(1, section.warmup_steps))
    if section.scheduler is None:
        return rate
    return rate * 0.5 * (1 + math.cos(math.pi * min(1.0, step / (section.epochs * steps_per_epoch))))


def metric_columns(split: str, losses: dict[str, float], weights: dict[str, float]) -> dict[str, float]:
    """Documented metric columns of a split: `{split}_loss`, `{split}_noise_loss`, ... from terms by name.

    The semantic loss is the weighted sum of its two terms, as documented; the others are unweighted.
    """
    names = {"loss": "loss", "adversarial": "discriminator_loss"}
    row = {f"{split}_{names.get(name, f'{name}_loss')}": value for name, value in losses.items()}
    semantic = [name for name in ("segmentation", "perceptual") if name in losses]
    if semantic:
        row[f"{split}_semantic_loss"] = sum(weights[name] * losses[name] for name in semantic)
    return row


def write_metrics(history: list[dict[str, Any]], path: Path) -> None:
    """One CSV row an epoch, every column always there; a cell without a value is empty."""
    rows = pd.DataFrame(history)
    trained = [column for column in rows if column.startswith("train_")]
    validated = [f"val_{column.removeprefix('train_')}" for column in trained]
    judged = ["viability_score", "discriminator_weight"] if "train_discriminator_loss" in trained else []
    with whole_file(path) as file:
        rows.reindex(columns=["epoch", *trained, *validated, *judged]).to_csv(file, index=False)
