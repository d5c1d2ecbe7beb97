"""Records: the small file that ends a finished stage or round and says what it was made from."""

import contextlib
import importlib.metadata
import json
import logging
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from core.records.artifacts import PUBLISHING_NAME, RECORD_NAME, STATE_FOLDER
from core.records.lease import publishing_store
from core.records.ownership import OwnFiles, all_names, require_only_own
from core.records.record_forms import RecordError, parse_record
from core.records.workspace import StoredWorkspace, WatchedWorkspace, Workspace, stage_files, workspace_folder
from core.runtime import distributed
from core.runtime.errors import InputError
from core.runtime.files import open_input, require_writable
from core.storage.foreign_files import foreign_file_error
from core.storage.opening import open_store
from core.storage.store import (
    ArtifactsSection,
    Entry,
    Location,
    Store,
    cache_folder,
    is_remote,
    join,
    replace,
    split_location,
)

log = logging.getLogger(__name__)

# The settings that choose where a stage is.
STAGE_PLACE = "folder (--output_dir, experiment.save_path or artifacts.root)"
_PACKAGES = ("torch", "diffusers", "lpips", "prefect", "pandas", "numpy", "boto3")
# Folders above a file that are searched for the record that vouches for it.
_FOLDERS_ABOVE = 3

# Settings whose own keys are the user's: one that is gone is a difference.
KEYS_OF_THE_USER = ("dataset.filters",)

Inputs = Mapping[str, Location]


def run_stage(
    stage: str,
    location: Location,
    inputs: Inputs,
    settings: Mapping[str, Any],
    work: Callable[[Workspace, Mapping[str, Path]], dict[str, Any]],
    artifacts: ArtifactsSection | None = None,
) -> dict[str, Any]:
    """Record of the stage at `location`: the one that is there, or a new one once `work` has made its files.

    `work` gets the folder to fill and a local path of every input, and returns the stage's metrics. After a
    crash it finds its newest state in the folder and goes on from it. Raises InputError if the same stage is there
    made from other inputs or settings, naming the difference, or if an input is not what its record says.
    Of several processes the first reads, prepares and publishes; the others do the work with it, in its folder.
    """
    if distributed.rank() > 0:
        return _work_along(work)
    artifacts = artifacts or ArtifactsSection()
    store = publishing_store(location, artifacts)
    provenance = provenance_of(stage, inputs, settings)
    record = read_record(store, RECORD_NAME)
    if record is not None:
        refuse_difference(record, provenance, store.uri)
        log.info("%s: done already (%s)", stage, store.uri)
        return distributed.from_first((record, None, None))[0]
    distributed.require_joined(stage)
    require_only_own(store, OwnFiles(store).is_of_open_stage, STAGE_PLACE)
    if not is_remote(store.uri):
        require_writable(Path(store.uri))
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(workspace_folder(store, cache_folder(artifacts)))
        workspace = stack.enter_context(StoredWorkspace(folder, store, provenance, artifacts))
        progress = workspace.restore(lambda state: refuse_difference(state, provenance, join(store.uri, STATE_FOLDER)))
        if progress is not None:
            log.info("%s: going on from %s", stage, progress)
        paths = {name: local_path(path) for name, path in inputs.items()}
        distributed.from_first((None, folder, paths))
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


def _publish(store: Store, folder: Path) -> dict[str, Entry]:
    """What the files of `folder` are, once they are in the store; InputError if a file of the user's is in their place.

    Their names are noted there first: a process that dies meanwhile leaves files that are known for ours.
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


def _work_along(work: Callable[[Workspace, Mapping[str, Path]], dict[str, Any]]) -> dict[str, Any]:
    """Record of the stage that the first process finds finished, or publishes once all have worked on it."""
    record, folder, paths = distributed.from_first((None, None, None))
    if record is not None:
        return record
    work(WatchedWorkspace(folder), paths)
    return distributed.from_first(record)


def provenance_of(stage: str, inputs: Inputs, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that is known beforehand: stage, input files with size and sha256, settings.

    Raises InputError for an input that is missing, or not what the record of its stage says.
    """
    return {
        "stage": stage,
        "inputs": {name: describe_input(path, name) for name, path in inputs.items()},
        "settings": json.loads(json.dumps(settings)),
    }


