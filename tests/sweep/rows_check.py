"""Configs whose parts a check refuses, and folders that are no model to draw with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core import load_model
from tasks.check import check
from tasks.export import export
from tests.sweep.broken_checkpoints import with_file, with_smaller_weights
from tests.sweep.ground import Ground, Row

TITLE = "What a check finds, and folders that draw nothing"


def _checked(*overrides: str) -> Callable[[Ground], Any]:
    """Check the tiny experiment with other settings; nothing is written."""

    def give(ground: Ground) -> Any:
        before = sorted(ground.folder.rglob("*"))
        try:
            return check(ground.config_path, [value.format(folder=ground.folder) for value in overrides])
        finally:
            assert sorted(ground.folder.rglob("*")) == before, "something was written"

    return give


def _stage2(name: str) -> Callable[[Ground], Any]:
    return _checked(f"diffusion.stage2_checkpoint={{folder}}/{name}")


def _exported(change: Callable[[Path], object]) -> Callable[[Ground], Any]:
    """Load the folder of the exported Stage 2 of the tiny experiment, changed."""

    def give(ground: Ground) -> Any:
        folder = ground.folder / "model"
        export(ground.config.required("diffusion.stage2_checkpoint"), ground.config_path, folder)
        change(folder)
        return load_model(folder)

    return give


def _with(part: str, **values: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / part / "config.json" if part else folder / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def _without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


_WEIGHTS = "diffusion_pytorch_model.safetensors"
ROWS = [
    Row("check", "a Stage 2 that does not exist", _stage2("none.pt"), ("none.pt", "does not exist")),
    Row("check", "a Stage 2 that is a text", with_file(_stage2, "no model"), ("given.pt",)),
    Row("check", "a Stage 2 of another size", with_smaller_weights(_stage2), ("given.pt has another architecture",)),
    Row("check", "no manifest at its path", _checked("dataset.manifest=none.csv"), ("manifest none.csv", "not exist")),
    Row(
        "check",
        "a Stage 1 that nothing makes",
        _checked("prerequisites.stage1=null", "prerequisites.seed=9"),
        ("diffusion.stage1_checkpoint is missing",),
    ),
    Row("check", "a GPU that is not there", _checked("training.device=cuda:99"), ("device cuda:99",)),
    Row("load_model", "an export of other classes", _exported(_with("", class_names=["a"])), ("other classes",)),
    Row(
        "load_model",
        "an export whose decoder has a size in words",
        _exported(_with("decoder", max_channels="many")),
        ("decoder is no decoder", "max_channels is 'many'"),
    ),
    Row(
        "load_model",
        "an export without its decoder's weights",
        _exported(_without(f"decoder/{_WEIGHTS}")),
        ("decoder holds no weights",),
    ),
    Row(
        "load_model",
        "an export that does not say its size",
        _exported(_with("unet", sample_size=None)),
        ("does not say how large its layouts are", "--config"),
    ),
]
