"""The metrics of a diffusion training: a row for each epoch, and what is decided by them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from core.runtime.errors import InputError
from core.runtime.files import atomic_write

# Metrics of an epoch by the name of their column, `epoch` among them.
MetricsRow = dict[str, float]
# Means over an epoch's steps of the learning rate, and of the gradient's norm before it is clipped.
RATES = ("lr", "grad_norm")


@dataclass(frozen=True)
class EarlyStop:
    """Ends a round once viability stayed above a score for a number of evaluations after epoch `since`."""

    viability_score: float
    evaluations: int
    since: int

    def reached(self, history: Sequence[MetricsRow]) -> bool:
        """Whether the last evaluations in `history` were all above the score."""
        recent = viability_scores(history, self.since)[-self.evaluations :]
        return len(recent) == self.evaluations and min(recent) > self.viability_score


def viability_scores(history: Sequence[MetricsRow], since: int) -> list[float]:
    """The viability scores in `history` after epoch `since`, in order."""
    return [row["viability_score"] for row in history if row["epoch"] > since and "viability_score" in row]


def metric_columns(split: str, losses: Mapping[str, float], weights: Mapping[str, float]) -> MetricsRow:
    """Documented metric columns of a split: `{split}_loss`, `{split}_noise_loss` and so on, from terms by name.

    The semantic loss is the weighted sum of its two terms; the other columns are unweighted.
    """
    names = {"loss": "loss", "adversarial": "discriminator_loss"}
    row = {f"{split}_{names.get(name, f'{name}_loss')}": value for name, value in losses.items()}
    semantic = [name for name in ("segmentation", "perceptual") if name in losses]
    if semantic:
        row[f"{split}_semantic_loss"] = sum(weights[name] * losses[name] for name in semantic)
    return row


def write_metrics(history: Sequence[MetricsRow], path: Path) -> None:
    """Write a CSV with one row for each epoch. It always has every column; a cell without a value is empty."""
    rows = pd.DataFrame(history)
    trained = [str(column) for column in rows if str(column).startswith("train_")]
    validated = [f"val_{column.removeprefix('train_')}" for column in trained]
    adversarial = ["viability_score", "discriminator_weight"] if "train_discriminator_loss" in trained else []
    columns = ["epoch", *trained, *validated, *adversarial, *RATES]
    with atomic_write(path) as file:
        rows.reindex(columns=columns).to_csv(file, index=False)


def require_finite(losses: Mapping[str, Tensor], stage: str, where: str) -> None:
    """InputError, which names the term and `where` in the training of `stage`, if a loss is NaN or infinite."""
    if torch.isfinite(torch.stack(list(losses.values()))).all():
        return
    term = next(name for name, value in losses.items() if not torch.isfinite(value))
    raise InputError(
        f"{stage}: the {term} loss is {losses[term].item()} in {where}: lower training.learning_rate "
        "(stages 1 and 2: prerequisites.stage1 or .stage2) or the term's weight and run the same command again"
    )
