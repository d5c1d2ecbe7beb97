"""The input files of a stage, on this machine or in a bucket, checked against the record that names them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from core.inputs.locations import Location, is_remote
from core.records.artifacts import RECORD_NAME
from core.records.record_files import Record, read_record
from core.runtime.errors import InputError
from core.runtime.files import Entry, open_input
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection, Store, join, split_location

# One of these files makes a folder that of a model. diffusers writes them.
MODEL_CONFIGS = ("model_index.json", "config.json")
# Addresses in a bucket that end so are not asked for a folder.
_FILE_SUFFIXES = (".pt", ".safetensors", ".csv", ".json", ".yaml", ".yml")
# How many folders above a file are searched for a record that names it.
_FOLDERS_ABOVE = 3


def describe_input(location: Location, name: str, artifacts: ArtifactsSection) -> dict[str, Any]:
    """Path, size and sha256 of the input called `name`: a file, or the folder of a model that diffusers wrote.

    Of a folder they are the sum of the sizes of its files, and the digest of their sha256sum.
    """
    if files := _model_files(location, artifacts):
        listed = "".join(f"{entry['sha256']}  {file}\n" for file, entry in files.items())
        size, digest = sum(entry["size"] for entry in files.values()), hashlib.sha256(listed.encode()).hexdigest()
        return {"path": str(location), "size": size, "sha256": digest}
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
    """Path on this machine of a file, or of a model's folder; from a bucket it is downloaded.

    A manifest comes with the files that it names.
    """
    if not is_remote(location):
        return Path(location)
    if files := _model_files(location, artifacts):
        return open_store(location, artifacts).fetch(files)
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


def is_model(location: Location, artifacts: ArtifactsSection) -> bool:
    """Whether `location` is the folder of a model that diffusers wrote."""
    if PurePath(location).suffix in _FILE_SUFFIXES if is_remote(location) else not Path(location).is_dir():
        return False
    store = open_store(str(location), artifacts)
    return any(store.read(name) is not None for name in MODEL_CONFIGS)


def _model_files(location: Location, artifacts: ArtifactsSection) -> dict[str, Entry]:
    """The files of a model's folder by name; empty if `location` is none."""
    if not is_model(location, artifacts):
        return {}
    store = open_store(str(location), artifacts)
    files = {file.name: store.measure(file.name) for file in sorted(store.files(), key=lambda file: file.name)}
    return {name: entry for name, entry in files.items() if entry is not None}


def recorded_names(location: Location, artifacts: ArtifactsSection) -> list[str] | None:
    """Names of the files directly in the folder at `location` that its stage's record names; None without a record."""
    recorded = _recorded(join(location, "*"), artifacts, any_name=True)
    if recorded is None:
        return None
    _, name, entries = recorded
    prefix = name.removesuffix("*")
    below = [entry.removeprefix(prefix) for entry in entries if entry.startswith(prefix)]
    return sorted(name for name in below if "/" not in name)


def record_of(location: Location, artifacts: ArtifactsSection) -> Record | None:
    """The record of the stage that made the file at `location`; None if no record names the file."""
    recorded = _recorded(location, artifacts)
    return None if recorded is None else read_record(recorded[0], RECORD_NAME)


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
        if is_remote(folder) and folder.count("/") == 2:  # the bucket itself
            return None
        folder, last = split_location(folder)
        if not last:
            return None
        name = f"{last}/{name}"
    return None
