"""Reading a config from YAML, and writing it."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from core.config.experiment import DRAFT, ExperimentConfig
from core.config.extends import EXTENDS, ConfigFile, file_with, merged, read_files
from core.inputs.config_keys import first_problem, set_value
from core.inputs.locations import Location, expanded_location
from core.inputs.yaml_text import read_yaml, write_yaml
from core.runtime.errors import InputError
from core.storage.store import ArtifactsSection


def load_config(
    path: Location,
    overrides: Sequence[str] = (),
    artifacts: ArtifactsSection | None = None,
    complete: Callable[[ExperimentConfig], dict[str, Any]] = lambda draft: {},
) -> ExperimentConfig:
    """Config of the YAML file at `path`, local or s3://, and the files it extends, with `key.path=value` overrides.

    `complete` gets a draft of the config, whose sizes need not agree yet, and returns further values by dotted key.
    Raises InputError, in one line, for a missing or unreadable file, an unknown key (with the nearest valid one) or a
    value of the wrong type or range. Files in a bucket are read with the settings `artifacts`, or those of the
    environment.
    """
    files = read_files(expanded_location(path, "config"), artifacts or ArtifactsSection())
    # A copy: the files tell where a wrong key stands.
    data = copy.deepcopy(merged(files))
    return _checked(data, overrides, complete, lambda error, overridden: _source_of(error, files, overridden))


def config_of(
    data: dict[str, Any],
    source: str,
    overrides: Sequence[str] = (),
    complete: Callable[[ExperimentConfig], dict[str, Any]] = lambda draft: {},
) -> ExperimentConfig:
    """The same of settings `data` that come from no file; errors call them `source`."""
    return _checked(copy.deepcopy(data), overrides, complete, lambda error, overridden: source)


def _checked(
    data: dict[str, Any],
    overrides: Sequence[str],
    complete: Callable[[ExperimentConfig], dict[str, Any]],
    source_of: Callable[[ValidationError, Sequence[str]], str],
) -> ExperimentConfig:
    """The config of `data` with overrides; `source_of` an error and the overridden keys is where its cause stands."""
    overridden: list[str] = []
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise InputError(f"--set {override}: write it as key.path=value")
        if key.strip() == EXTENDS:
            raise InputError(f"--set {override}: only a file can extend another: write it there")
        parsed = read_yaml(value, f"--set {override}: the value", "correct the value")
        try:
            set_value(data, key.strip(), parsed)
        except ValueError as error:
            raise InputError(f"--set {key.strip()}: {error}") from None
        overridden.append(key)
    try:
        for key, value in complete(ExperimentConfig.model_validate(data, context=DRAFT)).items():
            set_value(data, key, value)
        return ExperimentConfig.model_validate(data)
    except ValidationError as error:
        raise InputError(f"config {source_of(error, overridden)}: {first_problem(error, ExperimentConfig)}") from None


def config_bytes(config: ExperimentConfig) -> bytes:
    """The YAML file of a config that `load_config` reads back equal."""
    return write_yaml(config.model_dump(mode="json"))


def _source_of(error: ValidationError, files: Sequence[ConfigFile], overridden: Sequence[str]) -> str:
    """Path of the file with the wrong key or value; of the first file for one that an override set."""
    key = error.errors(include_url=False)[0]["loc"]
    dotted = ".".join(str(part) for part in key)
    given = [".".join(part.strip() for part in one.split(".")) for one in overridden]
    if any(f"{dotted}.".startswith(f"{one}.") for one in given):
        return files[0].path
    return file_with(key, files)
