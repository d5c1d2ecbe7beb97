"""What keeping a resumable state every epoch costs the training: epochs with and without it, in turn.

    python -m tests.benchmarks.state [--config configs/scratch.yaml] [--steps 100] [--repetitions 6]

An epoch is so many optimizer steps of the noise loss on random latents of the config's size. Prints the figures and
writes them to tests/benchmarks/state.csv.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from core.config.experiment import ExperimentConfig
from core.config.loading import load_config
from core.networks.unet import build_unet
from core.records.workspace import StoredWorkspace, workspace_folder
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection
from core.training.train_state import TrainState, new_train_state
from tests.benchmarks.results import machine, write_results

CSV = Path(__file__).with_suffix(".csv")


def train_epoch(state: TrainState, config: ExperimentConfig, steps: int) -> None:
    """`steps` optimizer steps."""
    for _ in range(steps):
        latents = torch.randn(config.training.batch_size, *config.latent_shape)
        t = torch.randint(config.scheduler.num_steps, (len(latents),))
        F.mse_loss(state.unet(latents, t).sample, latents).backward()
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)


def measure(config: ExperimentConfig, steps: int, repetitions: int) -> dict[str, float]:
    """Median seconds of an epoch without and with a state, the seconds of the call, and the share it all costs."""
    state = new_train_state(build_unet(config.unet, config.latent_size), config.training, torch.device("cpu"))
    train_epoch(state, config, steps)  # to warm up, and so that the optimizer has moments
    plain, kept, calls = [], [], []
    with tempfile.TemporaryDirectory() as root:
        store = open_store(root, ArtifactsSection())
        with workspace_folder(store, Path(root)) as folder:
            workspace = StoredWorkspace(folder, store, {}, ArtifactsSection(state_minutes=0))
            for repetition in range(2 * repetitions):
                began = time.perf_counter()
                if repetition % 2:
                    workspace.keep("latest.pt", lambda: state.checkpoint(config), "an epoch")
                    calls.append(time.perf_counter() - began)
                train_epoch(state, config, steps)
                (kept if repetition % 2 else plain).append(time.perf_counter() - began)
                workspace.settle()
            size = max(file.size for file in store.files()) / 1e6
    ratios = [b / a for a, b in zip(plain, kept, strict=True)]
    return {
        "size of the state, MB": size,
        "epoch without a state, s": statistics.median(plain),
        "epoch with a state, s": statistics.median(kept),
        "inside the call, s": statistics.median(calls),
        "cost of a state, % of the epoch, target 2": 100 * (statistics.median(ratios) - 1),
        "of it inside the call, %": 100 * statistics.median(calls) / statistics.median(plain),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.state", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/scratch.yaml"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=6)
    options = parser.parse_args()
    figures = measure(load_config(options.config), options.steps, options.repetitions)
    for name, value in figures.items():
        sys.stdout.write(f"{name}: {value:.3g}\n")
    rows = [{"figure": name, "value": value} for name, value in figures.items()]
    write_results(CSV, rows, **vars(options), machine=machine())


if __name__ == "__main__":
    main()
