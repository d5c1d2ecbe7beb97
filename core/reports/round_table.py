"""Tables of finished rounds: the one that commands print, and the rows of those in reports and cards."""

from collections.abc import Sequence

import pandas as pd

from core.rounds.finished_rounds import RoundRecord

# Column titles of tables for people, and the metrics in the columns.
METRIC_TITLES = {
    "D val acc": "discriminator_val_acc",
    "viability before": "viability_before",
    "after": "viability_after",
    "viable": "viable",
    "noise": "val_noise_loss",
    "segmentation": "val_segmentation_loss",
    "perceptual": "val_perceptual_loss",
}


ROUND_HEADER = ("round", "epochs", *METRIC_TITLES, "weight", "minutes")


def round_row(record: RoundRecord) -> list[str]:
    """The round's texts, of the columns `ROUND_HEADER`; empty where an earlier version measured nothing."""
    metrics = record["metrics"]
    figures = [metrics.get(name) for name in METRIC_TITLES.values()] + [metrics.get("discriminator_weight")]
    shown = ["" if value is None else f"{value:.4f}" for value in figures]
    epochs = f"{metrics['first_epoch'] + 1} to {metrics['epoch']}"
    return [str(record["round"]), epochs, *shown, f"{record['seconds'] / 60:.1f}"]


def round_table(records: Sequence[RoundRecord]) -> str:
    """A row for each round: its metrics, its seconds and the location of its artefacts."""
    if not records:
        return "no round is finished"
    rows = [
        {"round": record["round"], "epoch": record["metrics"]["epoch"]}
        | {title: record["metrics"].get(name) for title, name in METRIC_TITLES.items()}
        | {"seconds": record["seconds"], "artefacts": record["location"]}
        for record in records
    ]
    return pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format, na_rep="")