def describe_input(location: Location, name: str) -> dict[str, Any]:
    """Path, size and sha256 of the input file called `name`."""
    recorded = _vouched_for(location)
    if recorded is None:
        entry = open_store(split_location(location)[0]).measure(split_location(location)[1])
        if entry is None:
            if not is_remote(location):
                open_input(location, f"{name} input").close()  # says what it is, if it is there
            raise InputError(f"{name} input {location} does not exist: give the path of an existing file")
    else:
        store, file, entries = recorded
        entry = entries[file]
        if not is_remote(location):
            store.fetch(_needed(file, entries))
    return {"path": str(location), **entry}


def local_path(location: Location) -> Path:
    """Path on this machine of a file, downloaded first if it is in a bucket; a manifest with the files it names."""
    if not is_remote(location):
        return Path(location)
    recorded = _vouched_for(location)
    if recorded is not None:
        store, file, entries = recorded
        return store.fetch(_needed(file, entries)) / file
    folder, file = split_location(location)
    store = open_store(folder)
    entry = store.measure(file)
    if entry is None:
        raise InputError(f"{location} does not exist: give the address of an existing file")
    return store.fetch({file: entry}) / file


def recorded_names(location: Location) -> list[str] | None:
    """Names of the files directly in the folder at `location` that its stage's record vouches for; None without one."""
    recorded = _vouched_for(join(location, "*"), any_name=True)
    if recorded is None:
        return None
    _, name, entries = recorded
    prefix = name.removesuffix("*")
    below = [entry.removeprefix(prefix) for entry in entries if entry.startswith(prefix)]
    return sorted(name for name in below if "/" not in name)


def _needed(file: str, entries: Mapping[str, Entry]) -> Mapping[str, Entry]:
    """The entries to read for `file`: what a manifest names lies beside it."""
    return entries if file.endswith(".csv") else {file: entries[file]}


def _vouched_for(location: Location, any_name: bool = False) -> tuple[Store, str, Mapping[str, Entry]] | None:
    """The recorded folder that the file belongs to, the file's name in it and all the record's entries."""
    folder, name = split_location(location)
    for _ in range(_FOLDERS_ABOVE):
        store = open_store(folder)
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
    """First input or setting of `provenance` in which `record` was made otherwise, in words; None if there is none.

    Inputs and settings that `provenance` does not have count for nothing: older records name settings without effect.
    """
    differences = list(_differences("", _comparable(record), _comparable(provenance)))
    # What the record does not know may be new; what it says otherwise is sure.
    for key, before, now in sorted(differences, key=lambda found: (found[1] is None, found[0])):
        return f"{key} {before}, now it is {now}"
    return None


def refuse_difference(record: Mapping[str, Any], provenance: Mapping[str, Any], location: str) -> None:
    """Raise InputError if `record` at `location` was made from something else, or does not say of what stage it is."""
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


def read_record(store: Store, name: str) -> dict[str, Any] | None:
    """The record called `name`, None if there is none; RecordError if it is of another form."""
    there = store.read(name)
    return None if there is None else parse_record(there.data, store.uri, name)


def entry_of(record: Mapping[str, Any], name: str, location: Location) -> Entry:
    """What the record of the stage at `location` says of its file; RecordError if it does not name it."""
    if name not in record["outputs"]:
        raise RecordError(f"record {location}/{RECORD_NAME} does not name {name}: put back a copy of the record")
    return record["outputs"][name]


def create_record(record: Mapping[str, Any], store: Store, name: str) -> None:
    """Write a record that must not exist yet; InputError if another process wrote it first."""
    if not store.create(name, record_bytes(record)):
        raise _written_meanwhile(store, name)


def _written_meanwhile(store: Store, name: str) -> InputError:
    return InputError(f"record {store.uri}/{name} was written by another process meanwhile: run one process at a time")


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """The file of a record."""
    return (json.dumps(record, indent=2, sort_keys=True) + "\n").encode()


def code_version() -> dict[str, Any]:
    """Python and package versions, and the git commit this package runs from, if it does."""
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
    """What a stage was made from; files count by content, not by where they lie."""
    inputs = {f"input {name}": entry["sha256"][:12] for name, entry in record.get("inputs", {}).items()}
    return record.get("settings", {}) | inputs | {"stage": record.get("stage")}


def _differences(prefix: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Key, value before and value now of everything in `now` that is otherwise in `before`."""
    if isinstance(now, dict) and now and prefix not in KEYS_OF_THE_USER and isinstance(before, dict | None):
        for key, value in now.items():
            yield from _differences(f"{prefix}.{key}" if prefix else key, (before or {}).get(key), value)
    elif before != now:
        yield prefix, before, now
