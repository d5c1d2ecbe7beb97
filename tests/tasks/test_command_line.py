"""The command line: places and numbers of options, and output that cannot be written."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from core.inputs.locations import Location
from core.inputs.section import LearningRate, Samples, Seed
from tasks.command_line import run_command

# A command that says a line and logs one, as the project's commands do, in the names of the rows below.
SPEAKER = """
import logging, os, sys
from tasks.command_line import run_command, say

def speak(uri: str, how: str = "say") -> str:
    "Say uri."
    logging.getLogger("core.speaker").info("at work on %s", uri)
    if how == "large":
        with open(uri, "wb") as file:
            file.write(b"x" * 2**20)
    if how == "missing":
        open(uri)
    return uri

say(run_command(speak))
if sys.argv[-1] == "twice":
    say("again")
"""


def spoken(arguments: str, before: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`SPEAKER` with these arguments and redirections, in a shell that did `before`."""
    command = f"set -o pipefail; {before}\n'{sys.executable}' -c \"$SPEAKER\" {arguments}"
    known = {**os.environ, "SPEAKER": SPEAKER, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run(["bash", "-c", command], env=known, capture_output=True, timeout=120)


@pytest.mark.parametrize(
    "arguments, environment, status, out, last",
    [
        ("place", {}, 0, b"place\n", b"at work on place"),
        ("place > /dev/full", {}, 2, b"", b"error: standard output cannot be written (No space left on device)"),
        ("place >&-", {}, 2, b"", b"error: standard output cannot be written (it is closed)"),
        ("place --how twice | true", {}, 0, b"", b"at work on place"),
        ("--help > /dev/full", {}, 0, b"", b""),
        ("place 2>&-", {}, 0, b"place\n", b""),
        ("place 2> /dev/full", {}, 0, b"place\n", b""),
        ("missing --how missing 2>&- >&-", {}, 2, b"", b""),
        ("'ü→x'", {"PYTHONIOENCODING": "ascii"}, 0, b"\\xfc\\u2192x\n", b"at work on \\xfc\\u2192x"),
        ("'ü→x'", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, 0, None, None),
        ("$'a\\xffb'", {}, 0, b"a\\udcffb\n", b"at work on a\\udcffb"),
        ("$'a\\e[2Jb\\rc'", {}, 0, b"a\\x1b[2Jb\\rc\n", b"at work on a\\x1b[2Jb\\rc"),
        ("nowhere/x --how missing", {}, 2, b"", b"error: nowhere/x: No such file or directory: check that it exists"),
        (
            "place $'--\\e[2J'",
            {},
            2,
            b"",
            b"error: unrecognized arguments: --\\x1b[2J; --help lists the options",
        ),
    ],
)
def test_output_that_cannot_be_written_as_it_is_ends_without_a_traceback(arguments, environment, status, out, last):
    ended = spoken(arguments, **environment)
    lines = ended.stderr.splitlines()
    assert ended.returncode == status and b"Traceback" not in ended.stderr and b"Exception" not in ended.stderr
    assert out is None or ended.stdout == out
    assert last is None or (lines[-1] if lines else b"").startswith(last)
    assert len(lines) <= 2


def test_a_limit_on_the_size_of_files_is_said_with_its_remedy(tmp_path):
    ended = spoken(f"{tmp_path / 'x'} --how large", before="ulimit -f 100")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].endswith(
        b"File too large: raise the limit on the size of files (ulimit -f) and run the same command again"
    )


def known(
    config: Location,
    output_dir: Location = "out",
    number: Samples = 1,
    seed: Seed | None = None,
    rate: LearningRate = 0.1,
    overrides: Sequence[str] = (),
) -> list[object]:
    """Say what was given."""
    return [config, output_dir, number, seed, rate]


def test_places_of_the_command_line_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/someone")
    monkeypatch.setenv("SCRATCH_OF_TEST", "/scratch")
    assert run_command(known, ["~/c.yaml", "--output_dir=${SCRATCH_OF_TEST}/x", "--seed", "3"]) == [
        *("/home/of/someone/c.yaml", "/scratch/x", 1, 3, 0.1)
    ]


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["c", "--output_dir="], "--output_dir is empty"),
        (["c", "--output_dir", "s3:/x"], "--output_dir s3:/x is neither a local path nor an s3:// address"),
        (["$UNDEFINED_OF_TEST/c"], "config $UNDEFINED_OF_TEST/c: the variable $UNDEFINED_OF_TEST is not set"),
        (["s3://user:SECRET@b/c"], "config holds a user or password"),
        (["c", "--seed", "-1"], "--seed -1: it must be greater than or equal to 0"),
        (["c", "--seed", str(2**63)], "--seed 9223372036854775808: it must be less than or equal to"),
        (["c", "--number", "0"], "--number 0: it must be greater than 0"),
        (["c", "--number", "1000000000000"], "--number 1000000000000: it must be less than"),
        (["c", "--number", "9" * 5000], "argument --number: invalid int value: '999"),
        (["c", "--rate", "nan"], "--rate nan: it must be a finite number"),
        (["c", "--rate", "inf"], "--rate inf: it must be a finite number"),
        (["c", "--rate", "-0.5"], "--rate -0.5: it must be greater than 0"),
        ([], "one of the arguments CONFIG is required; --help lists the options"),
    ],
)
def test_an_option_that_makes_no_sense_is_one_line(capsys, arguments, line):
    with pytest.raises(SystemExit) as stop:
        run_command(known, arguments)
    errors = capsys.readouterr().err
    assert stop.value.code == 2 and errors.count("\n") == 1 and errors.startswith(f"error: {line}")
    assert "SECRET" not in errors and len(errors) < 600


def test_prefect_has_the_same_settings_in_every_folder(tmp_path):
    """A plain `python -m flows...`: what pyproject.toml says of the project's folder holds elsewhere too."""
    script = (
        "import flows; from prefect.settings import get_current_settings; s = get_current_settings(); print("
        "s.server.analytics_enabled, s.logging.extra_loggers, s.logging.to_api.when_missing_flow, "
        "s.server.ephemeral.startup_timeout_seconds)"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    said = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**kept, "PREFECT_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path.cwd()), **more},
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for folder, more in [
            (tmp_path, {}),
            (Path.cwd(), {}),
            (tmp_path, {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "7"}),
        ]
    ]
    assert said == ["False ['core'] ignore 120\n"] * 2 + ["False ['core'] ignore 7\n"]


def test_pyproject_says_of_prefect_what_the_flows_say():
    import tomllib

    from flows.prefect_settings import SETTINGS

    def flat(table: dict[str, object], prefix: str) -> dict[str, str]:
        found = {}
        for name, value in table.items():
            key = f"{prefix}_{name.upper()}"
            found |= flat(value, key) if isinstance(value, dict) else {key: str(value).replace("False", "false")}
        return found

    assert flat(tomllib.loads(Path("pyproject.toml").read_text())["tool"]["prefect"], "PREFECT") == SETTINGS


def test_only_one_module_writes_to_the_terminal():
    """What a command says passes through `say`, so that a closed or full output ends every command alike."""
    files = [path for package in ("core", "tasks", "flows") for path in Path(package).rglob("*.py")]
    writers = {path for path in files if "sys.stdout" in path.read_text() or "sys.__stdout__" in path.read_text()}
    assert writers == {Path("tasks/standard_streams.py")}
