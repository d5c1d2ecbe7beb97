"""Stage records: the JSON file that marks a stage as finished and names its inputs, settings, outputs and metrics."""

import contextlib
import importlib.metadata
import json
import logging
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from core.inputs.locations import Location, is_remote
from core.records.artifacts import PUBLISHING_NAME, RECORD_NAME, STATE_FOLDER
from core.records.lease import publishing_store
from core.records.ownership import OwnFiles, all_names, require_only_own
from core.records.record_forms import RecordError, parse_record
from core.records.workspace import StoredWorkspace, WatchedWorkspace, Workspace, stage_files, workspace_folder
from core.runtime import distributed
from core.runtime.errors import InputError
from core.runtime.files import Entry, open_input, require_writable
from core.storage.foreign_files import foreign_file_error
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection, Store, cache_folder, join, replace, split_location

log = logging.getLogger(__name__)

# The settings that choose the folder of a stage.
STAGE_PLACE = "folder (--output_dir, experiment.save_path or artifacts.root)"
_PACKAGES = ("torch", "diffusers", "lpips", "prefect", "pandas", "numpy", "boto3")
# How many folders above a file are searched for a record that names it.
_FOLDERS_ABOVE = 3

# Settings whose keys the user chooses. Only among these a removed key is a difference.
KEYS_OF_THE_USER = ("dataset.filters",)

Inputs = Mapping[str, Location]
Record = dict[str, Any]
Work = Callable[[Workspace, Mapping[str, Path]], dict[str, Any]]


def run_stage(
    stage: str,
    location: Location,
    inputs: Inputs,
    settings: Mapping[str, Any],
    work: Work,
    artifacts: ArtifactsSection | None = None,
) -> Record:
    """Record of the stage at `location`: the existing one, or a new one after `work` has made the stage's files.

    `work` gets the folder to fill and a local path of every input, and returns the stage's metrics. After a crash it
    finds the newest state in the folder and continues from it. Raises InputError, which names the difference, if the
    stage exists and was made from other inputs or settings, and if an input differs from its own record.
    Of several processes the first one reads, prepares and publishes. The others only work, in the same folder.
    """
    if distributed.rank() > 0:
        return _work_along(work)
    artifacts = artifacts or ArtifactsSection()
    store = publishing_store(location, artifacts)
    provenance = provenance_of(stage, inputs, settings, artifacts)
    record = read_record(store, RECORD_NAME)
    if record is not None:
        refuse_difference(record, provenance, store.uri)
        log.info("%s: already done (%s)", stage, store.uri)
        distributed.from_first(_Start(record=record))
        return record
    distributed.require_joined(stage)
    require_only_own(store, OwnFiles(store).is_of_open_stage, STAGE_PLACE)
    if not is_remote(store.uri):
        require_writable(Path(store.uri))
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(workspace_folder(store, cache_folder(artifacts)))
        workspace = StoredWorkspace(folder, store, provenance, artifacts)
        stack.enter_context(workspace)
        progress = workspace.restore(lambda state: refuse_difference(state, provenance, join(store.uri, STATE_FOLDER)))
        if progress is not None:
            log.info("%s: continuing from %s", stage, progress)
        paths = {name: local_path(path, artifacts) for name, path in inputs.items()}
        distributed.from_first(_Start(folder, paths))
        metrics = work(workspace, paths)
        workspace.settle()
        outputs = _publish(store, folder)
        record = provenance | {
            "outputs": outputs,
            "metrics": metrics,
            "seconds": round(time.monotonic() - started, 1),
            "code": code_version(),
        }
        create_record(record, store, RECORD_NAME)
        workspace.drop_states()
    return distributed.from_first(record)


class _Start(NamedTuple):
    """What the first process tells the others: where to work, or the record of a finished stage."""

    folder: Path = Path()
    paths: Mapping[str, Path] = {}
    record: Record | None = None


