"""The training loop of the diffusion model. `DiffusionTraining._step` is a Stage 3 step from top to bottom.

Stages 1 and 2 run the same loop with fewer terms: Stage 1 has the noise term alone, Stage 2 the semantic terms too.
"""

import contextlib
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from core.config.experiment import ExperimentConfig
from core.config.training_sections import TrainingSection
from core.models.adversarial import AnyForm, NoisePass, ScoredSamples
from core.models.adversarial_weight import adversarial_weight, gradient_norms
from core.models.diffusion import add_noise, denoiser, predict_x0
from core.models.discriminator import LatentDiscriminator
from core.models.losses import noise_loss, perceptual_loss, segmentation_loss, weighted_mean, weighted_sum
from core.models.perceptual import Perceptual
from core.models.pictures import save_sample_grid
from core.models.updates import ema_decay, learning_rate, update_ema
from core.networks.autoencoder import Decoder
from core.networks.unet import UNet
from core.records.workspace import Workspace
from core.runtime import distributed
from core.runtime.batch_shares import whole_batch_dropout
from core.runtime.device import autocast, reduced_dtype
from core.runtime.progress import EpochProgress
from core.runtime.seeding import derive_seed
from core.trackers.tracking import TrackedStage, Tracking
from core.training.batches import Batch, Batches
from core.training.evaluation import Evaluation
from core.training.file_names import checkpoint_name, metrics_name, samples_name
from core.training.metrics import EarlyStop, MetricsRow, metric_columns, require_finite, write_metrics
from core.training.step_figures import EpochFigures, StepFigures, Throughput
from core.training.train_state import TrainState


@dataclass(frozen=True)
class LossModels:
    """The frozen models that the losses need besides the UNet, and the form of the adversarial term."""

    scheduler: DDIMScheduler
    decoder: Decoder
    perceptual: Perceptual | None = None
    form: AnyForm | None = None


