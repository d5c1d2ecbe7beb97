"""Names and tags under which Prefect's UI shows the runs."""

import contextlib
from collections.abc import Iterator

from prefect import tags
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from core.config import ExperimentConfig


@contextlib.contextmanager
def labelled(experiment: ExperimentConfig, what: str, *more_tags: str) -> Iterator[None]:
    """Call the current flow run `{experiment} · {what}` and tag it, and every run started inside, by experiment."""
    name = experiment.experiment.name
    context = FlowRunContext.get()
    with tags("layouts", f"experiment:{name}", *more_tags) as current:
        if context is not None and context.flow_run is not None:
            with get_client(sync_client=True) as client:
                client.update_flow_run(
                    context.flow_run.id, name=f"{name} · {what}", tags=sorted({*context.flow_run.tags, *current})
                )
        yield
