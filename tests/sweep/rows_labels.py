"""Labels of generated layouts: by a person, for a critic to learn from, and by a program of the user's."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from core.checkpoints.loading import load_autoencoder
from core.config.loading import load_config
from core.labels.checker import ask_checker
from core.labels.hand_labels import read_hand_labels
from core.labels.label_sources import label_inputs
from core.rounds.awaited_labels import awaited_labels
from tests.labelled_round import make_labelled, name_of
from tests.sweep.ground import Ground, Row

TITLE = "Labels of generated layouts"

Section = Mapping[str, Any]


def _by_hand(labels: Mapping[int, bool], made: Section | None = None, **values: Any) -> Callable[[Ground], Any]:
    """A label file with `labels` by sample is read; `made` says how the folder was made whose latents it labels."""

    def give(ground: Ground) -> bool:
        rows = [f"{name_of(sample)},{viable}" for sample, viable in labels.items()]
        file = ground.file("labels.csv", "\n".join(["latent_path,is_viable", *rows, ""]))
        own = dict(made or {})
        if own.pop("other_autoencoder", False):
            own["autoencoder"] = ground.file("other.pt", b"other weights")
        count = max([*labels, 0]) + 1
        latents = make_labelled(ground.config, ground.folder / "bad_latents", **{"count": count} | own)
        section = {"labels": "file", "file": str(file), "latents": str(latents)} | values
        read = read_hand_labels(ground.config.with_values({"rounds.viability": section}))
        return read.viable.tolist() == [viable for _, viable in sorted(labels.items())]

    return give


def _some(viable: int, others: int) -> dict[int, bool]:
    return dict(enumerate([True] * viable + [False] * others))


def _awaited(ground: Ground) -> bool:
    latents = make_labelled(ground.config, ground.folder / "round-02" / "bad_latents", count=2)
    section = {"labels": "file", "file": str(ground.folder / "labels.csv"), "latents": str(latents)}
    missing = awaited_labels(ground.config.with_values({"rounds.viability": section}))
    return missing is not None and "round-02/config.yaml --round 2 --output labels.html" in missing


def _missing_file(ground: Ground) -> Any:
    latents = make_labelled(ground.config, ground.folder / "bad_latents", count=2)
    section = {"labels": "file", "file": str(ground.folder / "no.csv"), "latents": str(latents)}
    return read_hand_labels(ground.config.with_values({"rounds.viability": section}))


HAND = [
    Row("label file", given, give, says)
    for given, give, says in (
        ("19 labels", _by_hand(_some(9, 10)), ("labels.csv: only 19 labelled", "at least 20", "label more layouts")),
        ("four of a kind", _by_hand(_some(4, 26)), ("4 of 30 layouts are viable", "at least 5 of each kind")),
        ("one of a hundred", _by_hand(_some(1, 99)), ("1 of 100 layouts is viable", "at least 2%")),
        ("all of one kind", _by_hand(_some(20, 0)), ("0 of 20 layouts are not viable", "label more layouts")),
        (
            "latents of another shape",
            _by_hand(_some(10, 10), {"shape": (6, 8, 8)}),
            ("rounds.viability.latents", "shape [6, 8, 8], the model's have [4, 8, 8]"),
        ),
        (
            "latents of another autoencoder",
            _by_hand(_some(10, 10), {"other_autoencoder": True}),
            ("rounds.viability.latents", "other.pt", "set autoencoder.checkpoint="),
        ),
        (
            "latents that nobody judged",
            _by_hand(_some(10, 10), {"judged": False}),
            ("has no labelled_latents.pt", "--judged"),
        ),
        (
            "no finished stage",
            _by_hand(_some(10, 10), latents="/nowhere"),
            ("rounds.viability.latents: /nowhere holds no finished generate-bad-latents",),
        ),
        (
            "latents that the folder lacks",
            _by_hand(_some(10, 10), {"count": 19}),
            ("viable_latent_00019.pt", "does not have"),
        ),
        ("no file named", _by_hand(_some(10, 10), file=None), ("rounds.viability.file is missing",)),
        ("no latents named", _by_hand(_some(10, 10), latents=None), ("rounds.viability.latents is missing",)),
        ("a file that does not exist", _missing_file, ("no.csv", "does not exist")),
    )
] + [
    Row("label file", "five of a kind", _by_hand(_some(5, 20)), meaning="their labels"),
    Row("gate", "a label file that does not exist", _awaited, meaning="it asks, and names the command for the page"),
]

_READ = (
    "import csv, os, sys, time\n"
    "rows = list(csv.DictReader(open(sys.argv[-1])))\n"
    "def write(rows):\n"
    "    with open(sys.argv[-1], 'w', newline='') as file:\n"
    "        writer = csv.DictWriter(file, list(rows[0]))\n"
    "        writer.writeheader()\n"
    "        writer.writerows(rows)\n"
)
_FLAGGED = "[{**row, 'is_viable': n % 2} for n, row in enumerate(rows)]"


def _checked(body: str, **values: Any) -> Callable[[Ground], Any]:
    """Four layouts are judged by a Python script with this end."""

    def give(ground: Ground) -> bool:
        script = ground.file("check.py", f"{_READ}{body}\n")
        command = [sys.executable, "-S", str(script)]
        return _ask(ground, {"command": command} | values) == [False, True, False, True]

    return give


def _ask(ground: Ground, values: Section) -> list[bool]:
    config = ground.config.with_values({"rounds.viability": {"labels": "command"} | dict(values)})
    label_inputs(config)
    decoder = load_autoencoder(Path(config.autoencoder.checkpoint), config).decoder
    verdicts = ask_checker(torch.zeros(4, *config.latent_shape), decoder, config, ground.folder / "scratch")
    return verdicts


def _program(*command: str) -> Callable[[Ground], Any]:
    return lambda ground: _ask(ground, {"command": list(command)})


def _no_program(ground: Ground) -> Any:
    script = ground.file("check", b"\0\1 no program")
    script.chmod(0o755)
    return _ask(ground, {"command": [str(script)]})


CHECKER = [
    Row("command", given, give, ("rounds.viability.command", *says))
    for given, give, says in (
        ("a program that is not there", _program("no-such-program-of-sweep"), ("no program no-such-program-of-sweep",)),
        ("a file that is not executable", _program("/etc/passwd"), ("no program /etc/passwd", "an executable file")),
        ("bytes that are no program", _no_program, ("cannot be started", "name the program that runs it first")),
        ("an exit status", _checked("sys.exit('no model')"), ("exit status 1 (no model)", "correct it")),
        ("an exit status without a word", _checked("sys.exit(7)"), ("exit status 7 (it wrote nothing",)),
        ("an end by a signal", _checked("os.kill(os.getpid(), 9)"), ("killed by signal 9",)),
        (
            "a command that hangs",
            _checked("time.sleep(600)", command_seconds=0.5),
            ("took longer than 0.5 seconds and was killed", "raise rounds.viability.command_seconds"),
        ),
        ("a table without verdicts", _checked("pass"), ("layouts.csv has no column is_viable",)),
        ("no table", _checked("os.unlink(sys.argv[-1])"), ("layouts.csv does not exist",)),
        ("a table of garbage", _checked("open(sys.argv[-1], 'wb').write(b'\\x89PNG\\xff')"), ("not UTF-8 text",)),
        ("an empty table", _checked("open(sys.argv[-1], 'w')"), ("layouts.csv is empty",)),
        ("too few verdicts", _checked(f"write({_FLAGGED}[:3])"), ("lack latent_00003.pt", "for each layout")),
        (
            "an empty verdict",
            _checked("write([{**row, 'is_viable': ''} for row in rows])"),
            ("is_viable is empty",),
        ),
        ("a number between", _checked("write([{**row, 'is_viable': 0.5} for row in rows])"), ("is_viable is '0.5'",)),
        ("a latent twice", _checked(f"write({_FLAGGED} + {_FLAGGED}[:1])"), ("latent_00000.pt is there twice",)),
        (
            "a latent that was not given",
            _checked(f"write([{{**row, 'latent_path': 'x.pt'}} for row in {_FLAGGED}[:1]])"),
            ("name x.pt", "does not have"),
        ),
    )
] + [Row("command", "a verdict on each layout", _checked(f"print('done'); write({_FLAGGED}[::-1])"), meaning="so")]


def _set(*settings: str) -> Callable[[Ground], Any]:
    return lambda ground: load_config(ground.config_path, settings)


SETTINGS = [
    Row("config", " ".join(given), _set(*given), says)
    for given, says in (
        (("rounds.viability.labels=command",), ("rounds.viability", "labels command needs command", "give a list")),
        (("rounds.viability.command=[]",), ("rounds.viability", "command names no program")),
        (("rounds.viability.command=['']",), ("rounds.viability", "command names no program")),
        (("rounds.viability.command=python check.py",), ("rounds.viability.command", "should be a list")),
        (("rounds.viability.command=[check, 5]",), ("rounds.viability.command", "should be text")),
        (('rounds.viability.command=["a\\0b"]',), ("rounds.viability.command", "a NUL character")),
        (
            ("discriminator.form=negative_aware",),
            ("discriminator.form negative_aware", "rounds.viability.labels generated", "rules, file or command"),
        ),
    )
]

ROWS = [*HAND, *CHECKER, *SETTINGS]
