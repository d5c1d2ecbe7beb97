"""The one training loop of Stages 1, 2 and 3: which terms it has is decided by what it is given."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from core.config.experiment import ExperimentConfig
from core.config.training_sections import OptimizationSection, TrainingSection
from core.data.latents import Latents
from core.data.layouts import LayoutPictures
from core.models.adversarial import AdversarialDraws, SampleFn, X0Prediction
from core.models.autoencoder import Decoder
from core.models.diffusion import add_noise, denoiser
from core.models.discriminator import LatentDiscriminator
from core.models.losses import Batch, LossesOfUNet, LossModels, SemanticDraws, diffusion_losses, weighted_sum
from core.models.pictures import save_sample_grid
from core.models.sampling import sample_latents
from core.models.trajectories import Trajectories
from core.records.workspace import Workspace
from core.runtime import distributed
from core.runtime.device import autocast, reduced_dtype
from core.runtime.errors import InputError
from core.runtime.files import atomic_write
from core.runtime.progress import EpochProgress, bar
from core.runtime.seeding import derive_seed, generator
from core.runtime.shares import Share
from core.training.train_state import TrainState
from core.training.training_files import checkpoint_name, metrics_name, samples_name

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
    """One stage of diffusion training, resumable from `checkpoints/{name}_checkpoint_latest.pt` of its workspace.

    Several processes each hold all of it and work on their shares of every batch; the workspace of one writes.
    Raises InputError if a batch does not divide among them.
    """

    config: ExperimentConfig
    training: TrainingSection
    name: str
    workspace: Workspace
    state: TrainState
    frozen: LossModels
    data: LatentSet
    validation: LatentSet
    decoder: Decoder
    trajectories: Trajectories | None = None
    discriminator: LatentDiscriminator | None = None
    maker: SampleFn | None = None
    viability_seeds: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device = next(self.state.unet.parameters()).device
        self.num_timesteps = len(self.frozen.scheduler.alphas_cumprod)
        self.steps_per_epoch = max(1, len(self.data) // self.training.batch_size)
        self.dtype = reduced_dtype(self.device, self.training.use_amp)
        self.batch_size = min(self.training.batch_size, len(self.data))
        self._require_shares()

    def run(self, until_epoch: int, stop_early: "EarlyStop | None" = None) -> None:
        """Train until the epoch (or `stop_early`), writing checkpoints, samples and metrics as documented."""
        first_epoch = self.state.epoch
        losses = distributed.replicated(LossesOfUNet(self.state.unet, self.frozen))
        with EpochProgress(self.name, until_epoch, self.steps_per_epoch, first_epoch) as progress:
            while self.state.epoch < until_epoch and not (stop_early and stop_early.reached(self.state.history)):
                self._epoch(losses, progress)
        self.workspace.settle()
        if self.state.epoch > first_epoch or not self.path("latest").exists():
            self._write_metrics()
            self._save("latest", resumable=True)
        if not self.path("best").exists() or (self.state.best_val_loss is None and self.state.epoch > first_epoch):
            # Nothing was evaluated since it began, or since it is judged otherwise: there is no better one.
            self._save("best")
        # All sample together, so all go by what the first one sees.
        if not distributed.from_first(self._sample_path().exists()):
            self.sample()

    @property
    def folder(self) -> Path:
        """Where checkpoints, samples and metrics go."""
        return self.workspace.folder

    def path(self, kind: str) -> Path:
        """Checkpoint file of a kind: best, latest or epoch_NNN."""
        return self.folder / checkpoint_name(self.name, kind)

    def validate(self) -> dict[str, float]:
        """Mean of every term over the validation set with the EMA weights and fixed draws, and their `loss`.

        Whole batches are dealt to the processes, since the last of them may have any number of rows.
        """
        weights = self._weights(self.config.discriminator.weight)
        totals = {name: torch.zeros((), dtype=torch.float64, device=self.device) for name in weights}
        batches = torch.arange(len(self.validation)).split(self.training.batch_size)
        mine = distributed.own(list(enumerate(batches)))
        with torch.no_grad(), autocast(self.device, self.dtype):
            for position, indices in bar(mine, "validation", leave=False):
                (batch,) = self._draw(self.validation, indices, [Share()], "validation", position)
                for name, value in diffusion_losses(self.state.ema, self.frozen, batch).items():
                    totals[name] = totals[name] + value.double() * len(indices) / len(self.validation)
        totals = dict(zip(totals, distributed.summed(list(totals.values())), strict=True))
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
        # What is decided by scores must be the same everywhere, and GPUs may round differently.
        return latents, distributed.from_first(torch.cat(scores))

    def sample(self) -> None:
        """Write `samples/{name}_epoch_NNN_samples.png`: what the EMA weights draw from the same seeds every time."""
        seeds = [derive_seed(self.training.seed, "samples", index) for index in range(GRID_SAMPLES)]
        latents = self._generate(seeds, "samples")
        if self.workspace.writes:
            save_sample_grid(latents, self.decoder, self._sample_path())

    def _epoch(self, model: nn.Module, progress: EpochProgress) -> None:
        epoch = self.state.epoch
        totals: dict[str, Tensor] = {}
        for position, indices in enumerate(self._order(epoch)):
            parts = self._draw(self.data, indices, self._shares(), "training", epoch, position)
            for name, value in self._step(model, parts).items():
                totals[name] = totals.get(name, 0) + value
            if self.state.online is not None:
                self._update_online(self.data.latents.batch(indices))
            self._update_ema()
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
            self._save("best")
        if self.state.epoch % self.training.save_interval == 0:
            self._save(f"epoch_{self.state.epoch:03d}")
        if self.state.epoch % self.training.sample_interval == 0:
            self.sample()
        self._write_metrics()
        if self.state.epoch % self.training.latest_interval == 0:
            latest = checkpoint_name(self.name, "latest")
            self.workspace.keep(latest, lambda: self.state.checkpoint(self.config), f"epoch {self.state.epoch}")

    def _order(self, epoch: int) -> Iterator[Tensor]:
        """Index batches of an epoch, whole ones only; the order comes from (seed, epoch) alone."""
        count = len(self.data)
        order = torch.arange(count)
        if self.training.shuffle:
            order = torch.randperm(count, generator=generator(self.training.seed, "order", epoch))
        yield from order[: self.steps_per_epoch * self.batch_size].split(self.batch_size)

    def _shares(self) -> list[Share]:
        """This process's shares of a batch, one an accumulation step."""
        steps, processes = self.training.accumulation_steps, distributed.size()
        return [Share(distributed.rank() + step * processes, steps * processes) for step in range(steps)]

    def _require_shares(self) -> None:
        size, steps, processes = self.batch_size, self.training.accumulation_steps, distributed.size()
        if size % (steps * processes):
            raise InputError(
                f"training.batch_size: a batch of {size} latents does not divide by {processes} processes times "
                f"training.accumulation_steps {steps}: set it to a multiple of {steps * processes}, at most "
                f"{len(self.data)}"
            )

    def require_online_shares(self) -> None:
        """InputError if what the online discriminator learns from a batch does not divide among the processes."""
        count, processes = self._adversarial_count(self.batch_size), distributed.size()
        if count % processes:
            raise InputError(
                f"discriminator.batch_fraction: {count} of {self.batch_size} latents do not divide by {processes} "
                "processes: change it, or set discriminator.update: frozen"
            )

    def _draw(self, data: LatentSet, indices: Tensor, shares: list[Share], stream: str, *position: int) -> list[Batch]:
        """The shares of the batch of rows `indices`, with everything random about the whole of it drawn."""
        rng = generator(self.training.seed, stream, *position)
        latent = data.latents.batch(indices)
        t = torch.randint(self.num_timesteps, (len(indices),), generator=rng)
        eps = torch.randn(latent.shape, generator=rng)
        adversarial = None
        if self.trajectories is not None:
            # Draws of its own, so that a run without the term sees the same batches.
            adversarial_rng = generator(self.training.seed, f"{stream} adversarial", *position)
            adversarial = self._draw_adversarial(t, data is self.validation, adversarial_rng)
        parts = []
        for share in shares:
            rows = share.rows(len(indices))
            mine = [value[rows.positions].to(self.device) for value in (latent, eps, t)]
            semantic = self._semantic(data, indices, t, share) if self.training.loss.semantic_loss else None
            judged = adversarial.part(share).to(self.device) if adversarial else None
            parts.append(Batch(*mine, semantic, judged, rows if share.count > 1 else None))
        return parts

    def _adversarial_count(self, batch_size: int) -> int:
        return max(1, round(batch_size * self.config.discriminator.batch_fraction))

    def _draw_adversarial(self, t: Tensor, held_out: bool, rng: torch.Generator) -> AdversarialDraws:
        draws = self.trajectories.draw(self._adversarial_count(len(t)), self.num_timesteps, held_out, rng)
        return self.maker.chosen(draws, t) if isinstance(self.maker, X0Prediction) else draws

    def _semantic(self, data: LatentSet, indices: Tensor, t: Tensor, share: Share) -> SemanticDraws:
        """The share of what is decoded of a batch; a share of none is one picture of weight 0."""
        section = self.training.loss.semantic_loss
        count = max(1, round(len(indices) * section.batch_fraction))
        lowest = t.argsort(stable=True)[:count]
        alpha_bars = self.frozen.scheduler.alphas_cumprod.cpu()
        weights = alpha_bars[t[lowest]] * (t[lowest] <= section.max_t * self.num_timesteps)
        total = weights.sum() / share.count
        mine, positions = share.find(lowest)
        weights = weights[mine]
        if not len(mine):
            positions, weights = positions.new_zeros(1), weights.new_zeros(1)
        rows = indices[share.rows(len(indices)).positions[positions]].tolist()
        pictures = data.pictures.batch(rows, device=self.device)
        return SemanticDraws(positions.to(self.device), pictures, weights.to(self.device), total.to(self.device))

    def _step(self, model: nn.Module, parts: list[Batch]) -> dict[str, Tensor]:
        """One optimizer step on this process's parts of a batch; every term of the whole, and the total `loss`."""
        state, parameters = self.state, list(self.state.unet.parameters())
        if self.trajectories is not None:
            self._balance(parts, parameters)
        weights = self._weights(state.adversarial_weight)
        losses = {name: torch.zeros((), device=self.device) for name in ("loss", *weights)}
        state.optimizer.zero_grad(set_to_none=True)
        for number, part in enumerate(parts, 1):
            with contextlib.nullcontext() if number == len(parts) else distributed.accumulating(model):
                terms = self._forward(model, part)
                total = weighted_sum(terms, weights) / len(parts)
                total.backward()
            losses["loss"] = losses["loss"] + total.detach()
            for name, value in terms.items():
                losses[name] = losses[name] + value.detach() / len(parts)
        losses = dict(zip(losses, distributed.averaged(list(losses.values())), strict=True))
        nothing_done = f"epoch {state.epoch + 1}, step {state.step + 1}; nothing was updated"
        self._check_finite({name: losses[name] for name in weights}, nothing_done)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.training.max_grad_norm or math.inf)
        self._check_finite({"gradient of the": norm}, nothing_done)
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(self.training, state.step, self.steps_per_epoch)
        state.optimizer.step()
        return losses

    def _forward(self, model: nn.Module, part: Batch) -> dict[str, Tensor]:
        """Terms of a part of the step's batch, from the UNet in training mode."""
        # Dropout draws from the global generator; give it a seed by position and put the old state back.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(derive_seed(self.training.seed, "dropout", self.state.step))
            self.state.unet.train()
            with autocast(self.device, self.dtype):
                return model(part)

    def _update_ema(self) -> None:
        """Let the moving average follow the UNet: the step is done."""
        state = self.state
        state.step += 1
        # A young average follows faster, as it has little to average.
        decay = min(self.training.ema_decay, (1 + state.step) / (10 + state.step))
        torch._foreach_lerp_(list(state.ema.parameters()), list(state.unet.parameters()), 1 - decay)

    @torch.no_grad()
    def _update_online(self, latents: Tensor) -> None:
        """Let the online discriminator learn on real ones of the batch's `latents` against what the model makes by now.

        Each process takes its share.
        """
        state, share = self.state, Share(distributed.rank(), distributed.size())
        denoise = denoiser(state.unet.eval(), self.frozen.scheduler)
        for number in range(self.config.discriminator.online_steps):
            rng = generator(self.training.seed, "online", state.step, number)
            count = self._adversarial_count(len(latents))
            rows = share.rows(count)
            draws = self.trajectories.draw(count, self.num_timesteps, False, rng).part(share).to(self.device)
            with autocast(self.device, self.dtype):
                made = self.maker(denoise, draws, None)
            real = latents[torch.randperm(len(latents), generator=rng)[:count]]
            eps = torch.randn(real.shape, generator=rng)
            real, eps = (value[rows.positions].to(self.device) for value in (real, eps))
            state.online.step(add_noise(real, eps, made.alpha_bar), made, rows, state.step, number)

    def _balance(self, parts: list[Batch], parameters: list[Tensor]) -> None:
        """Set the adversarial weight: fixed, or such that its gradient is `balance` times the noise gradient.

        The configured weight is the cap. Measured every `BALANCE_INTERVAL` steps, in a pass of its own, and smoothed.
        """
        section, state = self.config.discriminator, self.state
        if section.balance is None or section.form == "published":  # a constant has no gradient
            state.adversarial_weight = section.weight
            return
        if state.adversarial_weight is not None and state.step % BALANCE_INTERVAL:
            return
        noise, adversarial = self._gradient_norms(["noise", "adversarial"], parts, parameters)
        aimed = min(section.weight, section.balance * noise / max(adversarial, 1e-12))
        known = state.adversarial_weight
        state.adversarial_weight = aimed if known is None else 0.5 * (known + aimed)

    def _gradient_norms(self, names: list[str], parts: list[Batch], parameters: list[Tensor]) -> list[float]:
        """Norm of the gradient that each of the terms has by itself, over every process's parts."""
        model = LossesOfUNet(self.state.unet, self.frozen)
        gradients = {name: [torch.zeros_like(parameter) for parameter in parameters] for name in names}
        for part in parts:
            terms = self._forward(model, part)
            for name in names:
                found = torch.autograd.grad(terms[name] / len(parts), parameters, retain_graph=name != names[-1])
                torch._foreach_add_(gradients[name], found)
        # Not left to the replicated model, which averages gradients of a backward pass only.
        whole = [distributed.averaged(gradients[name]) for name in names]
        return [math.sqrt(sum(g.float().square().sum().item() for g in gradient)) for gradient in whole]

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
        """Latents [len(seeds), C, h, w], the same in every process, each of which makes its share."""
        section, mine = self.config.rounds.bad_latents, distributed.own(seeds)
        made = torch.empty(0, *self.config.latent_shape)
        if mine:
            ema = self.state.ema
            made = sample_latents(ema, self.config, mine, section.num_steps, section.batch_size, description)
        return distributed.gathered(made, len(seeds))

    def _save(self, kind: str, resumable: bool = False) -> None:
        if self.workspace.writes:
            self.state.save(self.path(kind), self.config, resumable)

    def _write_metrics(self) -> None:
        if self.workspace.writes:
            write_metrics(self.state.history, self.folder / metrics_name(self.name))

    def _sample_path(self) -> Path:
        return self.folder / samples_name(self.name, self.state.epoch)


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
    with atomic_write(path) as file:
        rows.reindex(columns=["epoch", *trained, *validated, *judged]).to_csv(file, index=False)
