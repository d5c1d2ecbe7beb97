"""The curve between a run's start and its end, and beyond: audits by strength, for the report of the last round."""

from collections.abc import Sequence
from typing import cast

from core.config.experiment import ExperimentConfig
from core.records.artifacts import RECORD_NAME
from core.reports.audit_table import short
from core.rounds.finished_audits import finished_audit
from core.rounds.finished_rounds import AuditFigures, RoundRecord, audit_figure
from core.rounds.round import AUDIT_STRENGTH
from core.storage.store import join

_FIGURES = {
    "viable": "viable",
    "sound": "judge_sound",
    "doorless": "doorless",
    "Fréchet distance": "frechet_distance",
}
STRENGTH_HEADER = ("strength", *_FIGURES)

AuditsByStrength = Sequence[tuple[float, AuditFigures]]


def audits_by_strength(
    config: ExperimentConfig, record: RoundRecord, first: AuditFigures | None
) -> list[tuple[float, AuditFigures]]:
    """Strength and figures of each audited model from the run's start to the end of this round, and beyond, in order.

    `first` are the figures of what the run started from. Empty if the round audited no model at a strength.
    """
    found: dict[float, AuditFigures] = {}
    for name in record["outputs"]:
        if name.startswith(AUDIT_STRENGTH):
            folder = name.removesuffix(f"/{RECORD_NAME}")
            audit = finished_audit(join(record["location"], folder), config.artifacts)
            if audit is not None:
                figures = cast(AuditFigures, audit.record["metrics"])
                found[float(folder.removeprefix(AUDIT_STRENGTH))] = figures
    if not found:
        return []
    ends = {0.0: first, 1.0: record.get("audit")}
    known = {strength: figures for strength, figures in ends.items() if figures is not None}
    return sorted((known | found).items())


def strength_rows(audits: AuditsByStrength) -> list[list[str]]:
    """A row of texts for each audit, of the columns `STRENGTH_HEADER`: figures, with their intervals."""
    return [[f"{strength:g}", *(_cell(audit, name) for name in _FIGURES.values())] for strength, audit in audits]


def _cell(audit: AuditFigures, name: str) -> str:
    if name not in audit["intervals"]:
        return "-"
    low, high = audit["intervals"][name]
    return f"{short(audit_figure(audit, name))} ({short(low)} to {short(high)})"
