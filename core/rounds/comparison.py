"""A comparison of ablations: each starts from the same checkpoint and differs from the control in one setting."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.audit.audit import LAYOUTS_NAME
from core.audit.bootstrap import Interval
from core.config.experiment import ExperimentConfig
from core.data.palette import COLORS
from core.inputs.places import Location
from core.models.pictures import save_grid
from core.records.artifacts import RECORD_NAME, ROUND_RECORD, round_location, run_location
from core.records.created_files import CreatedFiles
from core.records.stage_records import entry_of, read_record
from core.rounds.rounds import AUDIT
from core.runtime.errors import InputError
from core.runtime.escaping import write_csv
from core.runtime.files import atomic_write, require_writable
from core.runtime.seeding import derive_seed
from core.storage.opening import open_store
from core.storage.store import join

START, FIRST_AUDIT, FINAL_AUDIT = "stage2", "first_audit", "final_audit"
_RESAMPLES = 2000
# Layouts of a row of the picture.
_COLUMNS = 16
# Columns of the table for a person, and the figures in them.
_TABLE = {
    "viable": "viable",
    "frechet": "frechet_distance",
    "coverage": "coverage",
    "two-sample acc": "two_sample_accuracy",
    "memorised": "memorised",
    "noise loss": "val_noise_loss",
}


@dataclass(frozen=True)
class Ablation:
    """One training of a comparison: the ablation's name, the seed, and the config of its run."""

    name: str
    seed: int
    config: ExperimentConfig
    num_samples: int

    @property
    def final_audit(self) -> str:
        """Address of the audit of its end."""
        return join(run_location(self.config), FINAL_AUDIT)

    @property
    def first_audit(self) -> str:
        """Address of the audit of its start, of as many layouts as those of the rounds."""
        return join(run_location(self.config), FIRST_AUDIT)


def list_ablations(config: ExperimentConfig) -> list[Ablation]:
    """Every training of the comparison, seed by seed, so that a part of it already compares."""
    comparison = config.required("comparison")
    seeds = sorted({seed for ablation in comparison.ablations.values() for seed in ablation.seeds or comparison.seeds})
    ablations = []
    for seed in seeds:
        for name, ablation in comparison.ablations.items():
            if seed in (ablation.seeds or comparison.seeds):
                values = {
                    "experiment.name": f"{config.experiment.name}-{name}-{seed}",
                    "training.seed": seed,
                    "comparison": None,
                    **ablation.settings,
                }
                ablations.append(Ablation(name, seed, config.with_values(values), comparison.num_samples))
    for ablation in ablations:
        if ablation.config.training.seed != ablation.seed:
            raise InputError(
                f"comparison.ablations.{ablation.name} sets training.seed, or the whole section training: give dotted "
                "keys such as training.epochs, and the ablation's seeds as its `seeds`"
            )
        if sum(other.config.experiment.name == ablation.config.experiment.name for other in ablations) > 1:
            raise InputError(
                f"comparison.ablations.{ablation.name}: two trainings would be the run "
                f"{ablation.config.experiment.name}: give each seed once, and no ablation an experiment.name"
            )
    return ablations


def start_ablation(config: ExperimentConfig) -> Ablation:
    """What every ablation starts from, as an ablation without rounds."""
    values = {"experiment.name": f"{config.experiment.name}-{START}", "comparison": None}
    return Ablation(START, config.training.seed, config.with_values(values), config.required("comparison").num_samples)


def write_results(config: ExperimentConfig, output_dir: Location) -> str:
    """The table, after writing it, every figure and a picture as `{name}.md`, `{name}.csv` and `{name}.png`."""
    rows, folder, name = result_rows(config), Path(output_dir), config.experiment.name
    CreatedFiles(folder).declare(_result_names(config), "--output_dir")
    text = compare(config).to_string(index=False, float_format="{:.4f}".format, na_rep="")
    with atomic_write(folder / f"{name}.csv") as file:
        write_csv(rows, file, float_format="%.6g")
    with atomic_write(folder / f"{name}.md") as file:
        file.write(f"```\n{text}\n```\n".encode())
    save_grid(_pictures(config), folder / f"{name}.png", _COLUMNS)
    return text


def require_free_results(config: ExperimentConfig, output_dir: str) -> None:
    """InputError if the folder cannot be written to, or holds a file called as one of the results that is not ours."""
    require_writable(Path(output_dir))
    CreatedFiles(Path(output_dir)).require_free(_result_names(config), "--output_dir")


def _result_names(config: ExperimentConfig) -> list[str]:
    return [f"{config.experiment.name}.{kind}" for kind in ("csv", "md", "png")]


def result_rows(config: ExperimentConfig) -> pd.DataFrame:
    """A row an ablation, seed and audit that is finished: figures, intervals, noise loss, seconds."""
    start = start_ablation(config)
    audits = [(_audit_record(place), final) for place, final in ((start.first_audit, False), (start.final_audit, True))]
    rows = [_row(START, start.seed, 0, audit, {}) | {"final": final} for audit, final in audits if audit]
    for ablation in list_ablations(config):
        rows += _ablation_rows(ablation)
    return pd.DataFrame(rows)


