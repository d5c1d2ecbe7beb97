"""The automations of the deployments: they start rounds on events, and restart crashed runs."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.events.actions import ChangeFlowRunState, RunDeployment, SendNotification

from flows.round_events import (
    ALARM,
    DATA_CHANGED,
    GATE_WAITING,
    ROUND_COMPLETED,
    RUN_FAILED,
    RUN_FINISHED,
    VIABILITY_SATURATED,
)
from flows.suspension import RUN_LEFT

# Three heartbeats at the interval in prefect.yaml, twice over, because a busy machine may be late.
SILENCE = timedelta(seconds=180)
# The executor and the worker may both report the same crash.
ONE_DEATH = timedelta(minutes=5)
# Without "Crashed": on SQLite the server often fails to record an end for this trigger ("database is locked"). It then
# drops the event for all triggers, also for those that restart a crashed run. A run that has ended is not marked as
# crashed anyway.
_ENDS = ("Completed", "Failed", "Cancelled")
# In these states no engine works on the run, or it waits for a person, so it sends no heartbeats.
_WAITS = ("Suspended", "Paused", "Scheduled", "Late", "Pending", "AwaitingRetry", "AwaitingConcurrencySlot")
# The user's notification block, of any kind.
NOTIFY_BLOCK = "notify"
_HEARTBEAT = "prefect.flow-run.heartbeat"


def automations(deployments: Mapping[str, UUID]) -> list[AutomationCore]:
    """Every automation, for the deployments by name."""
    next_round = deployments["next-round"]
    on_event = {"config": _value("event.payload.config"), "overrides": _value("event.payload.overrides")}
    return [
        AutomationCore(
            name="layouts: notice a run whose machine is gone",
            description=f"A run without a heartbeat for {SILENCE.seconds} s is marked as crashed.",
            trigger=EventTrigger(
                match={"prefect.resource.id": "prefect.flow-run.*"},
                match_related={"prefect.resource.id": "prefect.tag.layouts", "prefect.resource.role": "tag"},
                after={_HEARTBEAT},
                expect={_HEARTBEAT, RUN_LEFT, *(f"prefect.flow-run.{state}" for state in (*_ENDS, *_WAITS))},
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
            description="It generates new bad latents and retrains the discriminator on them.",
            trigger=_on(VIABILITY_SATURATED),
            actions=[_run(next_round, on_event)],
        ),
        AutomationCore(
            name="layouts: next round when a round is completed",
            description="Off by default. If on, each round starts the next one until none is due.",
            enabled=False,
            trigger=_on(ROUND_COMPLETED),
            actions=[_run(next_round, on_event)],
        ),
        AutomationCore(
            name="layouts: one more round when the data changed",
            description="watch-data sends the event, if its schedule is on.",
            trigger=_on(DATA_CHANGED),
            actions=[_run(next_round, on_event | {"extra": True})],
        ),
    ]


def notifications(block: UUID) -> list[AutomationCore]:
    """The automations that send messages by a notification block, all off by default."""
    wanted = {"an alarm": f"{ALARM}*", "a finished run": RUN_FINISHED, "a failed run": RUN_FAILED}
    wanted["a run that waits for a person"] = GATE_WAITING
    body = "{{ event.payload.text }}{% if event.payload.report %}\nReport: {{ event.payload.report }}{% endif %}"
    return [
        AutomationCore(
            name=f"layouts: notify of {what}",
            description=f"Off by default. If on, the block {NOTIFY_BLOCK} sends a message.",
            enabled=False,
            trigger=_on(event),
            actions=[
                SendNotification(
                    block_document_id=block, subject="{{ event.payload.experiment }}: {{ event.event }}", body=body
                )
            ],
        )
        for what, event in wanted.items()
    ]


def _restart(name: str, deployment: UUID) -> AutomationCore:
    """The automation that restarts a crashed run of the deployment, with its parameters and the number of its crashes.

    It passes all parameters on, because the server starts nothing if it refuses one. It starts a new run: two engines
    could take up the crashed one if it were rescheduled, because both the executor and the worker report a crash.
    """
    crashes = "(flow_run.parameters['restarts'] | default(0)) + 1"
    parameters = _computed(f"dict(flow_run.parameters, restarts={crashes})")
    return AutomationCore(
        name=f"layouts: start a crashed {name} again",
        description="The new run continues where the crashed one stopped.",
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
    """A parameter that the server computes from the event; it keeps its type."""
    return _computed(f"{expression} | default({default!r})")


def _computed(expression: str) -> dict[str, Any]:
    """A value that the server computes. A plain template would turn every value into a string."""
    template = f"{{{{ ({expression}) | tojson }}}}"
    return {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": template}}
