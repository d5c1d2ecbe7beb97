"""The events of rounds, for which automations wait."""

from collections.abc import Sequence
from typing import Any

from prefect.events import emit_event

from core.inputs.locations import Location
from core.rounds.finished_rounds import RoundRecord

ROUND_COMPLETED = "layouts.round.completed"
VIABILITY_SATURATED = "layouts.viability.saturated"
DISCRIMINATOR_TOO_EASY = "layouts.discriminator.too-easy"
DATA_CHANGED = "layouts.data.changed"

# Documented: if viability stays above the first, it is time for new bad latents and a new discriminator; above the
# second, the discriminator no longer tells generated layouts from real ones.
SATURATED, TOO_EASY = 0.8, 0.9


def announce_round(record: RoundRecord, config: Location, overrides: Sequence[str]) -> None:
    """Emit the events of a finished round: that it is finished, and whether its viability is above a bound."""
    metrics = record["metrics"]
    # Records of earlier versions hold only the last score.
    floor = metrics["viability_floor"] if "viability_floor" in metrics else metrics["viability_after"]
    announce(ROUND_COMPLETED, record["experiment"], config, overrides, round=record["round"], viability=floor)
    for event, bound in ((VIABILITY_SATURATED, SATURATED), (DISCRIMINATOR_TOO_EASY, TOO_EASY)):
        if floor > bound:
            announce(event, record["experiment"], config, overrides, round=record["round"], viability=floor)


def announce(event: str, experiment: str, config: Location, overrides: Sequence[str], **details: Any) -> None:
    """Emit an event about the run of an experiment, with the parameters that a deployment needs to continue it."""
    payload = {"experiment": experiment, "config": str(config), "overrides": list(overrides), **details}
    emit_event(event, resource={"prefect.resource.id": f"layouts.run.{experiment}"}, payload=payload)
