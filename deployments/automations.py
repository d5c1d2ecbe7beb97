"""The automations of the deployments: what starts a round besides a person, and what becomes of a crashed run."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.events.actions import ChangeFlowRunState, RunDeployment

from flows.round_events import DATA_CHANGED, ROUND_COMPLETED, VIABILITY_SATURATED

# Three heartbeats, whose interval prefect.yaml sets, and as long again: a busy machine may be late.
SILENCE = timedelta(seconds=180)
# Executor and worker may both report one death.
ONE_DEATH = timedelta(minutes=5)
# Not "Crashed": on SQLite the server often fails to note an end for this trigger ("database is locked"), and then drops
# the event for all triggers, those that start a crashed run again included. What has ended is not marked as crashed.
_ENDS = ("Completed", "Failed", "Cancelled")
# No engine works on a run in these, or it waits for a person: from then on silence says nothing.
_WAITS = ("Suspended", "Paused", "Scheduled", "Late", "Pending", "AwaitingRetry", "AwaitingConcurrencySlot")
_HEARTBEAT = "prefect.flow-run.heartbeat"


def automations(deployments: Mapping[str, UUID]) -> list[AutomationCore]:
    """Every automation, for the deployments by name."""
    next_round = deployments["next-round"]
    on_event = {"config": _value("event.payload.config"), "overrides": _value("event.payload.overrides")}
    return [
        AutomationCore(
            name="layouts: notice a run whose machine is gone",
            description=f"A run silent for {SILENCE.seconds} s is marked as crashed.",
            trigger=EventTrigger(
                match={"prefect.resource.id": "prefect.flow-run.*"},
                match_related={"prefect.resource.id": "prefect.tag.layouts", "prefect.resource.role": "tag"},
                after={_HEARTBEAT},
                expect={_HEARTBEAT, *(f"prefect.flow-run.{state}" for state in (*_ENDS, *_WAITS))},
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=SILENCE,
            ),
            actions=[ChangeFlowRunState(state="CRASHED", message="no heartbeat: the machine is gone")],
        ),
        *(_restart(name, deployments[name]) for name in ("three-rounds", "next-round", "prerequisites")),
        AutomationCore(
            name="layouts: next round when viability is saturated",
            description="Bad latents are made anew and the discriminator is retrained on them.",
            trigger=_on(VIABILITY_SATURATED),
            actions=[_run(next_round, on_event)],
        ),
        AutomationCore(
            name="layouts: next round when a round is completed",
            description="Off until switched on: with it, a single next-round becomes a chain until none is due.",
            enabled=False,
            trigger=_on(ROUND_COMPLETED),
            actions=[_run(next_round, on_event)],
        ),
        AutomationCore(
            name="layouts: one more round when the data changed",
            description="watch-data tells so, once its schedule is switched on.",
            trigger=_on(DATA_CHANGED),
            actions=[_run(next_round, on_event | {"extra": True})],
        ),
    ]


def _restart(name: str, deployment: UUID) -> AutomationCore:
    """Starts a crashed run of the deployment again, once, with its own parameters and how often it crashed.

    All of its parameters: where the server refuses one, nothing is started. A new run: rescheduling the crashed one
    would let two engines do it, as both executor and worker report a death.
    """
    crashes = "(flow_run.parameters['restarts'] | default(0)) + 1"
    parameters = _computed(f"dict(flow_run.parameters, restarts={crashes})")
    return AutomationCore(
        name=f"layouts: start a crashed {name} again",
        description="It goes on where the crashed run was.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": f"prefect.deployment.{deployment}"},
            expect={"prefect.flow-run.Crashed"},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=ONE_DEATH,
        ),
        actions=[_run(deployment, parameters)],
    )


def _on(event: str) -> EventTrigger:
    return EventTrigger(
        match={"prefect.resource.id": "layouts.run.*"},
        expect={event},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def _run(deployment: UUID, parameters: Mapping[str, Any]) -> RunDeployment:
    return RunDeployment(source="selected", deployment_id=deployment, parameters=dict(parameters))


def _value(expression: str, default: Any = None) -> dict[str, Any]:
    """A parameter computed from the event with its type kept."""
    return _computed(f"{expression} | default({default!r})")


def _computed(expression: str) -> dict[str, Any]:
    """A value computed by the server: a plain template would make every one a string."""
    template = f"{{{{ ({expression}) | tojson }}}}"
    return {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": template}}
