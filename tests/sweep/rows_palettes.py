"""Files that are no palette, and checkpoints and data that do not go with one."""

from collections.abc import Callable
from typing import Any

import yaml

from core.checkpoints.imported_models import load_experiment
from core.checkpoints.loading import load_autoencoder
from core.data.palette_file import read_palette
from core.runtime.errors import InputError
from core.training.prerequisites import make_prerequisite
from tests.commands import Command
from tests.imginav_files import write_checkpoints, write_config
from tests.palettes import OWN, write_palette
from tests.sweep.ground import Ground, Row

TITLE = "Palettes"

_WALLS = "wall: [200, 200, 200]\nbackground: [240, 240, 240]\n"


def _experiment(text: bytes | str) -> Callable[[Ground], Any]:
    """Load the tiny experiment with a palette of this text."""

    def give(ground: Ground) -> Any:
        return load_experiment(ground.config_path, [f"dataset.palette={ground.file('palette.yaml', text)}"])

    return give


def _colours(*colours: str) -> Callable[[Ground], Any]:
    return _experiment(_WALLS + "".join(f"class {number}: {colour}\n" for number, colour in enumerate(colours)))


def _place(name: str) -> Callable[[Ground], Any]:
    return lambda ground: load_experiment(ground.config_path, [f"dataset.palette={ground.folder / name}"])


def _command(module: str, *more: str) -> Callable[[Ground], Any]:
    """The command with a palette of two classes; it ends with exit status 2 and leaves nothing."""

    def give(ground: Ground) -> Any:
        palette, root = ground.file("palette.yaml", _WALLS), ground.folder / "root"
        sets = ["--set", f"dataset.palette={palette}", "--set", f"artifacts.root={root}"]
        config = ["--config", ground.config_path]
        command = Command(module, *config, *more, *sets)
        _, errors = command.communicate(60)
        (line,) = errors.strip().splitlines()
        assert command.returncode == 2 and not root.exists()
        raise InputError(line)

    return give


def _own(ground: Ground) -> str:
    """A palette of five classes."""
    path = write_palette(ground.folder / "palette.yaml")
    ground.written[path] = path.read_bytes()
    return str(path)


def _autoencoder_of_ten_classes(ground: Ground) -> Any:
    config = ground.config.with_values({"dataset.palette": _own(ground)})
    return load_autoencoder(config.required("autoencoder.checkpoint"), config)


def _finished_without(ground: Ground) -> Any:
    config = load_experiment(ground.config_path, [f"dataset.palette={_own(ground)}"])
    return make_prerequisite("autoencoder", config)


def _of_imginav(ground: Ground) -> Any:
    path = write_config(*write_checkpoints(ground.folder))
    return load_experiment(path, [f"dataset.palette={_own(ground)}"])


def _synthetic(ground: Ground) -> Any:
    sets = ["dataset.manifest=null", "dataset.synthetic={count: 8}", f"dataset.palette={_own(ground)}"]
    return load_experiment(ground.config_path, sets)


def _understood(ground: Ground) -> Any:
    config = load_experiment(ground.config_path, [f"dataset.palette={_own(ground)}"])
    return read_palette(config) == OWN


_NOT_A_COLOUR = ("palette.yaml gives class 0 the colour", "three whole numbers from 0 to 255")
_MANY = yaml.safe_dump({f"c{number}": [4 * number, 0, 255 - 3 * number] for number in range(63)})
ROWS = [
    Row("dataset.palette", "five classes, some colours in hexadecimal", _understood, meaning="five classes in order"),
    Row("dataset.palette", "a file that does not exist", _place("none.yaml"), ("none.yaml does not exist",)),
    Row("dataset.palette", "a folder", _place("."), ("a folder", "give the path of a file")),
    Row("dataset.palette", "an empty file", _experiment(""), ("holds null", "not a map of names and colours")),
    Row("dataset.palette", "a list", _experiment("- bed\n- wall\n"), ("not a map of names and colours",)),
    Row("dataset.palette", "a text", _experiment("colours"), ("holds 'colours', not a map",)),
    Row("dataset.palette", "a PNG picture", _experiment(b"\x89PNG\r\n\x1a\n\0\0"), ("palette.yaml", "not valid YAML")),
    Row("dataset.palette", "two classes", _experiment(_WALLS), ("has 2 classes: give 3 to 64",)),
    Row("dataset.palette", "65 classes", _experiment(_WALLS + _MANY), ("has 65 classes: give 3 to 64",)),
    Row("dataset.palette", "equal colours", _colours("[9, 9, 9]", '"#090909"'), ("the same colour [9, 9, 9]",)),
    Row("dataset.palette", "colours 12 apart", _colours("[236, 236, 236]"), ("differ by 12", "by more than 12")),
    Row("dataset.palette", "a class twice", _experiment(_WALLS + "wall: [0, 0, 0]"), ("wall is given twice",)),
    Row("dataset.palette", "no wall", _experiment("a: [0, 0, 0]\nb: [99, 0, 0]\nc: [0, 99, 0]"), ("no class wall",)),
    Row(
        "dataset.palette",
        "no background",
        _experiment("wall: [0, 0, 0]\nb: [99, 0, 0]\nc: [0, 99, 0]"),
        ("no class background",),
    ),
    Row("dataset.palette", "a number as a name", _experiment(_WALLS + "7: [9, 9, 9]"), ("class 7", "in quotes")),
    Row(
        "dataset.palette", "a name of two lines", _experiment(_WALLS + '"a\\nb": [9, 9, 9]'), ("printable characters",)
    ),
    *(
        Row("dataset.palette", f"the colour {colour}", _colours(colour), _NOT_A_COLOUR)
        for colour in (
            *("[256, 0, 0]", "[-1, 0, 0]", "[1.5, 0, 0]", "[true, 0, 0]", "[1, 2]", "[1, 2, 3, 4]"),
            *("red", '"#fff"', "#ffffff", "{r: 1, g: 2, b: 3}", "null", "[.nan, 0, 0]"),
        )
    ),
    Row("dataset.palette", "synthetic layouts beside it", _synthetic, ("synthetic layouts", "remove one of the two")),
    Row("autoencoder of ten classes", "a palette of five", _autoencoder_of_ten_classes, ("has 10 classes", "has 5: ")),
    Row("models of ImgiNav", "a palette of five classes", _of_imginav, ("is of ImgiNav", "the 10 classes", "has 5")),
    Row(
        "finished autoencoder",
        "a palette where it had none",
        _finished_without,
        ("made with input palette the project's own, now it is", "restore the value"),
    ),
    *(
        Row(module, "a palette of two classes", _command(module, *more), ("error: dataset.palette", "has 2 classes"))
        for module, more in {
            "flows.prerequisites": [],
            "flows.adversarial_training": [],
            "tasks.audit": ["--checkpoint", "a.pt"],
            "tasks.sample": ["--checkpoint", "a.pt", "--output_dir", "out", "--num_samples", "1", "--seed", "1"],
        }.items()
    ),
]
