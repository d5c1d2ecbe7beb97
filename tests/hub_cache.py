"""The cache of the Hugging Face hub, without a network."""

import shutil
from pathlib import Path

import pytest

_COMMIT = "0" * 40


def put_into_cache(monkeypatch: pytest.MonkeyPatch, cache: Path, model: Path) -> Path:
    """Folder in `cache` of a copy of `model` that is found there as `someone/rooms`; the hub is not asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    cached = cache / "models--someone--rooms"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(_COMMIT)
    return Path(shutil.copytree(model, cached / "snapshots" / _COMMIT))