def compare(config: ExperimentConfig) -> pd.DataFrame:
    """A row an ablation: means over its seeds, and how the share that is not viable differs from the control's.

    `fewer_failures` is 1 - failures / failures of the control with the same seeds, with a 95 % bootstrap interval that
    resamples seeds, and in each the noise seeds that both were audited with.
    """
    finished: dict[str, dict[int, np.ndarray]] = {}
    for ablation in list_ablations(config):
        if (audit := _audit_record(ablation.final_audit)) is not None:
            finished.setdefault(ablation.name, {})[ablation.seed] = _viable(audit)
    rows = result_rows(config)
    if rows.empty:
        return rows
    last = rows[rows["round"].isin([0, config.rounds.count]) & rows["final"]]
    control = finished.get(config.comparison.control, {})
    table = []
    for name, group in last.groupby("ablation", sort=False):
        row = {"ablation": name, "seeds": len(group)} | {
            title: group[figure].mean() for title, figure in _TABLE.items()
        }
        shared = sorted(control.keys() & finished.get(name, {}).keys())
        if shared and name != config.comparison.control:
            rng = np.random.default_rng(derive_seed(0, f"fewer failures {name}"))
            row |= _named("fewer_failures", fewer_failures([(finished[name][s], control[s]) for s in shared], rng))
        table.append(row | {"minutes": group["seconds"].mean() / 60})
    return pd.DataFrame(table)


def fewer_failures(pairs: Sequence[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator) -> Interval:
    """1 - failures of the ablation / failures of the control, over seeds.

    A pair says which layouts of the two are viable, bool [N] each.
    """
    failures = np.array([[1 - ablation.mean(), 1 - control.mean()] for ablation, control in pairs]).mean(axis=0)
    drawn = np.empty(_RESAMPLES)
    for index in range(_RESAMPLES):
        sums = np.zeros(2)
        for seed in rng.integers(len(pairs), size=len(pairs)):
            ablation, control = pairs[seed]
            which = rng.integers(len(ablation), size=len(ablation))
            sums += 1 - ablation[which].mean(), 1 - control[which].mean()
        drawn[index] = 1 - sums[0] / max(sums[1], 1e-9)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(1 - failures[0] / max(failures[1], 1e-9), float(low), float(high))


def _pictures(config: ExperimentConfig) -> np.ndarray:
    """uint8 [N, H, W, 3]: what the start and each finished ablation draw from the same noise, a row each."""
    first = min(ablation.seed for ablation in list_ablations(config))
    ablations = [start_ablation(config), *(ablation for ablation in list_ablations(config) if ablation.seed == first)]
    audits = [audit for ablation in ablations if (audit := _audit_record(ablation.final_audit)) is not None]
    return COLORS[np.concatenate([_layouts(audit)["classes"][:_COLUMNS] for audit in audits])]


def _ablation_rows(ablation: Ablation) -> Iterator[dict[str, Any]]:
    records = []
    for number in range(1, ablation.config.rounds.count + 1):
        location = round_location(ablation.config, number)
        record = read_record(open_store(location, ablation.config.artifacts), ROUND_RECORD)
        if record is None:
            return
        records.append(record)
        audit = _audit_record(join(location, AUDIT))
        if audit is not None:
            yield _row(ablation.name, ablation.seed, number, audit, record)
    audit = _audit_record(ablation.final_audit)
    if audit is not None:
        summed = {**records[-1], "seconds": sum(record["seconds"] for record in records)}
        yield _row(ablation.name, ablation.seed, len(records), audit, summed) | {"final": True}


def _row(name: str, seed: int, number: int, audit: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    metrics = audit["metrics"]
    figures = {}
    for figure, (low, high) in metrics["intervals"].items():
        figures |= {figure: metrics[figure], f"{figure}_low": low, f"{figure}_high": high}
    of_round = record.get("metrics", {})
    return {
        "ablation": name,
        "seed": seed,
        "round": number,
        "final": False,
        "samples": audit["settings"]["audit"]["num_samples"],
        **figures,
        "val_noise_loss": of_round.get("val_noise_loss"),
        "discriminator_val_acc": of_round.get("discriminator_val_acc"),
        "viability_after": of_round.get("viability_after"),
        "discriminator_weight": of_round.get("discriminator_weight"),
        "seconds": record.get("seconds"),
    }


def _named(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, "low": interval.low, "high": interval.high}


def _audit_record(location: str) -> dict[str, Any] | None:
    record = read_record(open_store(location), RECORD_NAME)
    return record and record | {"location": location}


def _layouts(audit: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
    location = audit["location"]
    folder = open_store(location).fetch({LAYOUTS_NAME: entry_of(audit, LAYOUTS_NAME, location)})
    with np.load(folder / LAYOUTS_NAME) as arrays:
        return dict(arrays)


def _viable(audit: Mapping[str, Any]) -> np.ndarray:
    return _layouts(audit)["viable"]
