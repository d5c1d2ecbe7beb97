"""Names and tags of the runs in Prefect's UI."""

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from core.config.experiment import ExperimentConfig


def label_run(experiment: ExperimentConfig, what: str, *more_tags: str) -> None:
    """Name the current flow run `{experiment} · {what}` and tag it with the experiment.

    Its tasks get no tags: for each tagged task Prefect asks its server for a slot of the tags' concurrency limits,
    which takes longer than everything else that it does for the task.
    """
    name, context = experiment.experiment.name, FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        tags = {*context.flow_run.tags, "layouts", f"experiment:{name}", *more_tags}
        with get_client(sync_client=True) as client:
            client.update_flow_run(context.flow_run.id, name=f"{name} · {what}", tags=sorted(tags))
