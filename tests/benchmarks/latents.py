"""What a full-size data set costs: memory of the batches of Stage 3, and the rate at which layouts are encoded.

    python -m tests.benchmarks.latents [--latents 216600] [--steps 48] [--layouts 8] [--workers 0 2] [--device cpu]

Batches are drawn in random order from a packed file (sparse: it takes next to no disk) through a manifest of as many
rows, whose pictures are 64 generated ones at 512x512, each row's kept as its own; then pictures until no more are kept.
It is a process of its own without a model. Encoding is measured with the autoencoder of configs/stage3, untrained, as a
whole, with a model that costs nothing (reading, turning and writing pictures), and the model alone. Prints the figures
and writes them to tests/benchmarks/latents.csv.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch

from core.checkpoints.autoencoder_sizes import build_autoencoder
from core.config.experiment import ExperimentConfig
from core.config.loading import load_config
from core.data.latents import write_packed
from core.data.layouts import CACHE_BYTES, scaled
from core.data.palette import DEFAULT_PALETTE
from core.generation.encode_layouts import encode_layouts
from core.houses.layout_generator import write_layouts
from core.inputs.tensor_files import save_tensors
from core.networks.autoencoder import Autoencoder
from core.records.workspace import Workspace
from core.training.diffusion_stage import load_splits
from tests.benchmarks.results import machine, write_results

CSV = Path(__file__).with_suffix(".csv")
_CONFIG = Path("configs/stage3/stage3_unet128_d4.yaml")
_PICTURES = 64
_BATCH = 16

Figures = dict[str, float]


def memory() -> Figures:
    """Megabytes of this process now, `RssAnon` being its own and `RssFile` mapped files, and its peak, `VmHWM`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return {name: int(values[name].split()[0]) / 1e3 for name in ("VmRSS", "RssAnon", "RssFile", "VmHWM")}


def write_data_set(folder: Path, count: int, config: ExperimentConfig) -> Path:
    """Manifest of `count` rows with a sparse packed file of as many latents."""
    pictures = pd.read_csv(write_layouts(folder / "layouts", _PICTURES, seed=0, rooms=(1, 4)))["layout_path"]
    with (folder / "latents.npy").open("wb") as file:
        write_packed([], count, config.latent_shape, file)
        file.truncate(file.tell() + 4 * count * int(np.prod(config.latent_shape)))
    number = np.arange(count)
    rows = pd.DataFrame({"layout_path": ("layouts/" + pictures).to_numpy()[number % _PICTURES], "latent_row": number})
    rows["latent_path"], rows["is_empty"] = "latents.npy", False
    rows["original_path"] = [f"layout_{index // 8:06d}.png" for index in number]
    rows.to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def draw_batches(config: ExperimentConfig, steps: int) -> Figures:
    """Megabytes over what the process had before the data set, and seconds a batch."""
    before = memory()
    began = time.perf_counter()
    data, validation = load_splits(config, with_pictures=True)
    opened = time.perf_counter() - began
    figures = {"s to open the data set": opened, "MB, peak while it is opened": memory()["VmHWM"] - before["VmRSS"]}
    size = config.training.batch_size
    count = max(1, round(size * config.training.loss.semantic_loss.batch_fraction))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    seconds, anonymous, mapped = {"latents": 0.0, "pictures": 0.0}, 0.0, 0.0
    for indices in order[: steps * size].split(size):
        began = time.perf_counter()
        data.latents.batch(indices)
        read = time.perf_counter()
        data.pictures.batch(indices[:count].tolist())
        seconds["latents"] += read - began
        seconds["pictures"] += time.perf_counter() - read
        now = memory()
        anonymous, mapped = max(anonymous, now["RssAnon"]), max(mapped, now["RssFile"])
    figures |= {f"ms a batch of {name}": 1e3 * value / steps for name, value in seconds.items()}
    figures["MB anonymous (RssAnon), peak of the steps"] = anonymous - before["RssAnon"]
    figures["MB of mapped files (RssFile), peak of the steps"] = mapped - before["RssFile"]
    for split in (data, validation):
        room = CACHE_BYTES // config.dataset.image_size**2 * len(split) // (len(data) + len(validation))
        for start in range(0, min(room, len(split)), count):
            split.pictures.batch(list(range(start, min(start + count, len(split)))))
    now = memory()
    figures["MB anonymous (RssAnon) once no more pictures are kept"] = now["RssAnon"] - before["RssAnon"]
    figures["MB in all (VmHWM), peak, target 3000"] = now["VmHWM"] - before["VmRSS"]
    return figures


def encode_rates(config: ExperimentConfig, folder: Path, workers: list[int]) -> Figures:
    """Latents a second of the model alone, of pictures alone and of both, by number of workers."""
    figures = {}
    torch.manual_seed(0)
    model = build_autoencoder(config.autoencoder, DEFAULT_PALETTE).eval()
    sizes = config.autoencoder.model_dump(exclude={"checkpoint", "frozen"})
    save_tensors({"state_dict": model.state_dict(), "config": sizes}, Path(config.autoencoder.checkpoint))
    model, views = model.to(config.training.device), np.zeros((_BATCH, *[config.dataset.image_size] * 2, 3), np.uint8)
    done, began = 0, None
    while began is None or time.perf_counter() - began < 10:
        model.encode(scaled(torch.from_numpy(views).to(config.training.device))).cpu()
        # The first one warms up.
        done, began = (done + _BATCH, began) if began else (0, time.perf_counter())
    figures["latents/s, model alone"] = done / (time.perf_counter() - began)

    def free(self: Autoencoder, rgb: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(rgb), *config.latent_shape)

    for number in workers:
        settings = config.with_values({"training.num_workers": number})
        for name, encode in (("pictures alone", free), ("as a whole", Autoencoder.encode)):
            with (
                tempfile.TemporaryDirectory(dir=folder) as out,
                Workspace(Path(out)) as workspace,
                mock.patch.object(Autoencoder, "encode", encode),
            ):
                began = time.perf_counter()
                latents = encode_layouts(settings, workspace)["latents"]
                figures[f"latents/s, {name}, {number} workers"] = latents / (time.perf_counter() - began)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.latents", description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=216_600)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--layouts", type=int, default=8, help="to encode; 0: only batches are measured")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--draw-from", help=argparse.SUPPRESS)
    options = parser.parse_args()
    config = load_config(_CONFIG, [f"training.device={options.device}", "dataset.augment=true"])
    if options.draw_from:
        config = config.with_values({"dataset.manifest": options.draw_from})
        sys.stdout.write(json.dumps(draw_batches(config, options.steps)))
        return
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        manifest = write_data_set(folder, options.latents, config)
        draw = ["tests.benchmarks.latents", f"--draw-from={manifest}", f"--steps={options.steps}"]
        drawn = subprocess.run([sys.executable, "-m", *draw], check=True, stdout=subprocess.PIPE, text=True)
        figures = json.loads(drawn.stdout)
        if options.layouts:
            layouts = write_layouts(folder / "encoded", options.layouts, seed=1, rooms=(1, 4))
            values = {"dataset.manifest": str(layouts), "autoencoder.checkpoint": str(folder / "autoencoder.pt")}
            figures |= encode_rates(config.with_values(values), folder, options.workers)
    for name, value in figures.items():
        sys.stdout.write(f"{name}: {value:.3g}\n")
    rows = [{"figure": name, "value": value} for name, value in figures.items()]
    size = {"latents": options.latents, "steps": options.steps, "layouts": options.layouts}
    write_results(CSV, rows, **size, machine=machine(options.device))


if __name__ == "__main__":
    main()
