"""Configs with values that make no sense, and YAML that holds none."""

from collections.abc import Callable, Iterator
from typing import Any

from core.config.experiment import ExperimentConfig
from core.config.loading import load_config
from core.inputs.yaml_text import read_yaml
from core.runtime.errors import InputError
from tests.schema import PLACES, SINGLE
from tests.sweep.ground import Ground, Row

TITLE = "Configs and settings"

Meant = Callable[[ExperimentConfig], bool]


def _set(*settings: str, meant: Meant | None = None) -> Callable[[Ground], Any]:
    def give(ground: Ground) -> Any:
        config = load_config(ground.config_path, settings)
        return meant is None or meant(config)

    return give


def _file(old: str, new: str, meant: Meant | None = None) -> Callable[[Ground], Any]:
    """The tiny experiment's file with `old` replaced; `old` empty: only `new` in the file."""

    def give(ground: Ground) -> Any:
        text = ground.config_path.read_text()
        assert old in text
        path = ground.file("given.yaml", text.replace(old, new, 1) if old else new)
        config = load_config(path)
        return meant is None or meant(config)

    return give


def _yaml(text: str) -> Callable[[Ground], Any]:
    return lambda ground: read_yaml(
        ground.file("given.yaml", text).read_bytes(), "config given.yaml", "correct the file"
    )


def _numbers() -> Iterator[Row]:
    for leaf in SINGLE:
        name = leaf.key.rpartition(".")[2]
        for value in (".nan", "1e300") if leaf.kind is float else ("10000000000000000000000",):
            yield Row("config", f"{leaf.key}={value}", _set(f"{leaf.key}={value}"), (leaf.key, name))


def _said(key: str, value: str, *words: str) -> Row:
    return Row("config", f"{key}={value[:40]}", _set(f"{key}={value}"), (key, *words))


def _read(key: str, value: str, meaning: str, meant: Meant) -> Row:
    return Row("config", f"{key}={value}", _set(f"{key}={value}", meant=meant), meaning=meaning)


def _every_place_at_once(value: str) -> Callable[[Ground], Any]:
    """Every path field is given it; the first that takes it is returned as understood, which fails the row."""

    def give(ground: Ground) -> Any:
        lines = []
        for key in sorted(PLACES):
            try:
                load_config(ground.config_path, [f"{key}={value}"])
            except InputError as error:
                lines.append(str(error))
                continue
            return False
        raise InputError(lines[0])

    return give


_BOMB = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip("abcdef", "bcdefg", strict=True)
)

