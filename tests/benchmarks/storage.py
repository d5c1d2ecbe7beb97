"""How fast and how lean the S3 store is beside plain boto3, on a radosgw of its own or on a server you name.

    python -m tests.benchmarks.storage [--endpoint-url URL --bucket NAME] [--megabytes 700] [--repetitions 5]

Plain and store alternate, so that both meet the same noise. The store's times include all hashing. Prints the figures
and writes them to tests/benchmarks/storage.csv.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import botocore
import s3transfer
from botocore.config import Config

from core.reports.round_table import METRIC_TITLES
from core.reports.run_status import read_status
from core.runtime.files import Entry
from core.storage.opening import open_store
from core.storage.s3.transfer import transfer_config
from core.storage.store import ArtifactsSection, Store
from tests.benchmarks.results import processor, write_results
from tests.radosgw.gateway import RadosGateway

CSV = Path(__file__).with_suffix(".csv")
_PREFIX = "benchmark"
_CHUNK = 2**22


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    unit: str


@dataclass(frozen=True)
class Bench:
    """Where and how much is measured."""

    endpoint: str
    bucket: str
    folder: Path
    megabytes: int
    repetitions: int

    def store(self, cache: Path) -> Store:
        artifacts = ArtifactsSection(endpoint_url=self.endpoint, cache=str(cache))
        return open_store(f"s3://{self.bucket}/{_PREFIX}", artifacts)

    def client(self) -> Any:
        options = Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return boto3.client("s3", "us-east-1", endpoint_url=self.endpoint, config=options)

    @property
    def source(self) -> Path:
        return self.folder / "source.bin"


# --- the four transfers; each starts from nothing stored or nothing cached


def plain_upload(bench: Bench) -> None:
    key = f"{_PREFIX}/{bench.source.name}"
    bench.client().upload_file(str(bench.source), bench.bucket, key, Config=transfer_config())


def plain_download(bench: Bench) -> None:
    key = f"{_PREFIX}/{bench.source.name}"
    bench.client().download_file(bench.bucket, key, str(bench.folder / "plain.bin"), Config=transfer_config())


def store_upload(bench: Bench) -> None:
    bench.store(bench.folder / "cache").upload(bench.folder, [bench.source.name])


def store_download(bench: Bench) -> None:
    bench.store(bench.folder / "cache").fetch({bench.source.name: recorded(bench)})


TRANSFERS: dict[str, Callable[[Bench], None]] = {
    "upload plain": plain_upload,
    "upload store": store_upload,
    "download plain": plain_download,
    "download store": store_download,
}


def recorded(bench: Bench) -> Entry:
    size, sha256 = (bench.folder / "recorded").read_text().split()
    return {"size": int(size), "sha256": sha256}


def prepare(bench: Bench, transfer: str) -> None:
    """Remove what an earlier transfer left, digests that are remembered too, and let the disk come to rest."""
    if transfer.startswith("upload"):
        bench.client().delete_object(Bucket=bench.bucket, Key=f"{_PREFIX}/{bench.source.name}")
    for path in [
        bench.folder / "plain.bin",
        *bench.folder.glob("cache/sha256/*/*"),
        *bench.folder.glob("cache/views/*/*/*"),
    ]:
        path.unlink(missing_ok=True)
    bench.source.touch()  # a file that was not touched is not hashed again
    os.sync()


# --- what is measured; a measurement is a function from a bench to figures, named in MEASUREMENTS


def speeds(bench: Bench) -> Iterator[Figure]:
    """Median MB/s of each transfer, and of the ratios of neighbouring repetitions."""
    seconds: dict[str, list[float]] = {name: [] for name in TRANSFERS}
    for repetition in range(bench.repetitions + 1):
        for name in TRANSFERS:
            prepare(bench, name)
            began = time.perf_counter()
            TRANSFERS[name](bench)
            if repetition > 0:  # the first is to warm up
                seconds[name].append(time.perf_counter() - began)
    for name, taken in seconds.items():
        yield Figure(f"{name} speed", bench.megabytes / statistics.median(taken), "MB/s")
    for direction in ("upload", "download"):
        plain, store = seconds[f"{direction} plain"], seconds[f"{direction} store"]
        ratio = statistics.median(plain) / statistics.median(store)
        yield Figure(f"{direction} speed of the store over plain, target 0.9", ratio, "ratio")
        worst = min(a / b for a, b in zip(plain, store, strict=True))
        yield Figure(f"{direction} speed of the store over plain, worst repetition", worst, "ratio")


def memory(bench: Bench) -> Iterator[Figure]:
    """Peak memory of each transfer over the idle process, each in a process of its own."""
    for name in TRANSFERS:
        prepare(bench, name)
        command = [sys.executable, "-m", "tests.benchmarks.storage", "--peak-of", name, "--folder", str(bench.folder)]
        command += ["--endpoint-url", bench.endpoint, "--bucket", bench.bucket]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        yield Figure(f"{name} peak memory over idle, target 200", float(printed), "MB")


def status(bench: Bench) -> Iterator[Figure]:
    """Seconds that the status of a run of fifty finished rounds takes, on the server and in a folder."""
    for where, root in (("server", f"s3://{bench.bucket}/status"), ("folder", str(bench.folder / "status"))):
        run = open_store(f"{root}/long", ArtifactsSection(endpoint_url=bench.endpoint))
        run.create("run.json", json.dumps({"experiment": "long", "parent": None}).encode())
        run.create("config.yaml", b"rounds: {count: 50}")
        outputs = {name: {"size": 1, "sha256": "0" * 64} for name in ("config.yaml", "stage3/stage.json")}
        metrics = dict.fromkeys(METRIC_TITLES.values(), 0.5)
        for number in range(1, 51):
            record = {"metrics": {**metrics, "epoch": number}, "seconds": 1.0, "size": 10**9, "outputs": outputs}
            # Settings and versions make a real record about this long.
            record["settings"] = {f"section.key_{index}": "value" for index in range(150)}
            run.create(f"round-{number:02d}/round.json", json.dumps(record).encode())
        began = time.perf_counter()
        shown = read_status(root, ArtifactsSection()).text
        seconds = time.perf_counter() - began
        if shown.count("finished") < 50:
            raise AssertionError(shown)
        yield Figure(f"status of 50 rounds on the {where}, target 2", seconds, "s")


MEASUREMENTS: list[Callable[[Bench], Iterator[Figure]]] = [speeds, memory, status]


def peak_over_idle(transfer: Callable[[], None]) -> float:
    """MB that the process takes at most during the transfer, above what it has before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    idle = memory_of_this_process("VmRSS")
    transfer()
    return (memory_of_this_process("VmHWM") - idle) / 1e3


