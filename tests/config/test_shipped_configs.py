"""The shipped configs: each holds only what it changes, and starts with what it is for."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from core.config.loading import load_config
from core.runtime.errors import InputError

CONFIGS = sorted(Path("configs").rglob("*.yaml"))


def keys(data: dict, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of nested maps, those of maps too."""
    for name, value in data.items():
        yield (*prefix, name)
        if isinstance(value, dict):
            yield from keys(value, (*prefix, name))


def without(data: dict, key: tuple[str, ...]) -> dict:
    """`data` without the value at `key` and without the maps that this leaves empty."""
    data = copy.deepcopy(data)
    for depth in reversed(range(len(key))):
        parent = data
        for part in key[:depth]:
            parent = parent[part]
        del parent[key[depth]]
        if parent:
            break
    return data


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_a_config_repeats_nothing_that_it_would_have_anyway(path):
    data, config = yaml.safe_load(path.read_text()), load_config(path)
    beside = path.with_name(f".without-{path.name}")
    repeated = []
    try:
        for key in keys(data):
            beside.write_text(yaml.safe_dump(without(data, key)))
            try:
                if load_config(beside) == config:
                    repeated.append(".".join(key))
            except InputError:
                continue  # needed
    finally:
        beside.unlink(missing_ok=True)
    assert not repeated


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_a_config_starts_with_what_it_is_for(path):
    assert path.read_text().startswith("# ")