ROWS = [
    *_numbers(),
    # Whole files.
    Row(
        "config",
        "a section given twice",
        _file("audit: null", "audit: null\ntraining: {epochs: 7}"),
        ("line", "training is given twice"),
    ),
    Row(
        "config",
        "a key given twice",
        _file("{epochs: 2, batch", "{epochs: 2, epochs: 9, batch"),
        ("epochs is given twice",),
    ),
    Row(
        "config",
        "a key given twice, once in quotes",
        _file("depth: 2", "depth: 2, 'depth': 3"),
        ("depth is given twice",),
    ),
    Row(
        "config",
        "a merge key overridden",
        _file("unet: {", "unet: {<<: {dropout: 0.5}, ", lambda c: c.unet.dropout == 0.1),
        meaning="what stands beside it wins",
    ),
    Row("config", "an empty file", _file("", "\n"), ("holds no mapping of sections",)),
    Row("config", "a list", _file("", "- a"), ("holds no mapping of sections",)),
    Row("config", "two documents", _file("audit: null", "audit: null\n---\na: 1"), ("another document",)),
    Row("config", "a file of 2 MiB", _file("", "#" * 2**21), ("larger than 1 MiB",)),
    Row("config", "a tab", _file("audit: null", "\taudit: null"), ("at line", "a tab", "write spaces")),
    Row("config", "a folder", lambda ground: load_config(ground.folder), ("is a folder",)),
    Row("config", "a device", lambda ground: load_config("/dev/zero"), ("is a device",)),
    Row("config", "a path with a NUL", lambda ground: load_config("a\0b.yaml"), ("NUL",)),
    Row("config", "no path", lambda ground: load_config(""), ("is empty",)),
    Row("config", "a file that is not there", lambda ground: load_config("~/nowhere.yaml"), ("does not exist",)),
    Row(
        "config",
        "$UNDEFINED_OF_SWEEP/c.yaml",
        lambda ground: load_config("$UNDEFINED_OF_SWEEP/c.yaml"),
        ("$UNDEFINED_OF_SWEEP is not set",),
    ),
    Row(
        "config",
        "extends a file that does not exist",
        _file("audit: null", "audit: null\nextends: nowhere.yaml"),
        ("given.yaml: extends", "nowhere.yaml does not exist"),
    ),
    Row("config", "extends itself", _file("audit: null", "audit: null\nextends: given.yaml"), ("in a circle",)),
    Row("config", "extends: 5", _file("audit: null", "audit: null\nextends: 5"), ("path of a YAML file, got 5",)),
    Row("--set", "audit={strengths: [0.5, 0.5]}", _set("audit={strengths: [0.5, 0.5]}"), ("audit.strengths", "twice")),
    Row("--set", "audit={strengths: [2.5]}", _set("audit={strengths: [2.5]}"), ("audit.strengths", "2.5")),
    Row("--set", "audit={strengths: [.nan]}", _set("audit={strengths: [.nan]}"), ("audit.strengths", "nan")),
    Row("--set", "extends=a.yaml", _set("extends=a.yaml"), ("only a file can extend another",)),
    # Values that YAML cannot make.
    Row(
        "config",
        "a date that does not exist",
        _file("{name: tiny}", "{name: 2024-13-45}"),
        ("given.yaml", "line 2", "is a date", "quotes"),
    ),
    Row("config", "a date", _file("{name: tiny}", "{name: 2024-01-05}"), ("given.yaml", "is a date", "quotes")),
    Row(
        "config",
        "a date in quotes",
        _file("{name: tiny}", "{name: '2024-01-05'}", lambda c: c.experiment.name == "2024-01-05"),
        meaning="a name",
    ),
    Row(
        "config",
        "5,000 digits",
        _file("{name: tiny}", f"{{name: {'9' * 5000}}}"),
        ("given.yaml", "more than 30 digits"),
    ),
    Row(
        "--set", "5,000 digits", _set(f"training.epochs={'9' * 5000}"), ("--set training.epochs", "more than 30 digits")
    ),
    Row(
        "--set",
        "a hexadecimal number of 5,000 digits",
        _set(f"training.epochs=0x{'f' * 5000}"),
        ("more than 30 digits",),
    ),
    Row("--set", "0x_", _set("experiment.name=0x_"), ("--set experiment.name", "0x_ is not a valid value")),
    Row(
        "--set",
        "600 lists within each other",
        _set(f"experiment.name={'[' * 600}{']' * 600}"),
        ("--set experiment.name", "nested more than"),
    ),
    Row("YAML", "a million opened lists", _yaml("[" * 1_000_000), ("nested more than 32 levels",)),
    Row("--set", "a filter that refers to itself", _set("dataset.filters=&f {is_empty: *f}"), ("*f refers to itself",)),
    Row("--set", "a list that refers to itself", _set("dataset.filters={is_empty: &l [*l]}"), ("*l refers to itself",)),
    Row("YAML", "references to references, 500,000 values", _yaml(_BOMB), ("more than 10000 values",)),
    Row(
        "YAML", "!!python/object/apply:os.getcwd []", _yaml("a: !!python/object/apply:os.getcwd []"), ("python/object",)
    ),
    Row("--set", "!!binary aGk=", _set("experiment.name=!!binary aGk="), ("binary",)),
    Row("--set", '"\\UFFFFFFFF"', _set('experiment.name="\\UFFFFFFFF"'), ("not valid YAML",)),
    # What YAML 1.1 reads otherwise.
    _read("training.learning_rate", "1e-4", "the number", lambda c: c.training.learning_rate == 1e-4),
    _read("training.epochs", "'5'", "the number in the text", lambda c: c.training.epochs == 5),
    _read("training.epochs", "010", "ten, not eight", lambda c: c.training.epochs == 10),
    _read("experiment.name", "007", "the name as it is written", lambda c: c.experiment.name == "007"),
    _read("training.shuffle", "no", "false", lambda c: c.training.shuffle is False),
    _said("experiment.name", "no", "quotes", "false"),
    _said("training.epochs", "1:30", "integer"),
    # Names.
    _said("experiment.name", "a" * 65, "65 characters", "at most 64"),
    _said("experiment.name", "prerequisites", "choose another name"),
    _said("experiment.name", "Prerequisites", "choose another name"),
    _said("experiment.name", "../x", "letters, digits"),
    _said("experiment.name", '"a\\nb"', "letters, digits"),
    _said("experiment.name", "''", "letters, digits"),
    _said("experiment.name", "ä", "letters, digits"),
    # Sizes that go together.
    Row("config", "unet.depth=10000000000", _set("unet.depth=10000000000"), ("unet.depth", "less than or equal to 12")),
    Row(
        "config",
        "autoencoder.downsampling_steps=11",
        _set("autoencoder.downsampling_steps=11"),
        ("downsampling_steps 11", "to nothing"),
    ),
    Row("config", "unet.attention_at=[5]", _set("unet.attention_at=[5]"), ("attention_at [5]", "0 to 1")),
    Row(
        "config",
        "channels beyond memory",
        _set("unet.base_channels=16384", "unet.norm_groups=1"),
        ("unet.base_channels 16384", "at most 16384"),
    ),
    # Choices and keys.
    _said("experiment.name", "1", "--set 'experiment.name=\"1\"'"),
    _read("experiment.name", '"1"', "the name as it is written", lambda c: c.experiment.name == "1"),
    _said("training.scheduler", "none", "should be a section of keys or null"),
    _said("unet.attention_at", "1", "should be a list"),
    _read(" training . epochs ", " 5 ", "the same without spaces", lambda c: c.training.epochs == 5),
    _read("scheduler.type", "COSINESCHEDULER", "CosineScheduler", lambda c: c.scheduler.type == "CosineScheduler"),
    _said("scheduler.type", "Cosine", "'CosineScheduler' or 'LinearScheduler'"),
    _said("training.optimizer", "adam", "'AdamW'"),
    _said("rounds.on_regression", "none", "'stop', 'keep_best' or 'halve_weight'"),
    _said("unet", "null", "should be a section of keys"),
    _said("discriminator.learning_rate", "1", "did you mean rounds.discriminator.learning_rate?"),
    _said("training.lr", "1", "no key has a similar name"),
    _said("rounds.cuont", "1", "did you mean rounds.count?"),
    Row("--set", "training..epochs=3", _set("training..epochs=3"), ("this is not a key",)),
    Row("--set", "a key of 5,000 parts", _set(f"dataset.filters{'.a' * 5000}=1"), ("this is not a key",)),
    _said(
        "training.loss",
        "{type: CompositeLoss, losses: [{type: MSELoss}, {type: MSELoss}]}"[:500],
        "MSELoss is given twice",
    ),
    Row("config", "filters of NaN", _set("dataset.filters={area: .nan}"), ("dataset.filters", "finite")),
    Row(
        "config",
        "comparison without seeds",
        _set("comparison={ablations: {control: {}}, seeds: []}"),
        ("comparison.seeds", "at least 1 item"),
    ),
    # Every path.
    Row("every path", "''", _every_place_at_once("''"), ("is empty",)),
    Row(
        "every path",
        "$UNDEFINED_OF_SWEEP/x",
        _every_place_at_once("$UNDEFINED_OF_SWEEP/x"),
        ("$UNDEFINED_OF_SWEEP is not set",),
    ),
    Row(
        "every path",
        "${UNDEFINED_OF_SWEEP}/x",
        _every_place_at_once("${UNDEFINED_OF_SWEEP}/x"),
        ("${UNDEFINED_OF_SWEEP} is not set",),
    ),
    Row("every path", "~nobody-there/x", _every_place_at_once("~nobody-there/x"), ("nobody-there has no home folder",)),
    Row("every path", "s3:/bucket/x", _every_place_at_once("s3:/bucket/x"), ("write s3://BUCKET/PREFIX",)),
    Row("every path", "file:///x", _every_place_at_once("file:///x"), ("write only its path",)),
    Row("every path", "gs://bucket/x", _every_place_at_once("gs://bucket/x"), ("write s3://BUCKET/PREFIX",)),
    Row("every path", "${HOME:-x}/y", _every_place_at_once("'${HOME:-x}/y'"), ("only $NAME and ${NAME}",)),
    Row("every path", "${HOME", _every_place_at_once("'${HOME'"), ("only $NAME and ${NAME}",)),
    Row("every path", "%USERPROFILE%/x", _every_place_at_once("'%USERPROFILE%/x'"), ("a Windows variable",)),
    Row("every path", "data\\x", _every_place_at_once("data\\x"), ("a Windows path", "write it with /")),
    Row("every path", "me@host:/x", _every_place_at_once("'me@host:/x'"), ("a path of another machine",)),
    Row("every path", "a space at its end", _every_place_at_once("'/x '"), ("ends with a space", "write it without")),
    Row("every path", "a line break at its end", _every_place_at_once('"/x\\n"'), ("line break", "write it without")),
    Row("every path", "quotes of a variable's file", _every_place_at_once("'\"/x\"'"), ("quotes around it",)),
    Row("every path", "C:\\x", _every_place_at_once("C:\\x"), ("a Windows path",)),
    Row("every path", "a number", _every_place_at_once("5"), ("should be text",)),
    _read(
        "artifacts.root",
        "$HOME/x",
        "the folder in it",
        lambda c: "$" not in c.artifacts.root and c.artifacts.root.endswith("/x"),
    ),
]
