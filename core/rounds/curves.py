"""Curves of a run: every loss and viability by epoch, discriminator accuracy and audited viability by round."""

import io
import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from core.rounds.finished_rounds import RoundMetrics, RoundRecord

_COLUMNS = 3
_PANEL = (3.4, 2.3)  # inches
_SPLITS = {"train": "#4477aa", "val": "#cc6677"}


def draw_curves(history: pd.DataFrame, records: Sequence[RoundRecord]) -> bytes:
    """PNG of a run, from its metrics table (one row for each epoch) and the records of its rounds."""
    losses = [column.removeprefix("train_") for column in map(str, history) if column.startswith("train_")]
    rounds = [record["metrics"] for record in records]
    audited = [record for record in records if record["metrics"].get("viable") is not None]
    count = len(losses) + 2 + bool(audited)
    rows = math.ceil(count / _COLUMNS)
    figure = Figure(figsize=(_PANEL[0] * _COLUMNS, _PANEL[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    ends = [metrics["epoch"] for metrics in rounds[:-1]]
    for loss, axes in zip(losses, panels, strict=False):
        _draw_loss(axes, history, loss, ends)
    _draw_viability(panels[len(losses)], history, rounds, ends)
    _draw_accuracy(panels[len(losses) + 1], records)
    if audited:
        _draw_audit(panels[len(losses) + 2], audited)
    for axes in panels[count:]:
        axes.set_axis_off()
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=80)
    return data.getvalue()


def _draw_loss(axes: Axes, history: pd.DataFrame, loss: str, ends: Sequence[int]) -> None:
    axes.set_title(loss.replace("_", " "), fontsize=9)
    for split, colour in _SPLITS.items():
        column = f"{split}_{loss}"
        if column in history:
            known = history[["epoch", column]].dropna()
            axes.plot(known["epoch"], known[column], color=colour, marker=".", markersize=4, linewidth=1, label=split)
    axes.legend(fontsize=7, frameon=False)
    _finish(axes, "epoch", ends)


def _draw_viability(axes: Axes, history: pd.DataFrame, rounds: Sequence[RoundMetrics], ends: Sequence[int]) -> None:
    axes.set_title("viability of generated layouts", fontsize=9)
    if "viability_score" in history:
        known = history[["epoch", "viability_score"]].dropna()
        axes.plot(known["epoch"], known["viability_score"], ".", color="#999999", label="while training")
    for index, metrics in enumerate(rounds):
        epochs = [metrics["first_epoch"], metrics["epoch"]]
        scores = [metrics["viability_before"], metrics["viability_after"]]
        axes.plot(epochs, scores, color="#117733", marker="o", markersize=4, label="" if index else "a round")
    axes.set_ylim(0, 1.05)
    axes.legend(fontsize=7, frameon=False)
    _finish(axes, "epoch (each round has its own discriminator)", ends)


def _draw_accuracy(axes: Axes, records: Sequence[RoundRecord]) -> None:
    axes.set_title("discriminator validation accuracy", fontsize=9)
    numbers = [record["round"] for record in records]
    accuracies = [record["metrics"]["discriminator_val_acc"] for record in records]
    axes.plot(numbers, accuracies, color="#882255", marker="o")
    axes.set_ylim(0, 1.05)
    _finish(axes, "round", [])


def _draw_audit(axes: Axes, audited: Sequence[RoundRecord]) -> None:
    axes.set_title("share of viable layouts, by the audit", fontsize=9)
    numbers = [record["round"] for record in audited]
    shares = [viable for record in audited if (viable := record["metrics"].get("viable")) is not None]
    before = audited[0]["metrics"].get("viable_before")
    if before is not None:
        numbers, shares = [numbers[0] - 1, *numbers], [before, *shares]
    axes.plot(numbers, shares, color="#117733", marker="o")
    axes.set_ylim(0, 1.05)
    _finish(axes, "round (0: what the first started from)", [])


def _finish(axes: Axes, unit: str, ends: Sequence[int]) -> None:
    for end in ends:
        axes.axvline(end, color="#dddddd", linewidth=1, zorder=0)
    axes.set_xlabel(unit, fontsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