@dataclass
class DiffusionTraining:
    """One stage of diffusion training, resumable from `checkpoints/{name}_checkpoint_latest.pt` of its workspace.

    Several processes each have a copy of it and work on their shares of every batch; one of them writes the files.
    """

    config: ExperimentConfig
    training: TrainingSection
    name: str
    workspace: Workspace
    state: TrainState
    loss_models: LossModels
    batches: Batches
    discriminator: LatentDiscriminator | None = None
    tracked: TrackedStage | None = None

    def __post_init__(self) -> None:
        self.device = self.batches.device
        self.dtype = reduced_dtype(self.device, self.training.use_amp)
        self.pace, self._tracking = Throughput(), Tracking(self.tracked)
        self._losses = DiffusionLosses(self.state.unet, self.loss_models)
        self.evaluation = Evaluation(
            self.config,
            self.training,
            self.state.ema,
            partial(diffusion_losses, self.state.ema, self.loss_models),
            self._term_weights(self.config.discriminator.weight),
            self.batches,
            self.discriminator,
        )

    def run(self, until_epoch: int, stop_early: EarlyStop | None = None) -> None:
        """Train until the epoch (or `stop_early`), and write the documented checkpoints, samples and metrics."""
        first_epoch, steps = self.state.epoch, self.batches.steps_per_epoch
        model = distributed.replicated(self._losses)
        progress = EpochProgress(self.name, until_epoch, steps, first_epoch)
        with self._tracking.open(self.state.step), progress:
            self._tracking.picture("samples", self._samples_path(), self.state.step)
            while self.state.epoch < until_epoch and not (stop_early and stop_early.reached(self.state.history)):
                self._epoch(model, progress)
            self._write_last(first_epoch)

    def _epoch(self, model: nn.Module, progress: EpochProgress) -> None:
        """Train one epoch, evaluate it when that is due, and write its files."""
        state = self.state

        # Train on every batch.
        figures = EpochFigures(self._tracking, self.training)
        for position, rows in enumerate(self.batches.order(state.epoch)):
            figures.add(self._step(model, rows, position), state.step, len(rows))
            progress.step()
        state.epoch += 1

        # Log the epoch: training losses, then those of the evaluation when it is due.
        means, pace = figures.losses(), figures.pace()
        weights = self._term_weights(state.adversarial_weight)
        row: MetricsRow = {"epoch": state.epoch, **metric_columns("train", means, weights), **figures.rates()}
        if state.adversarial_weight is not None:
            row["discriminator_weight"] = state.adversarial_weight
        if state.epoch % self.training.eval_interval == 0:
            row |= metric_columns("val", self.validate(), weights)
            if self.discriminator is not None:
                row["viability_score"] = self.evaluation.viability()
        state.history = [*state.history, row]
        self.pace += pace
        shares = {f"{name}_weight": weight for name, weight in weights.items() if name != "adversarial"}
        self._tracking.log({**row, **shares, **pace.rates(), **pace.memory(self.device)}, state.step)

        # Write checkpoints, samples and metrics.
        self._write_epoch(row)
        progress.epoch(state.epoch, means)

    def _step(self, model: nn.Module, rows: Tensor, position: int) -> StepFigures:
        """One optimizer step on the batch of `rows`; among its losses is the total `loss`."""
        state, parameters = self.state, list(self.state.unet.parameters())

        # Draw the batch: x0, eps, t and the draws of the other terms, in one part for each accumulation step.
        parts = self.batches.draw(rows, state.epoch, position)

        # Set the weights of the terms. The adversarial one may be balanced by gradient norms, in a pass of its own.
        if self.loss_models.form is not None:
            norms = partial(gradient_norms, partial(self._forward, self._losses), parts, parameters)
            section = self.config.discriminator
            state.adversarial_weight = adversarial_weight(section, state.adversarial_weight, state.step, norms)
        weights = self._term_weights(state.adversarial_weight)

        # Noise, predict, compute the terms (all in `diffusion_losses`), sum them, and accumulate gradients backward.
        losses = {name: torch.zeros((), device=self.device) for name in ("loss", *weights)}
        state.optimizer.zero_grad(set_to_none=True)
        for number, part in enumerate(parts, 1):
            with contextlib.nullcontext() if number == len(parts) else distributed.accumulating(model):
                terms = self._forward(model, part)
                loss = weighted_sum(terms, weights) / len(parts)
                loss.backward()
            losses["loss"] = losses["loss"] + loss.detach()
            for name, value in terms.items():
                losses[name] = losses[name] + value.detach() / len(parts)
        losses = dict(zip(losses, distributed.averaged(list(losses.values())), strict=True))

        # Clip the gradients. A loss or gradient that is not finite stops the training before the update.
        where = f"epoch {state.epoch + 1}, step {state.step + 1}; nothing was updated"
        require_finite({name: losses[name] for name in weights}, self.name, where)
        norm = nn.utils.clip_grad_norm_(parameters, self.training.max_grad_norm or math.inf)
        require_finite({"gradient of the": norm}, self.name, where)

        # Update the UNet.
        rate = learning_rate(self.training, state.step, self.batches.steps_per_epoch)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.step()

        # Train the online discriminator, if there is one, against the updated UNet.
        if state.online is not None:
            self._train_online_discriminator(rows)

        # Update the EMA.
        state.step += 1
        update_ema(state.ema, state.unet, ema_decay(self.training.ema_decay, state.step))
        return StepFigures(losses, rate, norm)

    def _forward(self, model: nn.Module, part: Batch) -> dict[str, Tensor]:
        """The terms of a part of the step's batch, with the UNet in training mode."""
        # Dropout draws from the global generator: seed it by the step, and restore its state afterwards.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(derive_seed(self.training.seed, "dropout", self.state.step))
            self.state.unet.train()
            with autocast(self.device, self.dtype):
                terms: dict[str, Tensor] = model(part)
                return terms

    def _train_online_discriminator(self, rows: Tensor) -> None:
        online, form = self.state.online, self.loss_models.form
        assert online is not None and isinstance(form, ScoredSamples), "the config allows online with these forms only"
        x0, count = self.batches.data.latents.batch(rows), self.batches.adversarial_count(len(rows))
        denoise = denoiser(self.state.unet.eval(), self.loss_models.scheduler)
        online.train(x0, denoise, form, count, self.state.step, self.dtype)

    def _term_weights(self, adversarial: float | None) -> dict[str, float]:
        """The weights of the terms that this stage has: the terms of `diffusion_losses`."""
        weights = dict(self.training.loss.weights)
        if self.loss_models.form is not None:
            assert adversarial is not None, "the first step sets it"
            weights["adversarial"] = adversarial
        return weights

    def validate(self) -> dict[str, float]:
        """Mean of every term over the validation split with the EMA weights, and their weighted sum `loss`."""
        return self.evaluation.validate(self.name, self.state.epoch)

    def write_samples(self) -> None:
        """Write `samples/{name}_epoch_NNN_samples.png`: layouts that the EMA weights generate from fixed seeds."""
        latents = self.evaluation.samples()
        if self.workspace.writes:
            save_sample_grid(latents, self.loss_models.decoder, self._samples_path())
            self._tracking.picture("samples", self._samples_path(), self.state.step)

    def path(self, kind: str) -> Path:
        """The checkpoint file of a kind: best, latest or epoch_NNN."""
        return self.workspace.folder / checkpoint_name(self.name, kind)

    def _write_epoch(self, row: MetricsRow) -> None:
        state, best = self.state, self.state.best_val_loss
        if "val_loss" in row and (best is None or row["val_loss"] < best):
            state.best_val_loss = row["val_loss"]
            self._save("best")
        if state.epoch % self.training.save_interval == 0:
            self._save(f"epoch_{state.epoch:03d}")
        if state.epoch % self.training.sample_interval == 0:
            self.write_samples()
        self._write_metrics()
        if state.epoch % self.training.latest_interval == 0:
            latest = checkpoint_name(self.name, "latest")
            self.workspace.keep(latest, lambda: state.checkpoint(self.config), f"epoch {state.epoch}")

    def _write_last(self, first_epoch: int) -> None:
        """Write what a training that began at `first_epoch` lacks at its end."""
        self.workspace.settle()
        trained = self.state.epoch > first_epoch
        if trained or not self.path("latest").exists():
            self._write_metrics()
            self._save("latest", resumable=True)
        if not self.path("best").exists() or (trained and self.state.best_val_loss is None):
            # Nothing was evaluated since the training began, or since its figures were dropped: the last is the best.
            self._save("best")
        # All processes generate together, so all follow what the first one sees.
        if not distributed.from_first(self._samples_path().exists()):
            self.write_samples()

    def _save(self, kind: str, resumable: bool = False) -> None:
        if self.workspace.writes:
            self.state.save(self.path(kind), self.config, resumable)

    def _write_metrics(self) -> None:
        if self.workspace.writes:
            write_metrics(self.state.history, self.workspace.folder / metrics_name(self.name))

    def _samples_path(self) -> Path:
        return self.workspace.folder / samples_name(self.name, self.state.epoch)


