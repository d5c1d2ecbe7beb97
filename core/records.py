"""Records: the small file that ends a finished stage or round and says what it was made from."""

import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.files import require_writable, save_json, sha256

log = logging.getLogger(__name__)

RECORD_NAME = "stage.json"
_PACKAGES = ("torch", "diffusers", "lpips", "prefect", "pandas", "numpy")


def run_stage(
    stage: str,
    folder: Path,
    inputs: Mapping[str, str | Path],
    settings: Mapping[str, Any],
    work: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """Record of the stage in `folder`: the one that is there, or a new one once `work` has filled the folder.

    `work` returns the stage's metrics; it may be run again after a crash and goes on from what it finds. Raises
    InputError if the folder holds the same stage made from other inputs or settings, naming the difference.
    """
    made_from = describe_inputs(stage, inputs, settings)
    path = folder / RECORD_NAME
    if path.exists():
        record = read_record(path)
        refuse_difference(record, made_from, folder)
        log.info("%s: done already (%s)", stage, folder)
        return record
    require_writable(folder)
    started = time.monotonic()
    metrics = work()
    record = made_from | {
        "outputs": folder_entries(folder),
        "metrics": metrics,
        "seconds": round(time.monotonic() - started, 1),
        "code": code_version(),
    }
    os.sync()  # every file is on disk before the record that vouches for it
    create_record(record, path)
    return record


def describe_inputs(stage: str, inputs: Mapping[str, str | Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that is known beforehand: stage, input files with size and sha256, settings."""
    return {
        "stage": stage,
        "inputs": {name: file_entry(Path(path), name) for name, path in inputs.items()},
        "settings": json.loads(json.dumps(settings)),
    }


def difference(record: Mapping[str, Any], made_from: Mapping[str, Any]) -> str | None:
    """First input or setting of `made_from` in which `record` was made otherwise, in words; None if there is none."""
    before, now = _comparable(record), _comparable(made_from)
    for key in sorted(now):
        if before.get(key) != now.get(key):
            return f"{key} {before.get(key)}, now it is {now.get(key)}"
    return None


def refuse_difference(record: Mapping[str, Any], made_from: Mapping[str, Any], folder: Path) -> None:
    """Raise InputError if `record` in `folder` was made from something else."""
    if (found := difference(record, made_from)) is not None:
        raise InputError(
            f"{folder} holds a {record.get('stage')} made with {found}: choose another folder (artifacts.root, "
            "--output_dir) or restore the value"
        )


def read_record(path: Path) -> dict[str, Any]:
    """The record at `path`; InputError if it is damaged."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict):
        raise InputError(f"record {path} is damaged: remove the folder {path.parent} to make it again")
    return record


def create_record(record: Mapping[str, Any], path: Path) -> None:
    """Write a record that must not exist yet; InputError if another process wrote it first."""
    whole = path.with_name(f".{path.name}.{os.getpid()}")
    save_json(record, whole)
    try:
        os.link(whole, path)
    except FileExistsError:
        raise InputError(f"record {path} was written by another process meanwhile: run one process at a time") from None
    finally:
        whole.unlink()


def file_entry(path: Path, name: str) -> dict[str, Any]:
    """Path, size and sha256 of the input file called `name`."""
    try:
        return {"path": str(path), "size": path.stat().st_size, "sha256": sha256(path)}
    except FileNotFoundError:
        raise InputError(f"{name} input {path} does not exist: give the path of an existing file") from None


def folder_entries(folder: Path) -> dict[str, Any]:
    """Size and sha256 of every file below `folder`, by relative path; records and partial files left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    kept = [path for path in files if not path.name.startswith(".") and path != folder / RECORD_NAME]
    return {str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256(path)} for path in kept}


def code_version() -> dict[str, Any]:
    """Python and package versions, and the git commit this package runs from, if it does."""
    versions: dict[str, Any] = {"python": platform.python_version()}
    for package in _PACKAGES:
        versions[package] = importlib.metadata.version(package)
    root = Path(__file__).parent.parent
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
    """Flat view of what a stage was made from; files count by content, not by where they lie."""
    flat = {f"input {name}": entry["sha256"][:12] for name, entry in record.get("inputs", {}).items()}
    _flatten("", record.get("settings", {}), flat)
    return flat | {"stage": record.get("stage")}


def _flatten(prefix: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _flatten(f"{prefix}.{key}" if prefix else key, inner, into)
    else:
        into[prefix] = value
