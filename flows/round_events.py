"""The events of runs and their rounds, for which automations wait."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from prefect.events import emit_event

from core.config.experiment import ExperimentConfig
from core.inputs.locations import Location
from core.records.artifacts import REPORT_NAME, run_location
from core.rounds.finished_rounds import RoundRecord, report_of_run
from core.runtime.errors import one_line
from core.storage.store import join

ROUND_COMPLETED = "layouts.round.completed"
VIABILITY_SATURATED = "layouts.viability.saturated"
DISCRIMINATOR_TOO_EASY = "layouts.discriminator.too-easy"
DATA_CHANGED = "layouts.data.changed"
RUN_FINISHED, RUN_FAILED = "layouts.run.finished", "layouts.run.failed"
GATE_WAITING = "layouts.gate.waiting"
# Followed by the alarm's name with dashes. Every alarm that means that the model became worse is also a regression.
ALARM, REGRESSION = "layouts.alarm.", "regression"

# Documented: if viability stays above the first, it is time for new bad latents and a new discriminator; above the
# second, the discriminator no longer tells generated layouts from real ones.
SATURATED, TOO_EASY = 0.8, 0.9


def announce_round(record: RoundRecord, config: Location, overrides: Sequence[str], count: int) -> None:
    """Emit the events of a finished round, of `count` in the run.

    They say that it is finished, whether its viability is above a bound, its alarms, and whether the run is finished.
    """
    metrics = record["metrics"]
    # Records of earlier versions hold only the last score.
    floor = metrics["viability_floor"] if "viability_floor" in metrics else metrics["viability_after"]
    announce(ROUND_COMPLETED, record["experiment"], config, overrides, round=record["round"], viability=floor)
    for event, bound in ((VIABILITY_SATURATED, SATURATED), (DISCRIMINATOR_TOO_EASY, TOO_EASY)):
        if floor > bound:
            announce(event, record["experiment"], config, overrides, round=record["round"], viability=floor)

    _announce_alarms(record, config, overrides)
    if record["round"] >= count:
        text = f"{record['round']} rounds of {record['experiment']} are finished"
        figures = {"text": text, "report": report_of_run(record), "metrics": metrics}
        announce(RUN_FINISHED, record["experiment"], config, overrides, round=record["round"], **figures)


def announce_waiting(experiment: ExperimentConfig, text: str) -> None:
    """Emit the event that a run waits for a person; `text` says what for."""
    name = experiment.experiment.name
    payload = {"experiment": name, "text": f"{name}: {text}", "report": join(run_location(experiment), REPORT_NAME)}
    emit_event(GATE_WAITING, resource=_resource(name), payload=payload)


def _announce_alarms(record: RoundRecord, config: Location, overrides: Sequence[str]) -> None:
    alarms = list(zip(record.get("alarm_names", []), record.get("alarms", []), strict=False))
    alarms += [(REGRESSION, text) for text in record.get("regression", [])[:1]]
    for name, alarm in alarms:
        text = f"round {record['round']} of {record['experiment']}: {alarm}"
        figures = {"text": text, "report": report_of_run(record), "metrics": record["metrics"]}
        kind = f"{ALARM}{name.replace('_', '-')}"
        announce(kind, record["experiment"], config, overrides, round=record["round"], **figures)


@contextlib.contextmanager
def announced_failure(experiment: ExperimentConfig, config: Location, overrides: Sequence[str]) -> Iterator[None]:
    """If an error ends the block, the event that the run failed is emitted."""
    try:
        yield
    except Exception as error:
        name = experiment.experiment.name
        announce(RUN_FAILED, name, config, overrides, text=one_line(f"the run of {name} failed: {error}"))
        raise


def announce(event: str, experiment: str, config: Location, overrides: Sequence[str], **details: Any) -> None:
    """Emit an event about the run of an experiment, with the parameters that a deployment needs to continue it."""
    payload = {"experiment": experiment, "config": str(config), "overrides": list(overrides), **details}
    emit_event(event, resource=_resource(experiment), payload=payload)


def _resource(experiment: str) -> dict[str, str]:
    return {"prefect.resource.id": f"layouts.run.{experiment}"}
