"""A comparison of ablations: each starts from the same checkpoint and differs from the control in one setting."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.audit.bootstrap import Interval
from core.config.experiment import ExperimentConfig
from core.config.round_sections import ComparisonSection
from core.data.palette_file import read_palette
from core.inputs.locations import Location
from core.models.pictures import save_grid
from core.records.artifacts import round_location, run_location
from core.records.created_files import CreatedFiles
from core.reports.comparison_curves import draw_comparison, round_rows
from core.rounds.finished_audits import FinishedAudit, finished_audit
from core.rounds.finished_rounds import RoundMetrics, read_round_record
from core.rounds.round import AUDIT
from core.runtime.errors import InputError
from core.runtime.escaping import write_csv
from core.runtime.files import atomic_write, require_writable
from core.runtime.seeding import derive_seed
from core.storage.store import join

START, FIRST_AUDIT, FINAL_AUDIT = "stage2", "first_audit", "final_audit"
_RESAMPLES = 2000
# Layouts in a row of the picture.
_COLUMNS = 16
# Column titles of the table, and the figures in the columns.
_TABLE = {
    "viable": "viable",
    "sound": "judge_sound",
    "doorless": "doorless",
    "frechet": "frechet_distance",
    "coverage": "coverage",
    "two-sample acc": "two_sample_accuracy",
    "memorised": "memorised",
    "noise loss": "val_noise_loss",
}


@dataclass(frozen=True)
class Ablation:
    """One training of a comparison: the ablation's name, the seed, the config of its run, layouts in its last audit."""

    name: str
    seed: int
    config: ExperimentConfig
    num_samples: int

    @property
    def final_audit(self) -> str:
        """Address of the audit of the model after its last round."""
        return join(run_location(self.config), FINAL_AUDIT)

    @property
    def first_audit(self) -> str:
        """Address of the audit of the model it starts from, on as many layouts as the audits of the rounds."""
        return join(run_location(self.config), FIRST_AUDIT)


def list_ablations(config: ExperimentConfig) -> list[Ablation]:
    """Every training of the comparison, seed by seed: if some are missing, the finished ones can still be compared.

    Raises InputError if an ablation sets the seed of its trainings, or if two trainings would be the same run.
    """
    comparison: ComparisonSection = config.required("comparison")
    seeds = {name: ablation.seeds or comparison.seeds for name, ablation in comparison.ablations.items()}
    ablations = []
    for seed in sorted({seed for own in seeds.values() for seed in own}):
        for name, ablation in comparison.ablations.items():
            if seed in seeds[name]:
                values = {
                    "experiment.name": f"{config.experiment.name}-{name}-{seed}",
                    "training.seed": seed,
                    "comparison": None,
                    **ablation.settings,
                }
                ablations.append(Ablation(name, seed, config.with_values(values), comparison.num_samples))
    _refuse_shared_runs(ablations)
    return ablations


def _refuse_shared_runs(ablations: Sequence[Ablation]) -> None:
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


def start_ablation(config: ExperimentConfig) -> Ablation:
    """The Stage 2 model that every ablation starts from, as an ablation without rounds."""
    values = {"experiment.name": f"{config.experiment.name}-{START}", "comparison": None}
    return Ablation(START, config.training.seed, config.with_values(values), config.required("comparison").num_samples)


def write_results(config: ExperimentConfig, output_dir: Location) -> str:
    """The table of the comparison, after writing it to `output_dir` as `{name}.md`.

    `{name}.csv` has all figures of all audits, `{name}.png` what each ablation draws, `{name}_rounds.csv` and
    `{name}_rounds.png` the figures of each round.
    """
    rows, folder, name = result_rows(config), Path(output_dir), config.experiment.name
    CreatedFiles(folder).declare(_result_names(config), "--output_dir")
    text = compare(config).to_string(index=False, float_format="{:.4f}".format, na_rep="")
    with atomic_write(folder / f"{name}.csv") as file:
        write_csv(rows, file, float_format="%.6g")
    with atomic_write(folder / f"{name}.md") as file:
        file.write(f"```\n{text}\n```\n".encode())
    save_grid(_pictures(config), folder / f"{name}.png", _COLUMNS)
    trained = list_ablations(config)
    by_round = pd.DataFrame([row for one in trained for row in round_rows(one.name, one.seed, one.config)])
    with atomic_write(folder / f"{name}_rounds.csv") as file:
        write_csv(by_round, file, float_format="%.6g")
    with atomic_write(folder / f"{name}_rounds.png") as file:
        file.write(draw_comparison(by_round))
    return text


def require_free_results(config: ExperimentConfig, output_dir: Location) -> None:
    """InputError if the folder cannot be written to, or holds a file of the user's with the name of a result."""
    require_writable(Path(output_dir))
    CreatedFiles(Path(output_dir)).require_free(_result_names(config), "--output_dir")


