"""What all tasks of stages share: they show progress, and are retried if that can help."""

import functools
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext

from core.runtime.errors import UnavailableError
from core.runtime.progress import watched
from tasks.progress_artifact import ProgressArtifact

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# A child of the logger `core`, so that its lines are part of a run's logs too.
log = logging.getLogger("core.tasks")

_RETRIES, _SECONDS_BETWEEN = 2, 30.0


def stage_task(name: str) -> Callable[[Callable[Parameters, Result]], Task[Parameters, Result]]:
    """`prefect.task` for a stage called `name`.

    Nothing is cached, because the records in the artefact store say what is done. Only a server that did not answer is
    worth a retry, which continues from the newest state; an error of the user's or too little memory is not.
    """

    def decorate(function: Callable[Parameters, Result]) -> Task[Parameters, Result]:
        @functools.wraps(function)
        def shown(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
            if TaskRunContext.get() is None:
                return function(*arguments, **options)
            with watched(ProgressArtifact(name)):
                return function(*arguments, **options)

        return task(
            name=name,
            cache_policy=NO_CACHE,
            retries=_RETRIES,
            retry_delay_seconds=_SECONDS_BETWEEN,
            retry_condition_fn=_is_transient,
        )(shown)

    return decorate


def _is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    if not isinstance(error, UnavailableError):
        return False
    if run.run_count <= _RETRIES:
        log.warning("%s: %s; it is tried again in %.0f s", task.name, error, _SECONDS_BETWEEN)
    return True
