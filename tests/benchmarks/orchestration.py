"""What Prefect adds to a round: the same rounds as a flow and by calling core directly, in turn.

    python -m tests.benchmarks.orchestration [--repetitions 3] [--epochs 30]

On the tests' tiny experiment, against a Prefect server of its own. Prints the figures and writes them to
tests/benchmarks/orchestration.csv.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from prefect.testing.utilities import prefect_test_harness

from core.config.experiment import ExperimentConfig
from core.config.loading import load_config
from core.houses.layout_generator import write_layouts
from core.rounds.close_round import close_round
from core.rounds.round import open_round
from core.rounds.run import begin_run, hold_run
from core.training.prerequisites import STAGES, make_prerequisite
from flows.adversarial_training import adversarial_training
from tasks import progress_artifact
from tasks.continue_stage3 import continue_stage3
from tasks.generate_bad_latents import generate_bad_latents
from tasks.report_round import report_round
from tasks.retrain_discriminator import retrain_discriminator
from tests.benchmarks.results import machine, write_results
from tests.conftest import TINY

CSV = Path(__file__).with_suffix(".csv")
ROUNDS = 3


def prepare(folder: Path) -> Path:
    """Config of the tiny experiment in the folder, its prerequisites made."""
    from torchvision.models import alexnet  # only once core has made its import safe

    torch.save(alexnet(weights=None).features.state_dict(), folder / "trunk.pt")
    manifest = write_layouts(folder / "layouts", count=12, seed=0, rooms=(1, 2))
    config = folder / "tiny.yaml"
    config.write_text(TINY.format(manifest=manifest, root=folder / "artifacts", trunk=folder / "trunk.pt"))
    for stage in STAGES:
        make_prerequisite(stage, load_config(config))
    return config


def by_core(config: Path, overrides: list[str]) -> None:
    """The rounds and their reports without Prefect."""
    for _ in rounds_by_core(load_config(config, overrides)):
        pass


def rounds_by_core(experiment: ExperimentConfig) -> Iterator[int]:
    """Do every round of an experiment, giving the number of each when it is done and reported."""
    with hold_run(experiment):
        begin_run(experiment)
        for number in range(1, experiment.rounds.count + 1):
            this = open_round(experiment, number)
            bad_latents = generate_bad_latents.fn(**this.bad_latents_options())
            discriminator = retrain_discriminator.fn(**this.discriminator_options())
            stage3 = continue_stage3.fn(this.config_path, recorded=True)
            close_round(this, bad_latents, discriminator, stage3, {}, seconds=0.0)
            report_round.fn(this.config_path, number)
            yield number


def by_flow(config: Path, overrides: list[str]) -> None:
    """The same as the flow does them, with runs, progress, artefacts and events on the server."""
    adversarial_training(config, overrides)


def progress_seconds(config: Path, overrides: list[str]) -> tuple[float, float]:
    """Seconds spent telling Prefect of progress, and seconds of all the stages it was told of."""
    tell, told = progress_artifact.ProgressArtifact.__call__, []

    def timed(self: progress_artifact.ProgressArtifact, *arguments: object) -> None:
        began = time.perf_counter()
        tell(self, *arguments)
        told.append(time.perf_counter() - began)

    progress_artifact.ProgressArtifact.__call__ = timed
    try:
        records = adversarial_training(config, overrides)
    finally:
        progress_artifact.ProgressArtifact.__call__ = tell
    return sum(told), sum(record["seconds"] for record in records)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.orchestration", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30, help="of Stage 3 in a round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, prefect_test_harness(server_startup_timeout=120):
        config = prepare(Path(folder))
        common = [f"rounds.count={ROUNDS}", f"rounds.epochs_per_round={options.epochs}"]
        ways: dict[str, Callable[[Path, list[str]], None]] = {"core": by_core, "flow": by_flow}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for repetition in range(options.repetitions + 1):
            for way, do in ways.items():
                began = time.perf_counter()
                do(config, [*common, f"experiment.name={way}-{repetition}"])
                if repetition > 0:  # the first is to warm up
                    seconds[way].append(time.perf_counter() - began)
        more = [f"rounds.count={ROUNDS}", f"rounds.epochs_per_round={4 * options.epochs}", "experiment.name=progress"]
        telling, stages = progress_seconds(config, more)
    added = [(flow - core) / ROUNDS for core, flow in zip(seconds["core"], seconds["flow"], strict=True)]
    figures = [
        ("a round by core", statistics.median(seconds["core"]) / ROUNDS, "s"),
        ("a round as a flow", statistics.median(seconds["flow"]) / ROUNDS, "s"),
        ("added to a round, target 3", statistics.median(added), "s"),
        ("progress reporting, target 1", 100 * telling / stages, "% of the stages' time"),
    ]
    for name, value, unit in figures:
        sys.stdout.write(f"{name}: {value:.3g} {unit}\n")
    rows = [dict(zip(("figure", "value", "unit"), figure, strict=True)) for figure in figures]
    write_results(CSV, rows, **vars(options), machine=machine())


if __name__ == "__main__":
    main()
