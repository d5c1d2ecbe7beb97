"""What there is under an artefact root: its runs, their rounds, who works on them, and what would come next."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import yaml

from core.errors import InputError
from core.latent_parts import parts_progress
from core.lease import LEASE_NAME, lease_state
from core.records import RECORD_NAME, read_record
from core.rounds import CONFIG_NAME, METRIC_TITLES, ROUND_RECORD, ROUND_STAGES, RUN_RECORD
from core.store import Entry, Store, open_store, split_location
from core.workspace import STATE_FOLDER, newest_state

PREREQUISITES = "prerequisites"
_AT_ONCE = 16


def status_text(uri: str) -> str:
    """The runs under the root at `uri`, or the rounds of the run at `uri`, for a person."""
    store = open_store(uri)
    if read_record(store, RUN_RECORD) is not None:
        return _run_text(store)
    runs = find_runs(store)
    if not runs:
        raise InputError(f"{uri} holds no run: give an artefact root, or a run's folder in it")
    return "\n\n".join(_run_text(run) for run in runs)


def find_runs(root: Store) -> list[Store]:
    """The runs under a root: the folders with a run's record."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        stores = [root.below(name) for name in root.folders()]
        begun = pool.map(lambda store: read_record(store, RUN_RECORD), stores)
        return [store for store, record in zip(stores, begun, strict=True) if record is not None]


def find_problems(uri: str) -> list[str]:
    """A line for each file that a record under `uri` names, input or output, and that is missing or altered."""
    damaged: list[str] = []
    named = dict.fromkeys(_named_files(open_store(uri), damaged))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return damaged + [line for line in pool.map(lambda file: _problem(*file), named) if line is not None]


def _run_text(run: Store) -> str:
    begun = read_record(run, RUN_RECORD)
    names = sorted(name for name in run.folders() if re.fullmatch(r"round-\d+", name))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        records = list(pool.map(lambda name: read_record(run.below(name), ROUND_RECORD), names))
    progress = {name: _progress(run.below(name)) for name, record in zip(names, records, strict=True) if record is None}
    rows = [
        {"round": name} | (_finished_row(record) if record else {"state": progress[name]})
        for name, record in zip(names, records, strict=True)
    ]
    lines = [f"{begun['experiment']}  {run.uri}", f"lease: {lease_state(run.read(LEASE_NAME))}"]
    if begun["parent"] is not None:
        lines.insert(1, f"forked from: {begun['parent']['path']}")
    if rows:
        lines.append(pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format, na_rep=""))
    lines.append(f"next: {_next(run, sum(record is not None for record in records), progress)}")
    return "\n".join(lines)


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
    count = yaml.safe_load(config.data)["rounds"]["count"] if config else None
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
        except InputError:
            damaged.append(f"damaged: {here.uri}/{name}")
            continue
        for output, entry in record.get("outputs", {}).items():
            yield here.uri, output, entry["size"], entry["sha256"]
        inputs = [*record.get("inputs", {}).values(), record.get("parent")]
        for entry in filter(None, inputs):
            yield *split_location(entry["path"]), entry["size"], entry["sha256"]


def _problem(folder: str, name: str, size: int, sha256: str) -> str | None:
    wanted: Entry = {"size": size, "sha256": sha256}
    found = open_store(folder).measure(name)
    if found == wanted:
        return None
    if found is None:
        return f"missing: {folder}/{name}"
    return (
        f"altered: {folder}/{name} (recorded {size} bytes, sha256 {sha256[:12]}; "
        f"found {found['size']} bytes, sha256 {found['sha256'][:12]})"
    )
