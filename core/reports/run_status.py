"""The status of the runs under an artefact root: their rounds, who works on them, and what comes next."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar, cast

import pandas as pd

from core.records.artifacts import CONFIG_NAME, RECORD_NAME, ROUND_FOLDER, ROUND_RECORD, RUN_RECORD, STATE_FOLDER
from core.records.latent_parts import parts_progress
from core.records.lease import lease_state
from core.records.record_files import read_record
from core.records.record_forms import rounds_wanted
from core.records.workspace import newest_state
from core.reports.round_table import METRIC_TITLES
from core.reports.time_left import time_left
from core.rounds.finished_rounds import RoundRecord
from core.rounds.round import ROUND_STAGES
from core.rounds.run import REQUESTS_AT_ONCE, find_runs, read_run_record
from core.runtime.errors import InputError, UnavailableError
from core.runtime.files import Entry
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection, Store, split_location

_UNREADABLE = "unreadable"

Value = TypeVar("Value")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Status:
    """The runs as `text` for a person, and an error line for each record that could not be read."""

    text: str
    unreadable: list[str]


def read_status(uri: str, artifacts: ArtifactsSection) -> Status:
    """The runs under the root at `uri`, or the rounds of the run at `uri`; what cannot be read is named.

    Raises InputError if there is no run.
    """
    store = open_store(uri, artifacts)
    foreign: list[str] = []
    runs = [store] if read_record(store, RUN_RECORD) is not None else find_runs(store, foreign)
    if not runs:
        why = f" ({foreign[0]})" if foreign else ""
        raise InputError(f"{uri} holds no run{why}: give an artefact root, or a run's folder in it")
    reading = _Reading()
    parts = [_run_text(run, reading) for run in runs]
    return Status("\n\n".join([*parts, *foreign]), reading.errors)


def find_problems(uri: str, artifacts: ArtifactsSection) -> list[str]:
    """A line for each file that a record under `uri` names, input or output, and that is missing or altered."""
    damaged: list[str] = []
    named = dict.fromkeys(_named_files(open_store(uri, artifacts), damaged))
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        problems = pool.map(lambda file: _problem(file, artifacts), named)
        return damaged + [line for line in problems if line is not None]


@dataclass
class _Reading:
    """Reads records one by one and collects the errors of those that are damaged."""

    errors: list[str] = field(default_factory=list)

    def __call__(self, read: Callable[[], Value], otherwise: Other) -> Value | Other:
        """What `read` returns, or `otherwise` if the record is damaged. A server that is silent is still an error."""
        try:
            return read()
        except UnavailableError:
            raise
        except InputError as error:
            self.errors.append(str(error))
            return otherwise


def _run_text(run: Store, reading: _Reading) -> str:
    """The run's lines; "unreadable" stands for what cannot be read."""
    begun = read_run_record(run)
    if begun is None:
        raise InputError(f"{run.uri} holds no run: give an artefact root, or a run's folder in it")
    names = sorted(name for name in run.folders() if ROUND_FOLDER.fullmatch(name))
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        records = dict(zip(names, pool.map(lambda name: _round_of(run.below(name), reading), names), strict=True))
    unfinished = [name for name, record in records.items() if record is None]
    progress = {name: _progress_of(run.below(name), reading) for name in unfinished}
    rows = [{"round": name} | _row(record, progress.get(name)) for name, record in records.items()]
    lines = [f"{begun['experiment']}  {run.uri}"]
    if begun["parent"] is not None:
        lines.append(f"forked from: {begun['parent']['path']}")
    lines.append(f"lease: {reading(lambda: lease_state(run), _UNREADABLE)}")
    if rows:
        lines.append(pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format, na_rep=""))
    finished = sum(isinstance(record, dict) for record in records.values())
    following = reading(lambda: _next(run, finished, progress), _UNREADABLE)
    done = [record for record in records.values() if isinstance(record, dict)]
    if following != _UNREADABLE and (left := time_left(done, _count(run) or 0)) is not None:
        lines.append(f"time: {left}")
    lines.append(f"next: {following}")
    return "\n".join(lines)


def _round_of(folder: Store, reading: _Reading) -> RoundRecord | str | None:
    """The round's record, None until it is finished, or "unreadable"."""
    return reading(lambda: cast(RoundRecord | None, read_record(folder, ROUND_RECORD)), _UNREADABLE)


def _progress_of(folder: Store, reading: _Reading) -> str:
    return reading(lambda: _progress(folder), _UNREADABLE)


def _row(record: RoundRecord | str | None, progress: str | None) -> dict[str, object]:
    if isinstance(record, dict):
        return _finished_row(record)
    return {"state": record or progress}


def _finished_row(record: RoundRecord) -> dict[str, object]:
    metrics = record["metrics"]
    return (
        {"state": "finished", "epoch": metrics["epoch"]}
        | {title: metrics.get(name) for title, name in METRIC_TITLES.items()}
        | {"seconds": f"{record['seconds']:.0f}", "MB": f"{record['size'] / 1e6:.1f}"}
    )


def _progress(folder: Store) -> str:
    """How far an unfinished round is, in words."""
    for stage in ROUND_STAGES:
        if read_record(folder.below(stage), RECORD_NAME) is None:
            states = folder.below(stage).below(STATE_FOLDER)
            newest = newest_state(states)
            progress = newest[1]["progress"] if newest else parts_progress(states)
            return f"{stage}: {progress or 'at its beginning'}"
    return "all stages done, no record yet"


def _next(run: Store, finished: int, progress: dict[str, str]) -> str:
    count = _count(run)
    if progress:
        name, state = next(iter(progress.items()))
        return f"{name} continues from {state}"
    if count is not None and finished >= count:
        return f"nothing, all {count} rounds are finished"
    return f"round-{finished + 1:02d}" + (f" of {count}" if count else "")


def _count(run: Store) -> int | None:
    """How many rounds the run's config wants."""
    config = run.read(CONFIG_NAME)
    return rounds_wanted(config.data, run.uri, CONFIG_NAME) if config else None


def _named_files(store: Store, damaged: list[str]) -> Iterator[tuple[str, str, int, str]]:
    """Address of the folder, name, size and sha256 of every file that a record in the store names.

    A line for each record that cannot be read is added to `damaged`.
    """
    for file in store.files():
        folder, _, name = file.name.rpartition("/")
        if name not in (RECORD_NAME, ROUND_RECORD, RUN_RECORD):
            continue
        here = store.below(folder) if folder else store
        try:
            record = read_record(here, name)
        except InputError as error:
            damaged.append(f"unreadable: {error}")
            continue
        if record is None:  # removed since it was listed
            continue
        for output, entry in record.get("outputs", {}).items():
            yield here.uri, output, entry["size"], entry["sha256"]
        inputs = [*record.get("inputs", {}).values(), record.get("parent")]
        for entry in filter(None, inputs):
            yield *split_location(entry["path"]), entry["size"], entry["sha256"]


def _problem(file: tuple[str, str, int, str], artifacts: ArtifactsSection) -> str | None:
    folder, name, size, sha256 = file
    wanted: Entry = {"size": size, "sha256": sha256}
    try:
        found = open_store(folder, artifacts).measure(name)
    except UnavailableError:
        raise
    except InputError as error:
        return f"unreadable: {error}"
    if found == wanted:
        return None
    if found is None:
        return f"missing: {folder}/{name}"
    return (
        f"altered: {folder}/{name} (recorded {size} bytes, sha256 {sha256[:12]}; "
        f"found {found['size']} bytes, sha256 {found['sha256'][:12]})"
    )
