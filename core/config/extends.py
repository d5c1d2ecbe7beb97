"""`extends: other.yaml`: a config holds only what it changes, and takes everything else from another file.

Sections merge key by key; every other value, a list or null too, replaces the one of the extended file.
"""

import os
import posixpath
from collections.abc import Sequence
from typing import Any, NamedTuple

from core.config.published_forms import in_one_form
from core.config.round_sections import with_current_names
from core.inputs.config_keys import shown_value
from core.inputs.locations import expanded_location, is_remote
from core.inputs.yaml_text import LARGEST_FILE, read_yaml
from core.runtime.errors import InputError
from core.runtime.files import open_input
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection, split_location

EXTENDS = "extends"


class ConfigFile(NamedTuple):
    """What one YAML file holds, without the name of the file that it extends."""

    path: str
    data: dict[str, Any]


def read_files(path: str, artifacts: ArtifactsSection) -> list[ConfigFile]:
    """The config file at `path`, then the file that it extends, and so on.

    Raises InputError, in one line, for a missing or unreadable file and for files that extend each other in a circle.
    """
    files: list[ConfigFile] = []
    visited: list[str] = []
    following: str | None = path
    while following is not None:
        if _identity(following) in visited:
            chain = " -> ".join([*(file.path for file in files), following])
            raise InputError(f"config {path}: files extend each other in a circle ({chain}): remove one `extends`")
        visited.append(_identity(following))
        what = f"config {files[-1].path}: {EXTENDS}" if files else "config"
        data = read_yaml(_text(following, what, artifacts), f"config {following}", "correct the file")
        if not isinstance(data, dict):
            raise InputError(f"config {following} holds no mapping of sections: see configs/demo.yaml")
        files.append(ConfigFile(following, data))
        following = _extended(following, data.pop(EXTENDS, None))
    return files


def merged(files: Sequence[ConfigFile]) -> dict[str, Any]:
    """The settings of `read_files` as one mapping: what an earlier file says counts."""
    if len(files) == 1:
        return files[0].data
    data: dict[str, Any] = {}
    for file in reversed(files):
        try:
            data = _merge(data, with_current_names(in_one_form(file.data)))
        except ValueError as error:
            raise InputError(f"config {file.path}: {error}") from None
    return data


def file_with(key: Sequence[str | int], files: Sequence[ConfigFile]) -> str:
    """Path of the file whose value at `key` counts; of the first file if none holds the key."""
    return next((file.path for file in files if _holds(file.data, key)), files[0].path)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    data = dict(below)
    for key, value in above.items():
        before = data.get(key)
        data[key] = _merge(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return data


def _holds(data: Any, key: Sequence[str | int]) -> bool:
    for part in key:
        try:
            data = data[part]
        except (LookupError, TypeError):
            return False
    return True


def _extended(path: str, named: Any) -> str | None:
    """Address of the file that the one at `path` names after `extends`, relative to its own folder."""
    if named is None:
        return None
    if not isinstance(named, str):
        raise InputError(f"config {path}: {EXTENDS}: should be the path of a YAML file, got {shown_value(named)}")
    other = expanded_location(named, f"config {path}: {EXTENDS}:")
    if is_remote(other) or os.path.isabs(other):
        return other
    folder, _ = split_location(path)
    if not is_remote(path):
        return os.path.join(folder, other)
    bucket = folder.removeprefix("s3://").partition("/")[0]
    beside = posixpath.normpath(posixpath.join(folder.removeprefix("s3://"), other))
    if not beside.startswith(f"{bucket}/"):
        raise InputError(f"config {path}: {EXTENDS}: {other} is outside the bucket: write its s3:// address")
    return f"s3://{beside}"


def _identity(path: str) -> str:
    return path if is_remote(path) else os.path.realpath(path)


def _text(path: str, what: str, artifacts: ArtifactsSection) -> bytes:
    if not is_remote(path):
        with open_input(path, what) as file:
            return file.read(LARGEST_FILE + 1)
    folder, name = split_location(path)
    there = open_store(folder, artifacts).read(name)
    if there is None:
        raise InputError(f"{what} {path} does not exist: give the address of a YAML file")
    return there.data
