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
_ENDS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled")}
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
                expect={_HEARTBEAT, *_ENDS},
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=SILENCE,
            ),
            actions=[ChangeFlowRunState(state="CRASHED", message="no heartbeat: the machine is gone")],
        ),
        _restart("three-rounds", deployments["three-rounds"], config=None, overrides=[], wait=False, fork_from=None),
        _restart("next-round", next_round, config=None, number=None, overrides=[], extra=False),
        _restart("prerequisites", deployments["prerequisites"], config=None, overrides=[], wait=False),
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


def _restart(name: str, deployment: UUID, **defaults: Any) -> AutomationCore:
    """Starts a crashed run of the deployment again, once, with its own parameters and how often it crashed.

    A new run: rescheduling the crashed one would let two engines do it, as both executor and worker report a death.
    """
    parameters = {key: _value(f"flow_run.parameters['{key}']", default) for key, default in defaults.items()}
    parameters["restarts"] = _value("((flow_run.parameters['restarts'] | default(0)) + 1)")
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
    """A parameter computed from the event with its type kept: a plain template would make every value a string."""
    template = f"{{{{ {expression} | default({default!r}) | tojson }}}}"
    return {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": template}}
