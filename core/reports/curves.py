"""Curves of a run: losses and viability by epoch, accuracy and audits by round; viable shares by fifths of a score."""

import io
import math
from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from core.rounds.finished_rounds import AuditFigures, RoundMetrics, RoundRecord, audit_figure

_COLUMNS = 3
_PANEL = (3.4, 2.3)  # inches
_SPLITS = {"train": "#4477aa", "val": "#cc6677"}
# Shares of good layouts that an audit finds, and how they are drawn.
_AUDITED = {"viable": ("#117733", "viable, by the audit"), "judge_sound": ("#4477aa", "sound, by the second judge")}
_FRECHET = "frechet_distance"

# Figures by the number of the round after which they were measured; 0 is what the first round started from.
AuditsByRound = Sequence[tuple[float, AuditFigures]]


def draw_curves(history: pd.DataFrame, records: Sequence[RoundRecord], audits: AuditsByRound) -> bytes:
    """PNG of a run, from its metrics table (one row for each epoch), the records of its rounds, and its audits."""
    losses = [column.removeprefix("train_") for column in map(str, history) if column.startswith("train_")]
    rounds = [record["metrics"] for record in records]
    drawn = [(record["round"], share) for record in records if (share := _drawn_share(record)) is not None]
    distances = any(_points(audits, _FRECHET))
    count = len(losses) + 2 + bool(audits or drawn) + distances
    rows = math.ceil(count / _COLUMNS)
    figure = Figure(figsize=(_PANEL[0] * _COLUMNS, _PANEL[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    ends = [metrics["epoch"] for metrics in rounds[:-1]]
    for loss, axes in zip(losses, panels, strict=False):
        _draw_loss(axes, history, loss, ends)
    _draw_viability(panels[len(losses)], history, rounds, ends)
    _draw_accuracy(panels[len(losses) + 1], records)
    if audits or drawn:
        _draw_shares(panels[len(losses) + 2], audits, drawn)
    if distances:
        _draw_distance(panels[count - 1], audits)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure_png(figure)


def draw_fifths(shares: Sequence[float]) -> bytes:
    """PNG of the share of viable latents in each fifth by a score, from the lowest; a line is the share of all."""
    figure = Figure(figsize=_PANEL, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    overall = sum(shares) / len(shares)
    axes.bar(range(1, len(shares) + 1), shares, color="#117733", width=0.7)
    axes.axhline(overall, color="#222222", linewidth=1, linestyle="--", label=f"all: {overall:.2f}")
    axes.set_title("share of viable latents", fontsize=9)
    axes.set_ylim(0, 1.05)
    axes.legend(fontsize=7, frameon=False)
    finish_panel(axes, "fifth by the discriminator's score (1: lowest)", [])
    return figure_png(figure)


def draw_strengths(audits: Sequence[tuple[float, AuditFigures]]) -> bytes:
    """PNG of the audited shares and the Fréchet distance by how far a model is from the run's start to its end."""
    figure = Figure(figsize=(_PANEL[0] * 2, _PANEL[1]), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    _draw_shares(panels[0], audits, [])
    _draw_distance(panels[1], audits)
    for axes in panels:
        axes.set_xlabel("strength (0: the run's start, 1: its end)", fontsize=7)
        axes.set_xticks([strength for strength, _ in audits])
    return figure_png(figure)


def _draw_loss(axes: Axes, history: pd.DataFrame, loss: str, ends: Sequence[int]) -> None:
    axes.set_title(loss.replace("_", " "), fontsize=9)
    for split, colour in _SPLITS.items():
        column = f"{split}_{loss}"
        if column in history:
            known = history[["epoch", column]].dropna()
            axes.plot(known["epoch"], known[column], color=colour, marker=".", markersize=4, linewidth=1, label=split)
    axes.legend(fontsize=7, frameon=False)
    finish_panel(axes, "epoch", ends)


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
    finish_panel(axes, "epoch (each round has its own discriminator)", ends)


def _draw_accuracy(axes: Axes, records: Sequence[RoundRecord]) -> None:
    axes.set_title("discriminator validation accuracy", fontsize=9)
    numbers = [record["round"] for record in records]
    accuracies = [record["metrics"]["discriminator_val_acc"] for record in records]
    axes.plot(numbers, accuracies, color="#882255", marker="o")
    axes.set_ylim(0, 1.05)
    finish_panel(axes, "round", [])


def _draw_shares(axes: Axes, audits: AuditsByRound, drawn: Sequence[tuple[int, float]]) -> None:
    axes.set_title("shares of generated layouts", fontsize=9)
    if drawn:
        label = "viable, drawn as the round starts"
        axes.plot(*zip(*drawn, strict=True), color="#aa3377", marker=".", linestyle=":", label=label)
    for name, (colour, label) in _AUDITED.items():
        _draw_figure(axes, audits, name, colour, label)
    axes.set_ylim(0, 1.05)
    axes.legend(fontsize=7, frameon=False)
    finish_panel(axes, "round (0: what the first started from)", [])


def _draw_distance(axes: Axes, audits: AuditsByRound) -> None:
    axes.set_title("Fréchet distance to real layouts", fontsize=9)
    _draw_figure(axes, audits, _FRECHET, "#882255", "by the audit")
    axes.set_ylim(bottom=0)
    finish_panel(axes, "round (0: what the first started from)", [])


def _draw_figure(axes: Axes, audits: AuditsByRound, name: str, colour: str, label: str) -> None:
    """A figure of the audits with its intervals; nothing if no audit has it."""
    points = list(_points(audits, name))
    if not points:
        return
    numbers, values, lows, highs = zip(*points, strict=True)
    axes.plot(numbers, values, color=colour, marker="o", markersize=4, label=label)
    axes.vlines(numbers, lows, highs, color=colour, alpha=0.5)


def _points(audits: AuditsByRound, name: str) -> Iterator[tuple[float, float, float, float]]:
    """Round, value and both ends of the interval (the value where one is unknown) of each audit that has the figure."""
    for number, audit in audits:
        value = audit_figure(audit, name) if name in audit["intervals"] else None
        if value is not None:
            low, high = (value if end is None else end for end in audit["intervals"][name])
            yield number, value, low, high


def _drawn_share(record: RoundRecord) -> float | None:
    return record["metrics"].get("viable_share")


def figure_png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=80)
    return data.getvalue()


def finish_panel(axes: Axes, unit: str, ends: Sequence[int]) -> None:
    """Label the horizontal axis, and draw a line at each of the `ends` of rounds."""
    for end in ends:
        axes.axvline(end, color="#dddddd", linewidth=1, zorder=0)
    axes.set_xlabel(unit, fontsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
