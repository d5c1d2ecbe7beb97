"""Layouts that cannot be drawn: models that are none, and folders to draw into that are not free."""

import shutil
from collections.abc import Callable
from typing import Any

from core.config.loading import config_bytes
from tasks.sample import sample
from tests.sweep.broken_checkpoints import with_file, with_smaller_weights
from tests.sweep.ground import Ground, Row

TITLE = "Layouts that cannot be drawn"


def _drawn(name: str | None = None, *, with_config: bool = True, **given: Any) -> Callable[[Ground], Any]:
    """Draw a layout with the tiny experiment's Stage 2, or the file or folder `name`; no folder is left."""

    def give(ground: Ground) -> Any:
        checkpoint = ground.folder / name if name else ground.config.required("diffusion.stage2_checkpoint")
        config = ground.config_path if with_config else None
        output = ground.folder / "layouts"
        try:
            return sample(checkpoint, output, 1, 1, config, **given)
        finally:
            assert not output.exists(), "something was written"

    return give


def _begun(*path: str) -> Callable[[Ground], Any]:
    """A round that has its config and no record yet."""

    def give(ground: Ground) -> Any:
        ground.file("tiny/run.json", '{"experiment": "tiny", "parent": null}')
        ground.file("tiny/round-01/config.yaml", config_bytes(ground.config))
        return _drawn("/".join(("tiny", *path)), with_config=False)(ground)

    return give


def _into(name: str) -> Callable[[Ground], Any]:
    """Draw into a folder that holds a file of this name."""

    def give(ground: Ground) -> Any:
        ground.file(f"layouts/{name}", "mine")
        checkpoint = ground.config.required("diffusion.stage2_checkpoint")
        return sample(checkpoint, ground.folder / "layouts", 1, 1, ground.config_path, num_steps=1)

    return give


def _after(**changed: Any) -> Callable[[Ground], Any]:
    """Draw into a folder that holds a layout, with other settings."""

    def give(ground: Ground) -> Any:
        checkpoint, output = ground.config.required("diffusion.stage2_checkpoint"), ground.folder / "layouts"
        given = {"num_samples": 1, "seed": 1, "config": ground.config_path, "num_steps": 1}
        sample(checkpoint, output, **given)
        kept = ground.folder / "kept"
        shutil.copytree(output, kept)
        for path in kept.rglob("*.*"):
            ground.written[output / path.relative_to(kept)] = path.read_bytes()
        return sample(checkpoint, output, **given | changed)

    return give


_HELD = "holds a drawing made with"
ROWS = [
    Row("sample --checkpoint", "a file that does not exist", _drawn("none.pt"), ("none.pt", "does not exist")),
    Row("sample --checkpoint", "an empty file", with_file(_drawn, ""), ("given.pt", "empty")),
    Row("sample --checkpoint", "a text", with_file(_drawn, "no model"), ("given.pt",)),
    Row(
        "sample --checkpoint",
        "a model of another size",
        with_smaller_weights(_drawn),
        ("given.pt has another architecture",),
    ),
    Row("sample --checkpoint", "a file, without a config", _drawn(with_config=False), ("give --config CONFIG too",)),
    Row("sample --checkpoint", "a folder without rounds", _drawn("."), ("holds no finished round",)),
    Row("sample --checkpoint", "a round that is not finished", _begun("round-01"), ("holds no finished round",)),
    Row("sample --checkpoint", "a run without a finished round", _begun(), ("tiny holds no finished round",)),
    Row("sample --checkpoint", "its record", _begun("round-01", "round.json"), ("no finished round",)),
    Row("sample --num_steps", "more than the schedule has", _drawn(num_steps=101), ("--num_steps 101",)),
    Row("sample --start", "a file, without --strength", _drawn(start="a.pt"), ("--start goes with --strength",)),
    Row("sample --audit", "a config without an audit", _drawn(audit=True), ("audit is missing",)),
    *(
        Row("sample --output_dir", f"a folder that holds {name}", _into(name), (name, "layouts", "--output_dir"))
        for name in ("notes.txt", "manifest.csv", "metadata.jsonl", "layouts/00000.png", "stage.json", "state/mine.pt")
    ),
    Row("sample --output_dir", "layouts of another seed", _after(seed=2), (_HELD, "seed 1, now it is 2")),
    Row("sample --output_dir", "fewer layouts", _after(num_samples=2), (_HELD, "num_samples 1, now it is 2")),
    Row("sample --output_dir", "layouts of other steps", _after(num_steps=2), (_HELD, "num_steps 1, now it is 2")),
]
