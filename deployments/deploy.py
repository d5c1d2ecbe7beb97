"""Register what this folder describes with a Prefect server (PREFECT_API_URL, or the local one); print what changed.

    python -m deployments.deploy [--directory FOLDER]

May be repeated: an existing work pool, concurrency limit, deployment or automation is updated. What was switched on or
off on the server stays so, and the limit `gpu` keeps its number of slots.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.automations import AutomationCore
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import (
    PREFECT_API_URL,
    load_current_profile,
    temporary_settings,
    update_current_profile,
)

from core.runtime.errors import InputError
from deployments.automations import NOTIFY_BLOCK, automations, notifications
from flows.gpu_slot import GPU_LIMIT
from flows.prefect_api import configured_server, require_server, server_errors
from tasks.command_line import run_command, say

WORK_POOL = "layouts"
LOCAL_SERVER = "http://127.0.0.1:4200/api"
_FILE = Path(__file__).with_name("prefect.yaml")
_ROOT = _FILE.parent.parent
_COMPARED = {"entrypoint", "path", "pull_steps", "parameters", "job_variables", "tags", "description", "work_pool_name"}


def deploy(directory: str = str(_ROOT)) -> None:
    """Register work pool, concurrency limit, deployments and automations with the Prefect server.

    `directory` is the project's folder on the machine of the worker, or in its image.
    """
    url = configured_server() or LOCAL_SERVER
    require_server(url)
    with temporary_settings({PREFECT_API_URL: url}), server_errors(), get_client(sync_client=True) as client:
        block = _notification_block(client)
        steps = [_address(url), _work_pool(client), _gpu_limit(client), _deployments(client, directory)]
        changes = [change for step in [*steps, _automations(client, block)] for change in step]
    say(f"{url}: {', '.join(changes) if changes else 'nothing to change'}")
    if block is None:
        say(f"nobody is told of alarms: create a notification block called {NOTIFY_BLOCK} and repeat this")


def _address(url: str) -> Iterator[str]:
    """Set PREFECT_API_URL in the user's profile, so that workers and later commands find the local server."""
    profile = load_current_profile()
    if not os.environ.get("PREFECT_API_URL") and not profile.settings.get(PREFECT_API_URL):
        update_current_profile({PREFECT_API_URL: url})
        yield f"PREFECT_API_URL set in profile {profile.name}"


def _work_pool(client: SyncPrefectClient) -> Iterator[str]:
    try:
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
    except ObjectAlreadyExists:
        return
    yield f"work pool {WORK_POOL} created"


def _gpu_limit(client: SyncPrefectClient) -> Iterator[str]:
    if GPU_LIMIT not in {limit.name for limit in client.read_global_concurrency_limits(limit=200)}:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU_LIMIT, limit=1))
        yield f"concurrency limit {GPU_LIMIT} created with 1 slot"


def _deployments(client: SyncPrefectClient, directory: str) -> Iterator[str]:
    before = _ours(client)
    described = yaml.safe_load(_FILE.read_text())
    described["pull"] = [{"prefect.deployments.steps.set_working_directory": {"directory": directory}}]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(described, file)
        file.flush()
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", file.name]
        environment = os.environ | {"PREFECT_API_URL": str(client.api_url)}
        done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise InputError(f"{_FILE.name} cannot be deployed: {' '.join((done.stdout + done.stderr).split())[-400:]}")
    for deployment in _ours(client).values():
        _refuse_unknown_parameters(client, deployment)
    for name, deployment in _ours(client).items():
        known = before.get(name)
        if known is None:
            yield f"deployment {name} created"
            continue
        switched = {schedule.slug: schedule.active for schedule in known.schedules}
        for schedule in deployment.schedules:
            if schedule.active != switched.get(schedule.slug, schedule.active):
                client.update_deployment_schedule(deployment.id, schedule.id, active=switched[schedule.slug])
        if _described(known) != _described(deployment):
            yield f"deployment {name} updated"


def _refuse_unknown_parameters(client: SyncPrefectClient, deployment: DeploymentResponse) -> None:
    """Make the server refuse a run with a misspelt parameter; otherwise the run starts and then crashes."""
    schema = {**(deployment.parameter_openapi_schema or {}), "additionalProperties": False}
    wanted = DeploymentUpdate(parameter_openapi_schema=schema, enforce_parameter_schema=True)
    client.update_deployment(deployment.id, wanted)


def _automations(client: SyncPrefectClient, block: UUID | None) -> Iterator[str]:
    ids = {name: deployment.id for name, deployment in _ours(client).items()}
    known = {automation.name: automation for automation in client.read_automations()}
    for wanted in [*automations(ids), *(notifications(block) if block else [])]:
        existing = known.get(wanted.name)
        if existing is None:
            client.create_automation(wanted)
            yield f"automation '{wanted.name}' created"
        elif _content(existing) != _content(wanted):
            client.update_automation(existing.id, wanted.model_copy(update={"enabled": existing.enabled}))
            yield f"automation '{wanted.name}' updated"


def _notification_block(client: SyncPrefectClient) -> UUID | None:
    """Id of the user's block that sends messages; None if there is none of this name, or it cannot send any."""
    for block in client.read_block_documents(include_secrets=False):
        if block.name == NOTIFY_BLOCK and "notify" in (block.block_schema.capabilities if block.block_schema else []):
            return block.id
    return None


def _ours(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    return {
        deployment.name: deployment
        for deployment in client.read_deployments(limit=200)
        if deployment.work_pool_name == WORK_POOL
    }


def _described(deployment: DeploymentResponse) -> dict[str, Any]:
    return deployment.model_dump(mode="json", include=_COMPARED) | {"schema": deployment.parameter_openapi_schema}


def _content(automation: AutomationCore) -> dict[str, Any]:
    content = automation.model_dump(mode="json", include={"description", "trigger", "actions"})
    for part in [content["trigger"], *content["actions"]]:
        part.pop("id", None)
    return {key: _without_order(inner) for key, inner in content.items()}


def _without_order(value: Any) -> Any:
    """The value with its lists sorted: the server returns sets as lists in any order."""
    if isinstance(value, dict):
        return {key: _without_order(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return sorted((_without_order(inner) for inner in value), key=repr)
    return value


if __name__ == "__main__":
    run_command(deploy)
