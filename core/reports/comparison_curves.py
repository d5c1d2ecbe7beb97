"""What the rounds of a comparison's ablations did one by one: a table and curves over rounds."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from core.config.experiment import ExperimentConfig
from core.reports.curves import figure_png, finish_panel
from core.rounds.finished_rounds import audit_figure, read_round_record

# The figure of each panel, and its title.
_PANELS = {
    "viable_share": "viable, of the latents a round draws",
    "judge_sound": "sound, by the second judge",
    "doorless": "houses without any door",
    "frechet_distance": "Fréchet distance",
    "val_noise_loss": "held-out noise loss",
    "viability_auc": "AUC of viability of the discriminator",
}
# Figures of the audit, which not every round has.
_AUDITED = ("viable", "judge_sound", "doorless", "frechet_distance", "coverage", "memorised")
_COLUMNS, _PANEL = 3, (3.6, 2.4)
_COLOURS = (
    "#999999",
    "#117733",
    "#882255",
    "#4477aa",
    "#ddaa33",
    "#cc6677",
    "#44aa99",
    "#aa4499",
    "#332288",
    "#661100",
)


def round_rows(name: str, seed: int, config: ExperimentConfig) -> list[dict[str, float | str | None]]:
    """A row for each finished round of one training: the figures of the round, and those of its audit if it had one.

    `viable_share` is of the latents that the round drew at its start, so it judges the model before the round.
    """
    rows: list[dict[str, float | str | None]] = []
    for number in range(1, config.rounds.count + 1):
        record = read_round_record(config, number)
        if record is None:
            break
        metrics, audit = record["metrics"], record.get("audit")
        row: dict[str, float | str | None] = {"ablation": name, "seed": seed, "round": number}
        row |= {"viable_share": metrics.get("viable_share"), "viability_auc": metrics.get("viability_auc")}
        row |= {"val_noise_loss": metrics.get("val_noise_loss"), "seconds": record["seconds"]}
        if audit is not None:
            row |= {figure: audit_figure(audit, figure) for figure in _AUDITED if figure in audit["intervals"]}
        rows.append(row)
    return rows


def draw_comparison(rows: pd.DataFrame) -> bytes:
    """PNG with a panel for each figure: a thin line for each seed of each ablation, a thick one for their mean."""
    shown = [name for name in _PANELS if name in rows and rows[name].notna().any()]
    height = max(1, -(-len(shown) // _COLUMNS))
    figure = Figure(figsize=(_PANEL[0] * _COLUMNS, _PANEL[1] * height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(height, _COLUMNS, squeeze=False).flat)
    for name, axes in zip(shown, panels, strict=False):
        _draw(axes, rows, name)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    if shown:
        panels[0].legend(fontsize=7, frameon=False)
    return figure_png(figure)


def _draw(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    axes.set_title(_PANELS[name], fontsize=9)
    ablations: Sequence[str] = list(dict.fromkeys(rows["ablation"]))
    for position, ablation in enumerate(ablations):
        known = rows[rows["ablation"] == ablation].dropna(subset=[name])
        colour = _COLOURS[position % len(_COLOURS)]
        for _, seed in known.groupby("seed"):
            axes.plot(seed["round"], seed[name], color=colour, linewidth=0.7, alpha=0.5)
        mean = known.groupby("round")[name].mean()
        axes.plot(mean.index, mean, color=colour, linewidth=1.8, marker=".", label=ablation)
    finish_panel(axes, "round", [])