def _publish(store: Store, folder: Path) -> dict[str, Entry]:
    """Upload the files of `folder`; size and sha256 of each. InputError if the user has a file of one of their names.

    Their names are written first, so that files of a process that dies meanwhile are known as ours.
    """
    names = [path.relative_to(folder).as_posix() for path in stage_files(folder)]
    own_files, states = OwnFiles(store), store.below(STATE_FOLDER)
    taken = {name for name in all_names(store) if not own_files.is_of_open_stage(name)}.intersection(names)
    if taken:
        if read_record(store, RECORD_NAME) is not None:
            raise _written_meanwhile(store, RECORD_NAME)
        raise foreign_file_error(store.uri, min(taken), STAGE_PLACE)
    replace(states, PUBLISHING_NAME, json.dumps({"outputs": names}, indent=2).encode())
    return store.upload(folder, names)


def _work_along(work: Work) -> Record:
    """Record of the stage that the first process finds finished, or publishes after all have worked on it."""
    start = distributed.from_first(_Start())
    if start.record is not None:
        return start.record
    work(WatchedWorkspace(start.folder), start.paths)
    published: Record = {}
    return distributed.from_first(published)


def provenance_of(stage: str, inputs: Inputs, settings: Mapping[str, Any], artifacts: ArtifactsSection) -> Record:
    """What a stage is made from, as its record names it: stage, input files with size and sha256, settings.

    Raises InputError for an input that is missing, or that differs from the record of its own stage.
    """
    return {
        "stage": stage,
        "inputs": {name: describe_input(path, name, artifacts) for name, path in inputs.items()},
        "settings": json.loads(json.dumps(settings)),
    }


def describe_input(location: Location, name: str, artifacts: ArtifactsSection) -> dict[str, Any]:
    """Path, size and sha256 of the input file called `name`."""
    recorded = _recorded(location, artifacts)
    if recorded is None:
        folder, file = split_location(location)
        entry = open_store(folder, artifacts).measure(file)
        if entry is None:
            if not is_remote(location):
                open_input(location, f"{name} input").close()  # raises for a folder, a device and the like
            raise InputError(f"{name} input {location} does not exist: give the path of an existing file")
    else:
        store, file, entries = recorded
        entry = entries[file]
        if not is_remote(location):
            store.fetch(_needed(file, entries))
    return {"path": str(location), **entry}


def local_path(location: Location, artifacts: ArtifactsSection) -> Path:
    """Path of a file on this machine; from a bucket it is downloaded, a manifest with the files that it names."""
    if not is_remote(location):
        return Path(location)
    recorded = _recorded(location, artifacts)
    if recorded is not None:
        store, file, entries = recorded
        return store.fetch(_needed(file, entries)) / file
    folder, file = split_location(location)
    store = open_store(folder, artifacts)
    entry = store.measure(file)
    if entry is None:
        raise InputError(f"{location} does not exist: give the address of an existing file")
    return store.fetch({file: entry}) / file


def recorded_names(location: Location, artifacts: ArtifactsSection) -> list[str] | None:
    """Names of the files directly in the folder at `location` that its stage's record names; None without a record."""
    recorded = _recorded(join(location, "*"), artifacts, any_name=True)
    if recorded is None:
        return None
    _, name, entries = recorded
    prefix = name.removesuffix("*")
    below = [entry.removeprefix(prefix) for entry in entries if entry.startswith(prefix)]
    return sorted(name for name in below if "/" not in name)


def _needed(file: str, entries: Mapping[str, Entry]) -> Mapping[str, Entry]:
    """The entries to fetch for `file`: all of them for a manifest, which names files beside it."""
    return entries if file.endswith(".csv") else {file: entries[file]}


