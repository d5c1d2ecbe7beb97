"""What there is under an artefact root: its runs, their rounds, who works on them, and what would come next."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pandas as pd

from core.records.artifacts import CONFIG_NAME, RECORD_NAME, ROUND_FOLDER, ROUND_RECORD, RUN_RECORD, STATE_FOLDER
from core.records.latent_parts import parts_progress
from core.records.lease import lease_state
from core.records.record_forms import rounds_wanted
from core.records.stage_records import read_record
from core.records.workspace import newest_state
from core.rounds.round_table import METRIC_TITLES
from core.rounds.rounds import ROUND_STAGES
from core.runtime.errors import InputError, UnavailableError
from core.storage.opening import open_store
from core.storage.store import Entry, Store, split_location

PREREQUISITES = "prerequisites"
_AT_ONCE = 16


@dataclass(frozen=True)
class Status:
    """Runs for a person as `text`, and of each record that could not be read why."""

    text: str
    unreadable: list[str]


def status_text(uri: str) -> str:
    """The runs under the root at `uri`, or the rounds of the run at `uri`, for a person."""
    return read_status(uri).text


def read_status(uri: str) -> Status:
    """The same, with what could not be read; the rest is shown all the same.

    Raises InputError if there is no run.
    """
    store = open_store(uri)
    foreign: list[str] = []
    runs = [store] if read_record(store, RUN_RECORD) is not None else find_runs(store, foreign)
    if not runs:
        why = f" ({foreign[0]})" if foreign else ""
        raise InputError(f"{uri} holds no run{why}: give an artefact root, or a run's folder in it")
    unreadable: list[str] = []
    parts = [_run_text(run, unreadable) for run in runs]
    return Status("\n\n".join([*parts, *foreign]), unreadable)


def find_runs(root: Store, foreign: list[str] | None = None) -> list[Store]:
    """The runs under a root: the folders with a run's record.

    A folder whose run.json is of another form holds no run of ours; a line on it is added to `foreign`.
    """
    runs, lines = [], []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        stores = [root.below(name) for name in root.folders()]
        for store, begun in zip(stores, pool.map(_begun, stores), strict=True):
            if isinstance(begun, InputError):
                lines.append(f"not a run: {begun}")
            elif begun is not None:
                runs.append(store)
    if foreign is not None:
        foreign += lines
    return runs


def _begun(store: Store) -> dict[str, Any] | InputError | None:
    try:
        return read_record(store, RUN_RECORD)
    except UnavailableError:
        raise
    except InputError as error:
        return error


def find_problems(uri: str) -> list[str]:
    """A line for each file that a record under `uri` names, input or output, and that is missing or altered."""
    damaged: list[str] = []
    named = dict.fromkeys(_named_files(open_store(uri), damaged))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return damaged + [line for line in pool.map(lambda file: _problem(*file), named) if line is not None]


def _run_text(run: Store, unreadable: list[str]) -> str:
    """The run's lines. What cannot be read is shown as that, and its error is added to `unreadable`."""

    def readable(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except UnavailableError:
            raise
        except InputError as error:
            unreadable.append(str(error))
            return error

    begun = read_record(run, RUN_RECORD)
    names = sorted(name for name in run.folders() if ROUND_FOLDER.fullmatch(name))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        records = list(pool.map(lambda name: readable(lambda: read_record(run.below(name), ROUND_RECORD)), names))
    progress = {
        name: readable(lambda name=name: _progress(run.below(name)))
        for name, record in zip(names, records, strict=True)
        if record is None
    }
    progress = {name: "unreadable" if isinstance(state, InputError) else state for name, state in progress.items()}
    rows = [{"round": name} | _row(record, progress.get(name)) for name, record in zip(names, records, strict=True)]
    lease = readable(lambda: lease_state(run))
    lines = [f"{begun['experiment']}  {run.uri}", f"lease: {_or_unreadable(lease)}"]
    if begun["parent"] is not None:
        lines.insert(1, f"forked from: {begun['parent']['path']}")
    if rows:
        lines.append(pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format, na_rep=""))
    finished = sum(isinstance(record, dict) for record in records)
    following = readable(lambda: _next(run, finished, progress))
    lines.append(f"next: {_or_unreadable(following)}")
    return "\n".join(lines)


def _or_unreadable(found: str | InputError) -> str:
    return "unreadable" if isinstance(found, InputError) else found


def _row(record: dict[str, Any] | InputError | None, progress: str | None) -> dict[str, Any]:
    if isinstance(record, dict):
        return _finished_row(record)
    return {"state": "unreadable" if record is not None else progress}


def _finished_row(record: dict[str, Any]) -> dict[str, Any]:
    metrics = record["metrics"]
    return (
        {"state": "finished", "epoch": metrics["epoch"]}
        | {title: metrics.get(name) for title, name in METRIC_TITLES.items()}
        | {"seconds": f"{record['seconds']:.0f}", "MB": f"{record['size'] / 1e6:.1f}"}
    )


def _progress(round_: Store) -> str:
    """How far an unfinished round is, in words."""
    for stage in ROUND_STAGES:
        if read_record(round_.below(stage), RECORD_NAME) is None:
            states = round_.below(stage).below(STATE_FOLDER)
            newest = newest_state(states)
            progress = newest[1]["progress"] if newest else parts_progress(states)
            return f"{stage}: {progress or 'at its beginning'}"
    return "all stages done, no record yet"


def _next(run: Store, finished: int, progress: dict[str, str]) -> str:
    config = run.read(CONFIG_NAME)
    count = rounds_wanted(config.data, run.uri, CONFIG_NAME) if config else None
    if progress:
        name, state = next(iter(progress.items()))
        return f"{name} goes on from {state}"
    if count is not None and finished >= count:
        return f"nothing, all {count} rounds are finished"
    return f"round-{finished + 1:02d}" + (f" of {count}" if count else "")


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
        for output, entry in record.get("outputs", {}).items():
            yield here.uri, output, entry["size"], entry["sha256"]
        inputs = [*record.get("inputs", {}).values(), record.get("parent")]
        for entry in filter(None, inputs):
            yield *split_location(entry["path"]), entry["size"], entry["sha256"]


def _problem(folder: str, name: str, size: int, sha256: str) -> str | None:
    wanted: Entry = {"size": size, "sha256": sha256}
    try:
        found = open_store(folder).measure(name)
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