def _result_names(config: ExperimentConfig) -> list[str]:
    name = config.experiment.name
    return [*(f"{name}.{kind}" for kind in ("csv", "md", "png")), f"{name}_rounds.csv", f"{name}_rounds.png"]


def result_rows(config: ExperimentConfig) -> pd.DataFrame:
    """A row for each finished audit of each ablation and seed: figures, intervals, noise loss, seconds."""
    start = start_ablation(config)
    rows = []
    for place, final in ((start.first_audit, False), (start.final_audit, True)):
        if (audit := finished_audit(place, config.artifacts)) is not None:
            rows.append(_row(START, start.seed, 0, audit) | {"final": final})
    for ablation in list_ablations(config):
        rows += _ablation_rows(ablation)
    return pd.DataFrame(rows)


def compare(config: ExperimentConfig) -> pd.DataFrame:
    """A row for each ablation: means over its seeds, and its share of failures relative to the control's.

    `fewer_failures` is 1 - failures / failures of the control with the same seeds, with a 95 % bootstrap interval that
    resamples seeds and, within each seed, the noise seeds that both were audited with.
    """
    comparison: ComparisonSection = config.required("comparison")
    finished: dict[str, dict[int, np.ndarray]] = {}
    for ablation in list_ablations(config):
        if (audit := finished_audit(ablation.final_audit, ablation.config.artifacts)) is not None:
            finished.setdefault(ablation.name, {})[ablation.seed] = audit.layouts(config.artifacts)["viable"]
    rows = result_rows(config)
    if rows.empty:
        return rows
    last = rows[rows["final"]]
    control = finished.get(comparison.control, {})
    table = []
    for key, group in last.groupby("ablation", sort=False):
        name = str(key)
        row = {"ablation": name, "seeds": len(group)} | {
            title: group[figure].mean() for title, figure in _TABLE.items() if figure in group
        }
        shared = sorted(control.keys() & finished.get(name, {}).keys())
        if shared and name != comparison.control:
            rng = np.random.default_rng(derive_seed(0, f"fewer failures {name}"))
            row |= _named("fewer_failures", fewer_failures([(finished[name][s], control[s]) for s in shared], rng))
        table.append(row | {"minutes": group["seconds"].mean() / 60})
    return pd.DataFrame(table)


def fewer_failures(pairs: Sequence[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator) -> Interval:
    """1 - failures of the ablation / failures of the control, over seeds, with a 95 % bootstrap interval.

    Each pair is one seed: which layouts of the ablation and of the control are viable, bool [N] each.
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
    """uint8 [N, H, W, 3]: what the start and each finished ablation draw from the same noise, one row for each."""
    first = min(ablation.seed for ablation in list_ablations(config))
    ablations = [start_ablation(config), *(ablation for ablation in list_ablations(config) if ablation.seed == first)]
    found = [finished_audit(ablation.final_audit, config.artifacts) for ablation in ablations]
    layouts = [audit.layouts(config.artifacts)["classes"][:_COLUMNS] for audit in found if audit is not None]
    pictures: np.ndarray = read_palette(config).rgb_from_classes(np.concatenate(layouts))
    return pictures


def _ablation_rows(ablation: Ablation) -> Iterator[dict[str, Any]]:
    records = []
    for number in range(1, ablation.config.rounds.count + 1):
        record = read_round_record(ablation.config, number)
        if record is None:
            return
        records.append(record)
        audit = finished_audit(join(round_location(ablation.config, number), AUDIT), ablation.config.artifacts)
        if audit is not None:
            yield _row(ablation.name, ablation.seed, number, audit, record["metrics"], record["seconds"])
    audit = finished_audit(ablation.final_audit, ablation.config.artifacts)
    if audit is not None:
        seconds = sum(record["seconds"] for record in records)
        row = _row(ablation.name, ablation.seed, len(records), audit, records[-1]["metrics"], seconds)
        yield row | {"final": True}


def _row(
    name: str,
    seed: int,
    number: int,
    audit: FinishedAudit,
    round_metrics: RoundMetrics | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    metrics = audit.record["metrics"]
    figures: dict[str, float | None] = {}
    for figure, (low, high) in metrics["intervals"].items():
        figures |= {figure: metrics[figure], f"{figure}_low": low, f"{figure}_high": high}
    of_round: Mapping[str, Any] = round_metrics or {}
    return {
        "ablation": name,
        "seed": seed,
        "round": number,
        "final": False,
        "samples": audit.record["settings"]["audit"]["num_samples"],
        **figures,
        "val_noise_loss": of_round.get("val_noise_loss"),
        "discriminator_val_acc": of_round.get("discriminator_val_acc"),
        "viability_after": of_round.get("viability_after"),
        "discriminator_weight": of_round.get("discriminator_weight"),
        "seconds": seconds,
    }


def _named(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, "low": interval.low, "high": interval.high}
