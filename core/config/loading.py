"""Reading a config from YAML, and writing it."""

from collections.abc import Sequence

from core.config.experiment import ExperimentConfig, validated
from core.inputs.config_keys import set_value
from core.inputs.places import Location, expanded, is_remote
from core.inputs.yaml_text import LARGEST_FILE, read_yaml, write_yaml
from core.runtime.errors import InputError
from core.runtime.files import open_input
from core.storage.opening import open_store
from core.storage.store import split_location


def load_config(path: Location, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Config read from the YAML file at `path`, local or s3://, with `key.path=value` overrides applied.

    Raises InputError, in one line, for a missing or unreadable file, an unknown key (with the nearest valid
    one) or a value of the wrong type or range.
    """
    try:
        path = expanded(path)
    except ValueError as error:
        raise InputError(f"config {error}") from None
    data = read_yaml(_config_text(path), f"config {path}", "mend the file")
    if not isinstance(data, dict):
        raise InputError(f"config {path} holds no mapping of sections: see configs/demo.yaml")
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise InputError(f"--set {override}: write it as key.path=value")
        set_value(data, key.strip(), read_yaml(value, f"--set {override}: the value", "mend the value"))
    return validated(data, str(path))


def config_bytes(config: ExperimentConfig) -> bytes:
    """The YAML file of a config that `load_config` reads back equal."""
    return write_yaml(config.model_dump(mode="json"))


def _config_text(path: Location) -> bytes:
    if not is_remote(path):
        with open_input(path, "config") as file:
            return file.read(LARGEST_FILE + 1)
    folder, name = split_location(path)
    there = open_store(folder).read(name)
    if there is None:
        raise InputError(f"config {path} does not exist: give the address of a YAML file")
    return there.data
