"""The one parser: a function's signature is its command."""

import argparse
import inspect
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from core.distributed import is_first
from core.errors import InputError
from core.progress import log_to_stderr
from core.store import Location

_POSITIONAL = {"config": "YAML file of the experiment", "uri": "folder or s3:// address of artefacts"}
INPUT_ERROR_STATUS, INTERRUPTED_STATUS = 2, 130
_SECONDS_FOR_THE_FIRST = 10
INTERRUPTED_LINE = "interrupted; run the same command again to go on from the last checkpoint"


def run_command(function: Callable[..., Any], arguments: Sequence[str] | None = None) -> Any:
    """Result of `function` called with the command line's arguments.

    Parameters called `config` or `uri` are positional, and may be named as an option too; others without default are
    required options, those with one optional; `bool` is a switch, `bool | None` gives `--name/--no-name`;
    `Sequence[str]` is `--set`, which may be repeated. Option names take underscores or dashes. Parameters after `*` are
    not for the command line. Exits with 2 and one line for what the user can mend, with 3 where another process works
    on the run, with 130 when
    interrupted.
    """
    parser = _parser(function)
    values = vars(parser.parse_args(arguments))
    log_to_stderr()
    try:
        return function(**values)
    except InputError as error:
        _leave(f"error: {error}", error.exit_status)
    except KeyboardInterrupt:
        _leave(INTERRUPTED_LINE, INTERRUPTED_STATUS)
    except OSError as error:
        _leave(
            f"error: {error.filename or 'file'}: {error.strerror or error}; mend it and run again", INPUT_ERROR_STATUS
        )


def say(text: str) -> None:
    """One result line on stdout, of the first process."""
    if is_first():
        sys.stdout.write(f"{text}\n")


def _leave(line: str, status: int) -> None:
    logging.shutdown()
    if not is_first():
        # What stops every process is said once: torchrun ends the others as soon as the first has left.
        time.sleep(_SECONDS_FOR_THE_FIRST)
    sys.stderr.write(f"\n{line}\n" if sys.stderr.isatty() else f"{line}\n")
    sys.exit(status)


def _parser(function: Callable[..., Any]) -> argparse.ArgumentParser:
    description = (inspect.getdoc(function) or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            continue
        _add(parser, name, parameter)
    return parser


def _add(parser: argparse.ArgumentParser, name: str, parameter: inspect.Parameter) -> None:
    annotation, required = parameter.annotation, parameter.default is inspect.Parameter.empty
    if name in _POSITIONAL:
        group = parser.add_mutually_exclusive_group(required=True)
        group.add_argument(name, nargs="?", default=argparse.SUPPRESS, metavar=name.upper(), help=_POSITIONAL[name])
        group.add_argument(f"--{name}", dest=name, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return
    annotation = {Location: str, Location | None: str, str | None: str, int | None: int}.get(annotation, annotation)
    flags = list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))
    if annotation == bool | None:
        parser.add_argument(*flags, action=argparse.BooleanOptionalAction, default=parameter.default)
    elif annotation is bool:
        parser.add_argument(*flags, action="store_true")
    elif name == "overrides":
        parser.add_argument("--set", dest=name, action="append", default=[], metavar="KEY.PATH=VALUE")
    elif required:
        parser.add_argument(*flags, type=annotation, required=True)
    else:
        parser.add_argument(*flags, type=annotation, default=parameter.default, help=f"default {parameter.default}")