def memory_of_this_process(field: str) -> int:
    """kB of the field in Linux's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def measure(bench: Bench) -> None:
    write_source(bench)
    figures = []
    for measurement in MEASUREMENTS:
        for figure in measurement(bench):
            figures.append(figure)
            sys.stdout.write(f"{figure.name}: {figure.value:.3g} {figure.unit}\n")
            sys.stdout.flush()
    write_csv(figures, bench)


def write_source(bench: Bench) -> None:
    sha256 = hashlib.sha256()
    with bench.source.open("wb") as file:
        for _ in range(0, bench.megabytes * 10**6, _CHUNK):
            data = secrets.token_bytes(_CHUNK)
            file.write(data)
            sha256.update(data)
    (bench.folder / "recorded").write_text(f"{bench.source.stat().st_size} {sha256.hexdigest()}")


def write_csv(figures: list[Figure], bench: Bench) -> None:
    versions = (
        f"Python {platform.python_version()}, boto3 {boto3.__version__}, botocore {botocore.__version__}, "
        f"s3transfer {s3transfer.__version__}"
    )
    write_results(
        CSV,
        [{"figure": figure.name, "value": figure.value, "unit": figure.unit} for figure in figures],
        megabytes=bench.megabytes,
        repetitions=bench.repetitions,
        server=server_version(bench.endpoint),
        machine=f"{processor()}, {platform.system()} {platform.release()}",
        versions=versions,
    )


def server_version(endpoint: str) -> str:
    if "127.0.0.1" in endpoint and shutil.which("radosgw"):
        version = subprocess.run(["radosgw", "--version"], capture_output=True, text=True).stdout.split()
        return f"radosgw {version[2]} on the same machine"
    return endpoint


@contextlib.contextmanager
def server(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Endpoint and bucket to measure on; without --endpoint-url those of a radosgw that ends with this process."""
    if options.endpoint_url:
        yield options.endpoint_url, options.bucket
        return
    with tempfile.TemporaryDirectory() as folder, RadosGateway(Path(folder) / "radosgw") as gateway:
        os.environ.update(gateway.credentials)
        gateway.create_bucket(options.bucket)
        yield gateway.endpoint_url, options.bucket


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.storage", description=__doc__.splitlines()[0])
    parser.add_argument("--endpoint-url", help="of a server; a radosgw is started otherwise")
    parser.add_argument("--bucket", default="benchmark", help="a bucket that is there, or that the radosgw gets")
    parser.add_argument("--megabytes", type=int, default=700)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peak-of", choices=TRANSFERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        bench = Bench(options.endpoint_url, options.bucket, options.folder, options.megabytes, 1)
        bench.store(bench.folder / "cache").read("warm")
        bench.client().list_objects_v2(Bucket=bench.bucket, MaxKeys=1)
        sys.stdout.write(str(peak_over_idle(lambda: TRANSFERS[options.peak_of](bench))))
        return
    with server(options) as (endpoint, bucket), tempfile.TemporaryDirectory() as folder:
        measure(Bench(endpoint, bucket, Path(folder), options.megabytes, options.repetitions))


if __name__ == "__main__":
    main()
