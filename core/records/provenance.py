"""Provenance: what a stage is made from, its input files and settings, and how that differs from what a record says."""

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.config.experiment import ExperimentConfig
from core.config.setting_effects import added_later
from core.inputs.locations import Location
from core.records.artifacts import RECORD_NAME
from core.records.input_files import describe_input
from core.records.record_files import Record
from core.runtime.errors import InputError
from core.storage.store import ArtifactsSection

_PACKAGES = ("torch", "diffusers", "lpips", "prefect", "pandas", "numpy", "scikit-learn", "boto3")

# Settings whose keys the user chooses. Only among these a removed key is a difference.
KEYS_OF_THE_USER = ("dataset.filters",)
# An input that is left out where layouts are in the project's own palette, as in records of earlier versions.
_PALETTE = {"input palette": "the project's own"}
# Settings that are left out where they have their default.
_ADDED_LATER = added_later(ExperimentConfig)

Inputs = Mapping[str, Location]


def provenance_of(stage: str, inputs: Inputs, settings: Mapping[str, Any], artifacts: ArtifactsSection) -> Record:
    """What a stage is made from, as its record names it: stage, input files with size and sha256, settings.

    Raises InputError for an input that is missing, or that differs from the record of its own stage.
    """
    return {
        "stage": stage,
        "inputs": {name: describe_input(path, name, artifacts) for name, path in inputs.items()},
        "settings": json.loads(json.dumps(settings)),
    }


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
    return settings | _PALETTE | inputs | {"stage": record.get("stage")}


def _differences(prefix: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Dotted key, value before and value now of every value in `now` that differs from the one in `before`.

    A setting that was added later is its default where it is left out.
    """
    if isinstance(now, dict) and now and prefix not in KEYS_OF_THE_USER and isinstance(before, dict | None):
        before = before or {}
        for key, value in now.items():
            yield from _differences(f"{prefix}.{key}" if prefix else key, before.get(key), value)
        for key in before.keys() & _ADDED_LATER - now.keys():
            if before[key] is not None:
                yield f"{prefix}.{key}" if prefix else key, before[key], "its default"
    elif before != now:
        yield prefix, before, now
