"""retrain-discriminator: trains the latent discriminator on good latents against bad ones."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from core.checkpoints.discriminators import save_discriminator
from core.data.latent_pools import pool_files, read_latent_pool
from core.inputs.locations import Location
from core.inputs.state_form import (
    Source,
    are_weights,
    checked_optimizer,
    checked_weights,
    is_plain_tree,
    mapping,
    rows,
    without_wrappers,
)
from core.inputs.tensor_files import load_tensors
from core.models.diffusion import add_noise
from core.models.discriminator import ADAM_BETAS, DiscriminatorLoss, LatentDiscriminator, draw_noise_levels
from core.models.labelled_latents import LabelledLatents
from core.records.stage_run import run_stage
from core.records.workspace import Workspace
from core.runtime import distributed, processes
from core.runtime.batch_shares import Share, whole_batch_dropout
from core.runtime.device import autocast, reduced_dtype
from core.runtime.errors import InputError, require_positive
from core.runtime.files import atomic_write
from core.runtime.processes import Processes
from core.runtime.progress import EpochProgress
from core.runtime.seeding import derive_seed, generator
from core.storage.store import ArtifactsSection
from core.trackers.tracking import TrackedStage, Tracking
from core.training.discriminator_data import (
    DiscriminatorData,
    knowledge_of_viability,
    real_against_generated,
    turned_at_random,
    viable_against_others,
)
from core.training.metrics import MetricsRow

# Latents that are scored at a time.
_SCORED = 512
_LATEST_NAME = "discriminator_latest.pt"
_STATE = ("state_dict", "optimizer_state", "training_history", "best")

_COLUMNS = ("epoch", "train_loss", "train_acc", "val_loss", "val_acc")
# What is logged after an epoch.
_SHOWN = (*_COLUMNS[1:], "viability_auc")

# Share of the training latents that it sees clean. The others are noised, so that it learns every noise level.
CLEAN_SHARE = 0.5


@dataclass(frozen=True)
class DiscriminatorRequest:
    """The documented inputs and options of the task."""

    real_latents: Location
    fake_latents: Location
    output_dir: Location
    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 0.0002
    seed: int = 42
    device: str = "auto"
    use_amp: bool = True  # bfloat16 where the device multiplies it faster
    labelled_latents: Location | None = None  # the generated latents with the audit's verdicts
    processes: Processes = 1  # of this machine, which train it together
    learn_labels: bool = False  # train on viable against other generated latents, not on real against generated ones
    tracked: TrackedStage | None = None  # whose trackers get the figures of each epoch


def train_discriminator(request: DiscriminatorRequest, artifacts: ArtifactsSection | None = None) -> dict[str, Any]:
    """Stage record after writing `discriminator_best.pt` (lowest validation loss) and `discriminator_history.csv`.

    History columns: epoch, train_loss, train_acc, val_loss, val_acc, on clean latents for validation. With labelled
    latents also those of `knowledge_of_viability`.
    """
    require_positive(epochs=request.epochs, batch_size=request.batch_size, learning_rate=request.learning_rate)
    with processes.together(request, train_discriminator, request, artifacts):
        return _train_recorded(request, artifacts or ArtifactsSection())


def _train_recorded(request: DiscriminatorRequest, artifacts: ArtifactsSection) -> dict[str, Any]:
    inputs = pool_files("real", request.real_latents, artifacts)
    inputs |= pool_files("fake", request.fake_latents, artifacts)
    settings = {name: getattr(request, name) for name in ("epochs", "batch_size", "learning_rate", "seed", "use_amp")}

    if request.labelled_latents is not None:
        inputs["labelled"] = request.labelled_latents
    if request.learn_labels:
        settings["learn_labels"] = True

    def work(workspace: Workspace, paths: Mapping[str, Path]) -> dict[str, Any]:
        return _train(request, _data(request, paths), workspace)

    return run_stage("discriminator", request.output_dir, inputs, settings, work, artifacts)


def _data(request: DiscriminatorRequest, paths: Mapping[str, Path]) -> DiscriminatorData:
    labelled = LabelledLatents.load(paths["labelled"]) if "labelled" in paths else None
    if request.learn_labels:
        if labelled is None:
            raise InputError("--learn_labels needs labels: give --labelled_latents, of generate-bad-latents")
        return viable_against_others(labelled, request.seed)
    real, fake = (
        read_latent_pool([path for name, path in paths.items() if name.startswith(kind)], source)
        for kind, source in (("real", request.real_latents), ("fake", request.fake_latents))
    )
    return real_against_generated(real, fake, labelled, request.seed)


def _train(request: DiscriminatorRequest, data: DiscriminatorData, workspace: Workspace) -> dict[str, Any]:
    """Metrics of the best epoch, after the files are written."""
    distributed.require_divisible(
        _class_batch_size(request) * 2, "--batch_size", f"give a multiple of {math.lcm(2, distributed.size())}"
    )
    device = distributed.own_device(request.device)
    training, validation = ([pool.to(device) for pool in pools] for pools in (data.training, data.validation))
    real, fake = training
    sizes = {"latent_channels": real.shape[1], "latent_size": real.shape[2]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(request.seed, "discriminator weights"))
        model = LatentDiscriminator(**sizes).to(device)
    optimizer = Adam(model.parameters(), lr=request.learning_rate, betas=ADAM_BETAS, fused=True)
    history, best = _resume(model, optimizer, workspace, request.epochs)

    # An epoch is one pass over the larger class. The smaller class is seen as often, so the classes are balanced.
    steps = max(1, -(-max(len(real), len(fake)) // _class_batch_size(request)))
    losses = distributed.replicated(DiscriminatorLoss(model))
    tracking, progress = Tracking(request.tracked), EpochProgress("discriminator", request.epochs, steps, len(history))
    with tracking.open(progress.done), progress:
        for epoch in range(len(history) + 1, request.epochs + 1):
            row: MetricsRow = {"epoch": epoch}
            row |= _train_epoch(losses, optimizer, training, request, epoch, steps, progress, data.turned)
            row |= _validate(model, validation)
            if data.unseen is not None:
                row |= knowledge_of_viability(data.unseen, partial(_scores, model), request.seed)
            if not math.isfinite(row["val_loss"]):
                raise InputError(
                    f"discriminator: the loss is {row['val_loss']} in the validation of epoch {epoch}; it was not "
                    "saved: lower --learning_rate"
                )
            history.append(row)
            tracking.log(row, progress.done)
            if not best or row["val_loss"] < best["val_loss"]:
                best = row
                scores = {name: row[name] for name in ("epoch", "val_loss", "val_acc")}
                if workspace.writes:
                    save_discriminator(model, sizes, scores, workspace.folder / "discriminator_best.pt")
            workspace.keep(_LATEST_NAME, partial(_state, model, optimizer, history, best), f"epoch {epoch}")
            progress.epoch(epoch, {name: row[name] for name in _SHOWN if name in row})
    if workspace.writes:
        with atomic_write(workspace.folder / "discriminator_history.csv") as file:
            pd.DataFrame(history).to_csv(file, index=False)
    known = {name: best[name] for name in best if name not in _COLUMNS}
    return {"val_acc": best["val_acc"], "val_loss": best["val_loss"], "best_epoch": best["epoch"], **known}


def _resume(
    model: LatentDiscriminator, optimizer: Adam, workspace: Workspace, epochs: int
) -> tuple[list[MetricsRow], MetricsRow]:
    """History and best row of the state in the workspace, after it is loaded; both empty if there is no state.

    InputError if the file is of another form.
    """
    path = workspace.folder / _LATEST_NAME
    if not path.exists():
        return [], {}
    source = Source("discriminator state", path, "put back an unaltered copy of it")
    state = mapping(load_tensors(path, "discriminator state"), _STATE, "the file", source)
    if not are_weights(state["state_dict"]):
        raise source.error("state_dict", "holds no weights")
    history = rows(state["training_history"], None, "training_history", source)
    if not 1 <= len(history) <= epochs or not is_plain_tree(state["best"]) or state["best"] not in history:
        raise source.error("training_history", f"is not of 1 to {epochs} epochs, the best among them")
    weights = checked_weights(without_wrappers(state["state_dict"]), model, path)
    moments = checked_optimizer(state["optimizer_state"], optimizer, model, len(history), "optimizer_state", source)
    model.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    distributed.wait_for_all()  # afterwards all have read the state
    if workspace.writes:
        path.unlink()  # it is not an output of the stage
    return history, history[history.index(state["best"])]


def _state(model: LatentDiscriminator, optimizer: Adam, history: list[MetricsRow], best: MetricsRow) -> dict[str, Any]:
    return {
        "state_dict": model.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "training_history": history,
        "best": best,
    }


def _class_batch_size(request: DiscriminatorRequest) -> int:
    """Latents of each class in a batch."""
    return request.batch_size // 2 or 1


def _train_epoch(
    losses: nn.Module,
    optimizer: Adam,
    pools: list[Tensor],
    request: DiscriminatorRequest,
    epoch: int,
    steps: int,
    progress: EpochProgress,
    turned: bool,
) -> MetricsRow:
    """Training loss and accuracy of the epoch."""
    half, device = _class_batch_size(request), pools[0].device
    dtype = reduced_dtype(device, request.use_amp)
    mine = Share(distributed.rank(), distributed.size()).rows(2 * half)
    positions = mine.positions.to(device)
    # Everything is drawn on the device, so the loop never waits for it.
    rng = generator(request.seed, "discriminator epoch", epoch, device=device)
    orders = [_endless_order(len(pool), steps * half, rng) for pool in pools]
    labels = torch.cat([torch.ones(half, device=device), torch.zeros(half, device=device)])
    own_labels = labels[positions]
    loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    losses.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(request.seed, "discriminator dropout", epoch))
        for step in range(steps):
            take = slice(step * half, (step + 1) * half)
            latents = torch.cat([pool[order[take]] for pool, order in zip(pools, orders, strict=True)])
            if turned:
                latents = turned_at_random(latents, rng)
            alpha_bar = draw_noise_levels(len(latents), CLEAN_SHARE, rng)
            eps, shift = (torch.randn(latents.shape, generator=rng, device=device) for _ in range(2))
            drawn = (add_noise(latents, eps, alpha_bar), labels, alpha_bar, shift)
            with whole_batch_dropout(mine), autocast(device, dtype):
                part, logits = losses(*(value[positions] for value in drawn))
            hits = ((logits > 0) == (own_labels > 0.5)).float().mean()
            loss, hits = distributed.averaged([part, hits])
            optimizer.zero_grad(set_to_none=True)
            part.backward()
            optimizer.step()
            loss_sum, correct = loss_sum + loss.detach(), correct + hits
            progress.step()
    if not torch.isfinite(loss_sum):
        raise InputError(
            f"discriminator: the loss is {loss_sum.item()} in epoch {epoch}; the epoch was not saved: lower "
            "--learning_rate"
        )
    return {"train_loss": (loss_sum / steps).item(), "train_acc": (correct / steps).item()}


def _endless_order(size: int, length: int, rng: torch.Generator) -> Tensor:
    """Indices [length] below `size`: one random permutation after another."""
    passes = -(-length // size)
    return torch.cat([torch.randperm(size, generator=rng, device=rng.device) for _ in range(passes)])[:length]


@torch.no_grad()
def _validate(model: LatentDiscriminator, pools: list[Tensor]) -> MetricsRow:
    """Loss and accuracy on clean held-out latents, the mean of the two classes."""
    model.eval()
    loss, accuracy = 0.0, 0.0
    for pool, label in zip(pools, (1.0, 0.0), strict=True):
        logits = _scores(model, pool)
        loss += F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label)).item() / 2
        accuracy += ((logits > 0) == (label > 0.5)).float().mean().item() / 2
    return {"val_loss": loss, "val_acc": accuracy}


@torch.no_grad()
def _scores(model: LatentDiscriminator, latents: Tensor) -> Tensor:
    """Logits [N] of clean latents [N, C, h, w]."""
    device = next(model.parameters()).device
    return torch.cat([model(part.to(device)) for part in torch.split(latents, _SCORED)])
