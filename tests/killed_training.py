"""A tiny training of three rounds that is killed many times and must end with the same files as an undisturbed one.

    python -m tests.killed_training --kills 100                    in a local folder
    python -m tests.killed_training --kills 100 --radosgw FOLDER   in a bucket of a Ceph gateway kept in FOLDER

SIGKILL ends the process group of each start after a random time, uniform over the time that an undisturbed training
takes; then the same command is started again. A finished training is compared with the undisturbed one, file by file.
Then the next training begins in an empty root. Only kills of a training that was at work count towards `--kills`: on a
busy machine most hit one that is still starting.
"""

import argparse
import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from prefect.settings import PREFECT_API_URL

from core.config.loading import config_bytes, load_config
from core.records.artifacts import LEASE_NAME, RECORD_NAME, round_location, run_location
from core.records.record_files import read_record
from core.rounds.round import ROUND_STAGES
from core.storage.opening import open_store
from core.storage.store import join
from core.training.prerequisites import STAGES, make_prerequisite, with_prerequisites
from tests.commands import Command, run
from tests.conftest import TINY
from tests.prefect_databases import flows_server

log = logging.getLogger("tests.killed_training")

ROUNDS = 3


def ready_config(prepared: Path, folder: Path, root: str, endpoint_url: str | None = None, **values: object) -> Path:
    """Config file in `folder` of three rounds at `root`, with the prerequisites of the `prepared` config."""
    config = with_prerequisites(load_config(prepared))
    settings = {
        "prerequisites": None,
        "rounds.count": ROUNDS,
        "rounds.epochs_per_round": 2,
        "artifacts.root": root,
        "artifacts.endpoint_url": endpoint_url,
        "artifacts.cache": str(folder / "cache"),
        "artifacts.lease_seconds": 20,
    }
    path = folder / f"{abs(hash(root))}.yaml"
    path.write_bytes(config_bytes(config.with_values(settings | values)))
    return path


@contextlib.contextmanager
def prefect_server(database: Path | None = None) -> Iterator[None]:
    """A Prefect server for the trainings inside, so that none starts its own; it begins with a copy of `database`."""
    with flows_server(database):
        os.environ["PREFECT_API_URL"] = PREFECT_API_URL.value()
        try:
            yield
        finally:
            del os.environ["PREFECT_API_URL"]


def start_training(config: Path, *arguments: str) -> Command:
    """The documented command, at the head of a process group of its own."""
    return Command("flows.adversarial_training", config, *arguments)


def finished_digests(config: Path) -> dict[str, str]:
    """sha256 of every file in the records of a finished training."""
    experiment = load_config(config)
    digests = {}
    for number in range(1, ROUNDS + 1):
        for stage in ROUND_STAGES:
            location = join(round_location(experiment, number), stage)
            record = read_record(open_store(location, experiment.artifacts), RECORD_NAME)
            outputs = record["outputs"]
            open_store(location, experiment.artifacts).fetch(outputs)
            digests |= {f"round-{number}/{stage}/{name}": entry["sha256"] for name, entry in outputs.items()}
    return digests


def train_undisturbed(config: Path) -> float:
    """Seconds that the training takes when nobody kills it."""
    run("flows.adversarial_training", "--help")  # the imports that all commands share are not part of them
    started = time.monotonic()
    process = start_training(config)
    _, errors = process.communicate()
    if process.returncode != 0:
        raise AssertionError(f"the undisturbed training failed:\n{errors}")
    return time.monotonic() - started


def train_killed(config: Path, kills: int, seconds: float, rng: random.Random) -> int:
    """Number of kills, at most `kills`, until the training finished."""
    spent = 0
    while True:
        process = start_training(config)
        try:
            _, errors = process.communicate(timeout=rng.uniform(0, seconds) if spent < kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            spent += 1
            continue
        if process.returncode != 0:
            raise AssertionError(f"after {spent} kills the training failed:\n{errors}")
        return spent


def kills_at_work(config: Path) -> int:
    """How many starts of a finished training were killed while they held its lease: all that took it but the last."""
    experiment = load_config(config)
    lease = open_store(run_location(experiment), experiment.artifacts).read(LEASE_NAME)
    assert lease is not None
    return int(json.loads(lease.data)["token"]) - 1


def differences(expected: Mapping[str, str], actual: Mapping[str, str]) -> list[str]:
    """Names of files that differ between two trainings, or that only one of them has."""
    return sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--radosgw", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder, prefect_server():
        prepared = _prepare(Path(folder))
        if options.radosgw is None:
            _kill_again_and_again(options, prepared, str(Path(folder) / "artifacts"), None)
            return
        from tests.radosgw.gateway import RadosGateway

        with RadosGateway(options.radosgw) as gateway:
            os.environ |= gateway.credentials
            gateway.create_bucket("killed")
            root = f"s3://killed/{os.getpid()}"
            _kill_again_and_again(options, prepared, root, gateway.endpoint_url)


def _prepare(folder: Path) -> Path:
    """Config of the tiny experiment of the tests, with its prerequisites made in `folder`."""
    import torch
    from torchvision.models import alexnet

    from core.houses.layout_generator import write_layouts

    torch.manual_seed(0)
    torch.save(alexnet(weights=None).features.state_dict(), folder / "trunk.pt")
    manifest = write_layouts(folder / "layouts", count=12, seed=0, rooms=(1, 2))
    path = folder / "tiny.yaml"
    path.write_text(TINY.format(manifest=manifest, root=folder / "prepared", trunk=folder / "trunk.pt"))
    for stage in STAGES:
        make_prerequisite(stage, load_config(path))
    return path


def _kill_again_and_again(options: argparse.Namespace, prepared: Path, root: str, endpoint_url: str | None) -> None:
    config = ready_config(prepared, prepared.parent, f"{root}-undisturbed", endpoint_url)
    seconds = train_undisturbed(config)
    expected = finished_digests(config)
    log.info("undisturbed: %.1f s, %d files", seconds, len(expected))
    rng, at_work, spent, trainings = random.Random(options.seed), 0, 0, 0
    while at_work < options.kills:
        trainings += 1
        config = ready_config(prepared, prepared.parent, f"{root}-{trainings}", endpoint_url)
        began = time.monotonic()
        killed = train_killed(config, options.kills - at_work, seconds, rng)
        if killed == 0:
            seconds = min(
                seconds, time.monotonic() - began
            )  # the first one was slow; a kill after the end hits nothing
        spent, at_work = spent + killed, at_work + kills_at_work(config)
        wrong = differences(expected, finished_digests(config))
        if wrong:
            sys.exit(f"training {trainings} differs in {len(wrong)} files, the first is {wrong[0]}")
        log.info(
            "training %d finished after %d kills in all, %d of them at work: every file equal",
            trainings,
            spent,
            at_work,
        )
    log.info("%d kills at work, %d trainings at %s, all equal to the undisturbed one", at_work, trainings, root)


if __name__ == "__main__":
    _main()
