"""A real Prefect server and a real process worker with all deployments, as a user runs them."""

import contextlib
import datetime
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.automations import AutomationCore
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId, LogFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.suspension import RUN_LEFT
from tests import commands
from tests.made_once import made_once
from tests.prefect_databases import OF_A_COPY, copy_database, database_with_tables
from tests.processes import descendants

_PATIENCE = 300.0
_DATABASE = "prefect.db"


@pytest.fixture(scope="module")
def prefect(tmp_path_factory) -> Iterator["Orchestration"]:
    """One server and worker for all tests of a file, with the deployments as they are when first deployed."""

    def deploy(folder: Path) -> None:
        with _server(folder, database_with_tables(tmp_path_factory)) as (_, _, environment):
            deployed = commands.run("deployments.deploy", timeout=_PATIENCE, **environment)
            assert deployed.returncode == 0, deployed.stderr

    deployed = made_once(tmp_path_factory, "prefect-deployed", deploy) / _DATABASE
    with _orchestration(tmp_path_factory.mktemp("prefect"), deployed) as running:
        yield running


class Orchestration:
    """The server at `url` with our deployments, and a worker whose processes and log can be read."""

    def __init__(
        self, url: str, environment: dict[str, str], worker: subprocess.Popen[bytes], client: SyncPrefectClient
    ):
        self.url, self.environment, self.worker, self.client = url, environment, worker, client

    def command(self, *arguments: object, timeout: float = _PATIENCE) -> subprocess.CompletedProcess[str]:
        """Run a command against this server."""
        return commands.run(*arguments, timeout=timeout, **self.environment)

    def begin(self, *arguments: object) -> commands.Command:
        """Begin a command against this server; that of a flow makes a run, in less time than the worker's engine."""
        return commands.Command(*arguments, **self.environment)

    @functools.cache  # noqa: B019
    def deployment(self, name: str) -> UUID:
        """Id of the deployment `flow/name`."""
        return self.client.read_deployment_by_name(name).id

    def start(self, deployment: str, config: Path, **parameters: Any) -> FlowRun:
        """A new run of a deployment, which the worker will start."""
        given = {"config": str(config), **parameters}
        return self.client.create_flow_run_from_deployment(self.deployment(deployment), parameters=given)

    def runs(self, deployment: str) -> list[FlowRun]:
        """Runs of a deployment, oldest first."""
        wanted = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[self.deployment(deployment)]))
        return self.client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_ASC)

    def runs_on(self, deployment: str, config: Path) -> list[FlowRun]:
        """Runs of a deployment that work on the experiment of a config."""
        return [run for run in self.runs(deployment) if run.parameters.get("config") == str(config)]

    def runs_tagged(self, config: Path, tag: str) -> list[FlowRun]:
        """Runs with that tag, on the experiment of a config, oldest first."""
        wanted = FlowRunFilter(tags={"all_": [f"experiment:{config.stem}", tag]})
        return self.client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.START_TIME_ASC)

    def begun(self, config: Path) -> list[FlowRun]:
        """Runs on the experiment of a config that no other run began, oldest first."""
        return [run for run in self.runs_tagged(config, "layouts") if run.parent_task_run_id is None]

    def finished(self, run: FlowRun, seconds: float = _PATIENCE) -> FlowRun:
        """The run once it is in a final state."""
        return self.until(lambda: self._final(run), f"{run.name} does not end", seconds)

    def until(self, happened: Callable[[], Any], otherwise: str, seconds: float = _PATIENCE, every: float = 1.2) -> Any:
        """What `happened` returns, once that is true; `every` so many seconds, as a request keeps the server busy."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := happened():
                return found
            time.sleep(every)
        raise AssertionError(f"{otherwise}\n{self.worker_log()[-4000:]}")

    def events(self, config: Path) -> list[dict[str, Any]]:
        """Events about the run of the experiment of a config, oldest first."""
        wanted = {"event": {"prefix": ["layouts."]}, "resource": {"id": [f"layouts.run.{config.stem}"]}, "order": "ASC"}
        answer = httpx.post(f"{self.url}/events/filter", json={"filter": wanted}).raise_for_status()
        return answer.json()["events"]

    def signs_of_life(self, run: FlowRun) -> list[str]:
        """Heartbeats of a run, and the event that its process has left it, in the order of their arrival."""
        wanted = {"resource": {"id": [f"prefect.flow-run.{run.id}"]}, "order": "ASC"}
        wanted["event"] = {"name": ["prefect.flow-run.heartbeat", RUN_LEFT]}
        answer = httpx.post(f"{self.url}/events/filter", json={"filter": wanted}).raise_for_status()
        return [event["event"] for event in sorted(answer.json()["events"], key=lambda event: event["received"])]

    def emit(self, event: str, run: FlowRun) -> None:
        """Send an event about one of our runs, as its engine does."""
        related = [{"prefect.resource.id": "prefect.tag.layouts", "prefect.resource.role": "tag"}]
        resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
        now = datetime.datetime.now(datetime.UTC).isoformat()
        sent = {"event": event, "resource": resource, "related": related, "occurred": now, "id": str(uuid4())}
        httpx.post(f"{self.url}/events", json=[sent]).raise_for_status()

    @contextlib.contextmanager
    def automation(self, wanted: AutomationCore) -> Iterator[None]:
        """Inside, the server has one more automation."""
        made = self.client.create_automation(wanted)
        try:
            yield
        finally:
            self.client.delete_automation(made)

    @contextlib.contextmanager
    def switched_on(self, automation: str) -> Iterator[None]:
        """Inside, an automation that is off by default is on."""
        (known,) = self.client.read_automations_by_name(automation)
        self.client.resume_automation(known.id)
        try:
            yield
        finally:
            self.client.pause_automation(known.id)

    def completed_tasks(self, config: Path, name: str) -> int:
        """How many task runs of that name completed, in all runs of the experiment of a config."""
        experiment = f"experiment:{config.stem}"
        flow_run_filter = FlowRunFilter(tags={"all_": [experiment]})
        tasks = self.client.read_task_runs(
            flow_run_filter=flow_run_filter, task_run_filter=TaskRunFilter(name={"like_": name}), limit=200
        )
        return sum(task.state is not None and task.state.is_completed() for task in tasks)

    def logs(self, *runs: FlowRun) -> str:
        """Log lines of the runs and their tasks."""
        lines = self.client.read_logs(LogFilter(flow_run_id={"any_": [run.id for run in runs]}), limit=200)
        return "\n".join(line.message for line in lines)

    def engines(self) -> list[int]:
        """Process ids of the unfinished runs that the worker started."""
        return descendants(self.worker.pid)

    def worker_log(self) -> str:
        """What the worker and its engines wrote."""
        return Path(self.environment["PREFECT_HOME"], "worker.log").read_text()

    def _final(self, run: FlowRun) -> FlowRun | None:
        there = self.client.read_flow_run(run.id)
        return there if there.state is not None and there.state.is_final() else None


@contextlib.contextmanager
def _orchestration(folder: Path, deployed: Path) -> Iterator[Orchestration]:
    """Server and worker with their data in `folder`, until the end of the block; the server begins with a copy."""
    with _server(folder, deployed) as (url, start, environment), contextlib.ExitStack() as stack:
        worker = start("worker", "worker", "start", "--pool", "layouts")
        with temporary_settings({PREFECT_API_URL: url}):  # for the client alone: other tests have servers of their own
            client = stack.enter_context(get_client(sync_client=True))
        yield Orchestration(url, environment, worker, client)


@contextlib.contextmanager
def _server(
    folder: Path, database: Path
) -> Iterator[tuple[str, Callable[..., subprocess.Popen[bytes]], dict[str, str]]]:
    """Address of a server with its data in `folder`, how to start processes that use it, and their environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",  # how soon a new schedule has runs
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
        **OF_A_COPY,
    }
    copy_database(database, folder / _DATABASE)
    with _processes(folder, os.environ | environment) as start:
        start("server", "server", "start", "--port", str(port))
        _wait_for(f"{url}/health", folder / "server.log")
        yield url, start, environment


@contextlib.contextmanager
def _processes(folder: Path, environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in reversed(started):
            for child in descendants(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            process.kill()
            process.wait()


def _wait_for(url: str, log: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url).is_success:
                return
        time.sleep(0.3)
    raise AssertionError(f"no server at {url}\n{log.read_text()[-2000:]}")
