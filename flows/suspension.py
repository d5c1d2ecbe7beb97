"""Runs that wait: for a person's answer, or because somebody suspended them."""

import atexit
import contextlib
import datetime
from collections.abc import Callable, Iterator
from typing import TypeVar
from uuid import UUID, uuid4

import httpx
from prefect import pause_flow_run, suspend_flow_run
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.input import RunInput

Answer = TypeVar("Answer", bound=RunInput)

# The last event of a run whose process ends because the run is suspended; automations take it for its end.
RUN_LEFT = "layouts.flow-run.left"
# Prefect needs a limit. A run without an answer fails then, and asks again when it is started again.
_WAIT_SECONDS = 30 * 24 * 3600
_POLL_SECONDS = 5


def ask_person(question: type[Answer], key: str, announce: Callable[[], None]) -> Answer:
    """A person's answer in Prefect's UI. A question of the run with the same `key` is asked, and announced, once.

    A run of a deployment is suspended meanwhile: its process ends, a worker starts another when the answer is there,
    and that one gets it here. A run that a command began waits in its process, as nobody else would go on with it.
    """
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None:
        try:
            return suspend_flow_run(wait_for_input=question, timeout=_WAIT_SECONDS, key=key)
        except Pause:  # not if the answer is there
            announce()
            raise
    announce()
    return pause_flow_run(wait_for_input=question, timeout=_WAIT_SECONDS, poll_interval=_POLL_SECONDS, key=key)


@contextlib.contextmanager
def suspendable() -> Iterator[None]:
    """If the run is suspended inside, `RUN_LEFT` is its last event, after its last heartbeat.

    A heartbeat that comes after the news that the run is suspended would be taken for a sign of life, and the silence
    after it for a crash.
    """
    try:
        yield
    except Pause:
        context = FlowRunContext.get()
        if context is not None and context.flow_run is not None:
            # The engine sends heartbeats until this process ends, and Prefect's queue of events is empty by then.
            atexit.register(_send_left, context.flow_run.id)
        raise


def _send_left(flow_run: UUID) -> None:
    event = {
        "id": str(uuid4()),
        "event": RUN_LEFT,
        "occurred": datetime.datetime.now(datetime.UTC).isoformat(),
        "resource": {"prefect.resource.id": f"prefect.flow-run.{flow_run}"},
        "related": [{"prefect.resource.id": "prefect.tag.layouts", "prefect.resource.role": "tag"}],
    }
    # Without it the run may be started again once more than needed, which does no harm.
    with contextlib.suppress(httpx.HTTPError, OSError), get_client(sync_client=True) as client:
        client.request("POST", "/events", json=[event])
