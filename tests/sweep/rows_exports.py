"""Models that cannot be exported: checkpoints that are none, forms that do not hold them, places that are not free."""

import shutil
from collections.abc import Callable
from typing import Any

from tasks.export import export
from tests.sweep.broken_checkpoints import with_file, with_smaller_weights
from tests.sweep.ground import Ground, Row

TITLE = "Models that cannot be exported"


def _exported(name: str | None = None, **given: Any) -> Callable[[Ground], Any]:
    """Export the tiny experiment's Stage 2, or the file or folder `name`; no folder is left."""

    def give(ground: Ground) -> Any:
        checkpoint = ground.folder / name if name else ground.config.required("diffusion.stage2_checkpoint")
        output = ground.folder / "model"
        try:
            return export(checkpoint, **{"config": ground.config_path, "output_dir": output} | given)
        finally:
            assert not output.exists(), "something was written"

    return give


def _into(name: str) -> Callable[[Ground], Any]:
    """Export into a folder that holds a file of this name."""

    def give(ground: Ground) -> Any:
        ground.file(f"model/{name}", "mine")
        checkpoint = ground.config.required("diffusion.stage2_checkpoint")
        return export(checkpoint, ground.config_path, ground.folder / "model")

    return give


def _after(**changed: Any) -> Callable[[Ground], Any]:
    """Export into a folder that holds Stage 2, something else."""

    def give(ground: Ground) -> Any:
        output, config = ground.folder / "model", ground.config_path
        export(ground.config.required("diffusion.stage2_checkpoint"), config, output)
        kept = ground.folder / "kept"
        shutil.copytree(output, kept)
        for path in kept.rglob("*.*"):
            ground.written[output / path.relative_to(kept)] = path.read_bytes()
        given = {"checkpoint": ground.config.required("diffusion.stage2_checkpoint"), "config": config} | changed
        return export(output_dir=output, **given)

    return give


_PLACES = ("give either --output_dir", "or --output")
_OTHER = "holds a model made with"
ROWS = [
    Row("export --checkpoint", "a file that does not exist", _exported("none.pt"), ("none.pt", "does not exist")),
    Row("export --checkpoint", "an empty file", with_file(_exported, ""), ("given.pt", "empty")),
    Row("export --checkpoint", "a text", with_file(_exported, "no model"), ("given.pt",)),
    Row(
        "export --checkpoint",
        "a model of another size",
        with_smaller_weights(_exported),
        ("given.pt has another architecture",),
    ),
    Row("export --checkpoint", "a file, without a config", _exported(config=None), ("give --config CONFIG too",)),
    Row("export --checkpoint", "a folder without rounds", _exported("."), ("holds no finished round",)),
    Row("export --form", "imginav, of a UNet2DModel", _exported(form="imginav"), ("--form imginav", "UNet2DModel")),
    Row(
        "export --form", "imginav, of a file", _exported(form="imginav", output="m", output_dir=None), ("--form goes",)
    ),
    Row("export --output", "no place at all", _exported(output_dir=None), _PLACES),
    Row("export --output", "a folder too", _exported(output="m.safetensors"), _PLACES),
    Row("export --start", "a file, without --strength", _exported(start="a.pt"), ("--start goes with --strength",)),
    *(
        Row("export --output_dir", f"a folder that holds {name}", _into(name), (name, "model", "--output_dir"))
        for name in ("notes.txt", "README.md", "unet/config.json", "stage.json", "state/mine.pt")
    ),
    Row(
        "export --output_dir", "another model", _after(checkpoint="configs/base/stage2.safetensors"), (_OTHER, "input")
    ),
    Row("export --output_dir", "the model at a strength", _after(strength=0.5), (_OTHER, "start None, now it is")),
]
