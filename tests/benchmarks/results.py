"""Files of figures: a row a figure, with the circumstances it was measured in."""

import csv
import os
import platform
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch


def write_results(path: Path, rows: Iterable[Mapping[str, Any]], **circumstances: Any) -> None:
    """Write a CSV file of rows with the same columns; each gets the circumstances and the date, which come last."""
    circumstances["date"] = time.strftime("%Y-%m-%d", time.gmtime())
    whole = [{**row, **circumstances} for row in rows]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(whole[0]), lineterminator="\n")
        writer.writeheader()
        for row in whole:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})


def machine(device: torch.device | str = "cpu") -> str:
    """What figures are measured on, torch's version included."""
    where = processor() if torch.device(device).type == "cpu" else torch.cuda.get_device_name(device)
    return f"{where}, torch {torch.__version__}"


def processor() -> str:
    """Number of cores and model of the CPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores {model}"