def diffusion_losses(unet: UNet, models: LossModels, batch: Batch) -> dict[str, Tensor]:
    """Every term that the batch has draws for, unweighted, for training and validation alike."""
    denoise = denoiser(unet, models.scheduler)

    # Noise the latents, and predict their noise.
    alpha_bar = models.scheduler.alphas_cumprod[batch.t]
    xt = add_noise(batch.x0, batch.eps, alpha_bar)
    with whole_batch_dropout(batch.rows):
        eps_pred = denoise(xt, batch.t)
    losses = {"noise": noise_loss(eps_pred, batch.eps)}

    # Decode the x0_pred of low noise, and compare it with the pictures.
    if batch.semantic is not None:
        assert models.perceptual is not None
        low, pictures, weights, total = batch.semantic
        decoded = models.decoder(predict_x0(xt[low], eps_pred[low], alpha_bar[low]))
        losses["segmentation"] = segmentation_loss(decoded.logits, pictures.classes, weights, total)
        losses["perceptual"] = perceptual_loss(models.perceptual(decoded.rgb, pictures.rgb), weights, total)

    # Score samples of the model; `core.models.adversarial` has the forms.
    if batch.adversarial is not None:
        assert models.form is not None
        noise_pass = NoisePass(batch.x0, batch.eps, batch.t, predict_x0(xt, eps_pred, alpha_bar))
        scored = models.form(denoise, batch.adversarial, noise_pass)
        losses["adversarial"] = weighted_mean(scored.losses, scored.weights, scored.total)
    return losses


class DiffusionLosses(nn.Module):
    """`diffusion_losses` as the single forward call of a step that processes can share."""

    def __init__(self, unet: UNet, models: LossModels):
        super().__init__()
        self.unet, self._models = unet, models

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Every term of the batch, unweighted."""
        return diffusion_losses(self.unet, self._models, batch)
