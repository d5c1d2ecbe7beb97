"""Reading and writing the JSON files of records."""

import json
from collections.abc import Mapping
from typing import Any

from core.inputs.locations import Location
from core.records.artifacts import RECORD_NAME
from core.records.record_forms import RecordError, parse_record
from core.runtime.errors import InputError
from core.runtime.files import Entry
from core.storage.store import Store

Record = dict[str, Any]


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
        raise written_meanwhile_error(store, name)


def written_meanwhile_error(store: Store, name: str) -> InputError:
    return InputError(f"record {store.uri}/{name} was written by another process meanwhile: run one process at a time")


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """The bytes of a record's file."""
    return (json.dumps(record, indent=2, sort_keys=True) + "\n").encode()