def _recorded(
    location: Location, artifacts: ArtifactsSection, any_name: bool = False
) -> tuple[Store, str, Mapping[str, Entry]] | None:
    """The folder of the stage whose record names the file, the file's name in it and all entries of the record.

    None if no record names it. With `any_name`, a record in one of the folders above is enough.
    """
    folder, name = split_location(location)
    for _ in range(_FOLDERS_ABOVE):
        store = open_store(folder, artifacts)
        record = read_record(store, RECORD_NAME)
        if record is not None:
            entries = record.get("outputs", {})
            return (store, name, entries) if any_name or name in entries else None
        folder, last = split_location(folder)
        if not last or folder in ("s3:", "s3:/"):
            return None
        name = f"{last}/{name}"
    return None


def difference(record: Mapping[str, Any], provenance: Mapping[str, Any]) -> str | None:
    """The first input or setting that differs between `record` and `provenance`, in words; None if none differs.

    Only inputs and settings of `provenance` are compared: older records also name settings that affect no result.
    """
    differences = list(_differences("", _comparable(record), _comparable(provenance)))
    # A setting that the record lacks may be new in this version. One with another value was changed: name it first.
    for key, before, now in sorted(differences, key=lambda found: (found[1] is None, found[0])):
        return f"{key} {before}, now it is {now}"
    return None


def refuse_difference(record: Mapping[str, Any], provenance: Mapping[str, Any], location: str) -> None:
    """Raise InputError if `record` at `location` differs from `provenance` or names no stage."""
    if not record.get("stage"):
        raise InputError(
            f"record {location}/{RECORD_NAME} does not say what it was made from: choose another folder "
            "(artifacts.root, --output_dir)"
        )
    if (found := difference(record, provenance)) is not None:
        raise InputError(
            f"{location} holds a {record.get('stage')} made with {found}: choose another folder (artifacts.root, "
            "--output_dir) or restore the value"
        )


def read_record(store: Store, name: str) -> Record | None:
    """The record called `name`; None if there is none, RecordError if it does not have the form of a record."""
    there = store.read(name)
    return None if there is None else parse_record(there.data, store.uri, name)


def entry_of(record: Mapping[str, Any], name: str, location: Location) -> Entry:
    """Size and sha256 of a file, from the record of its stage at `location`; RecordError if the record lacks it."""
    outputs: Mapping[str, Entry] = record["outputs"]
    if name not in outputs:
        raise RecordError(f"record {location}/{RECORD_NAME} does not name {name}: put back a copy of the record")
    return outputs[name]


def create_record(record: Mapping[str, Any], store: Store, name: str) -> None:
    """Write a record that must not exist yet; InputError if another process wrote it first."""
    if not store.create(name, record_bytes(record)):
        raise _written_meanwhile(store, name)


def _written_meanwhile(store: Store, name: str) -> InputError:
    return InputError(f"record {store.uri}/{name} was written by another process meanwhile: run one process at a time")


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """The bytes of a record's file."""
    return (json.dumps(record, indent=2, sort_keys=True) + "\n").encode()


def code_version() -> dict[str, Any]:
    """Versions of Python and packages, and the git commit of the checkout that this package runs from, if any."""
    versions: dict[str, Any] = {"python": platform.python_version()}
    for package in _PACKAGES:
        versions[package] = importlib.metadata.version(package)
    root = Path(__file__).parents[2]
    if (root / ".git").exists():
        git = ["git", "-C", str(root)]
        try:
            commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
            status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return versions
        versions |= {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}
    return versions


def _comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs and settings to compare; files count by content, not by path."""
    inputs = {f"input {name}": entry["sha256"][:12] for name, entry in record.get("inputs", {}).items()}
    settings: dict[str, Any] = record.get("settings", {})
    return settings | inputs | {"stage": record.get("stage")}


def _differences(prefix: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Dotted key, value before and value now of every value in `now` that differs from the one in `before`."""
    if isinstance(now, dict) and now and prefix not in KEYS_OF_THE_USER and isinstance(before, dict | None):
        for key, value in now.items():
            yield from _differences(f"{prefix}.{key}" if prefix else key, (before or {}).get(key), value)
    elif before != now:
        yield prefix, before, now
