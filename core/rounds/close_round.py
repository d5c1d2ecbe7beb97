"""The end of a round: its metrics, alarms, the plan for the next one, and its record."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from core.config.experiment import ExperimentConfig
from core.config.loading import config_bytes
from core.records.artifacts import CONFIG_NAME, RECORD_NAME, ROUND_RECORD
from core.records.lease import publishing_store
from core.records.provenance import code_version
from core.records.record_files import create_record, read_record, record_bytes
from core.records.stage_result import StageResult
from core.rounds.alarms import find_alarms, taught_figures
from core.rounds.finished_rounds import AuditFigures, RoundMetrics, RoundRecord
from core.rounds.planning import plan_next_round
from core.rounds.round import AUDIT, AUDIT_BEFORE, ROUND_STAGES, Round
from core.rounds.round_settings import settings_digest
from core.runtime.errors import InputError
from core.storage.store import Store, join, split_location
from core.trackers.tracking import TrackedStage, Tracking
from core.training.step_figures import COST

# Metrics of the discriminator's training; the others say what it knows of viability.
_TRAINING_METRICS = ("val_acc", "val_loss", "best_epoch")
# Metrics of the bad latents that say who is viable, and how well a critic knows.
_LABEL_METRICS = ("viable_share", "critic_auc", "critic_auc_low", "critic_auc_high", "labels_used")

log = logging.getLogger(__name__)


def close_round(
    opened: Round,
    bad_latents: StageResult,
    discriminator: StageResult,
    stage3: StageResult,
    audits: Mapping[str, StageResult],
    seconds: float,
) -> RoundRecord:
    """The record of the round, after writing it. It is written once and last: from then on the round is finished.

    Its outputs are the round's config and the records of its stages, which hold size and sha256 of every file.
    `audits` are the results of the audits, of the model before the round (only if the round has no parent) and of the
    model after it (if one is due). Alarms are in the record and are logged.
    """
    store = publishing_store(opened.location, opened.config.artifacts)
    stages = _stage_records(store, opened.location, audits)
    after = cast(AuditFigures, audits[AUDIT]["metrics"]) if AUDIT in audits else None
    before = _audit_before(opened, audits)
    metrics = _round_metrics(bad_latents, discriminator, stage3, before, after)
    config = opened.config
    taught = taught_figures(config)
    alarms = find_alarms(metrics, before, after, taught=taught, scores_teach=_scores_teach(config))
    for alarm in alarms:
        log.warning("round %d: %s", opened.number, alarm.text)
    plan = plan_next_round(opened.config.rounds, opened.number, opened.plan, alarms, metrics)
    files = {CONFIG_NAME: config_bytes(opened.config)}
    files |= {f"{stage}/{RECORD_NAME}": record_bytes(record) for stage, record in stages.items()}
    record = {
        **opened.provenance,
        "location": opened.location,
        "experiment": opened.config.experiment.name,
        "config_sha256": settings_digest(opened.provenance["settings"]),
        "seeds": {"training": opened.config.training.seed, "round": opened.seed},
        "metrics": metrics,
        "audit": after,
        "taught": taught,
        "alarms": [alarm.text for alarm in alarms],
        "alarm_names": [alarm.name for alarm in alarms],
        "regression": [alarm.text for alarm in alarms if alarm.regression or alarm.stops],
        "next": asdict(plan),
        "seconds": round(seconds, 1),
        "outputs": {name: _entry(data) for name, data in files.items()},
        "size": sum(entry["size"] for stage in stages.values() for entry in stage["outputs"].values()),
        "code": code_version(),
    }
    if after is None and before is not None:
        record["earlier_audit"] = before
    _track_audits(opened, stage3, audits)
    create_record(record, store, ROUND_RECORD)
    return cast(RoundRecord, record)


def _track_audits(opened: Round, stage3: StageResult, audits: Mapping[str, StageResult]) -> None:
    """Log the figures of the round's audits at the step at which Stage 3 began or ended."""
    # A Stage 3 of an earlier version does not say how many steps it has done.
    end = stage3["metrics"].get("step", stage3["metrics"]["epoch"])
    # At the address of Stage 3, so that both have the same axis.
    tracking = Tracking(TrackedStage(opened.config, "audit", join(opened.location, "stage3")))
    with tracking.open(end):
        # The first is of the model that a run starts from, before any step.
        for name, number, step in ((AUDIT_BEFORE, opened.number - 1, 0), (AUDIT, opened.number, end)):
            if name in audits:
                tracking.log({**audits[name]["metrics"], "round": number}, step)


def _stage_records(store: Store, location: str, audits: Mapping[str, StageResult]) -> dict[str, Mapping[str, Any]]:
    """The records of the round's stages and of the audits in its folder, by folder; InputError if one is missing."""
    places = [split_location(audit["output_dir"]) for audit in audits.values()]
    stages: dict[str, Mapping[str, Any]] = {}
    for stage in [*ROUND_STAGES, *(name for folder, name in places if folder == location)]:
        record = read_record(store.below(stage), RECORD_NAME)
        if record is None:
            raise InputError(f"{store.uri}/{stage} has lost its {RECORD_NAME}: run the same command again")
        stages[stage] = record
    return stages


def _audit_before(opened: Round, audits: Mapping[str, StageResult]) -> AuditFigures | None:
    """Figures of the model that the round started from, or of the last one before it that was audited."""
    if AUDIT_BEFORE in audits:
        return cast(AuditFigures, audits[AUDIT_BEFORE]["metrics"])
    if opened.parent is None:
        return None
    return opened.parent.get("audit") or opened.parent.get("earlier_audit")


def _round_metrics(
    bad_latents: StageResult,
    discriminator: StageResult,
    stage3: StageResult,
    before: AuditFigures | None,
    after: AuditFigures | None,
) -> RoundMetrics:
    known = {name: value for name, value in discriminator["metrics"].items() if name not in _TRAINING_METRICS}
    labels = {name: value for name, value in bad_latents["metrics"].items() if name in _LABEL_METRICS}
    made = {name: value for name, value in stage3["metrics"].items() if name not in ("step", *COST)}
    metrics = {
        "discriminator_val_acc": discriminator["metrics"]["val_acc"],
        "bad_latent_std": bad_latents["metrics"]["bad_latent_std"],
        **known,
        **labels,
        **made,
        "viable_before": before and before["viable"],
        "viable": after and after["viable"],
    }
    return cast(RoundMetrics, metrics)


def _scores_teach(config: ExperimentConfig) -> bool:
    """Whether Stage 3 learns from the discriminator's scores."""
    section = config.discriminator
    return section.weight > 0 and section.form in ("renoise", "x0_prediction", "draft_k")


def _entry(data: bytes) -> dict[str, int | str]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
