"""Commands: the command line of a function follows from its signature."""

import argparse
import inspect
import logging
import sys
import time
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from core.inputs.locations import expanded_location
from core.inputs.section import choices
from core.runtime.distributed import is_first
from core.runtime.errors import InputError, system_line
from core.runtime.progress import log_to_stderr
from tasks.interruption import INTERRUPTED_LINE, Interrupted, interruptible
from tasks.standard_streams import flush_streams, prepare_streams, put, put_error

_POSITIONAL = {"config": "YAML file of the experiment", "uri": "folder or s3:// address of artefacts"}
INPUT_ERROR_STATUS, INTERRUPTED_STATUS = 2, 130
_SECONDS_FOR_THE_FIRST = 10
_FINITE = ConfigDict(allow_inf_nan=False)


def run_command(function: Callable[..., Any], arguments: Sequence[str] | None = None) -> Any:
    """Result of `function` called with the command line's arguments.

    Parameters called `config` or `uri` are positional, or options of that name. All others are options. Those without a
    default are required; option names take underscores or dashes. `bool` is a switch, `bool | None` gives
    `--name/--no-name`, and `overrides` is `--set`, which may be repeated. Parameters after `*` are not on the command
    line. An error of the user's prints one line and exits with 2, or with 3 if another process works on the run.
    Ctrl-C, SIGTERM and SIGHUP exit with 130, 143 and 129.
    """
    prepare_streams()
    log_to_stderr()
    try:
        values = vars(_parser(function).parse_args(arguments))
        with interruptible():
            return function(**_checked(function, values))
    except InputError as error:
        _leave(f"error: {error}", error.exit_status)
    except KeyboardInterrupt as error:
        _leave(INTERRUPTED_LINE, error.status if isinstance(error, Interrupted) else INTERRUPTED_STATUS)
    except OSError as error:
        _leave(f"error: {system_line(error)}", INPUT_ERROR_STATUS)
    finally:
        flush_streams()


def say(text: str) -> None:
    """Write one result to stdout, from the first process only."""
    if is_first():
        put(text)


def refuse_last(lines: Sequence[str]) -> None:
    """Raise InputError with the last line, after writing the others as results; nothing happens without lines."""
    if lines:
        for line in lines[:-1]:
            say(line)
        raise InputError(lines[-1])


def _leave(line: str, status: int) -> None:
    if not is_first():
        # An error that stops every process is printed once: torchrun ends the others when the first has exited.
        time.sleep(_SECONDS_FOR_THE_FIRST)
    put_error(f"\n{line}" if sys.stderr.isatty() else line)
    logging.shutdown()  # after the line: sending log records to a server that is gone takes long
    sys.exit(status)


def _checked(function: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """The command line's values, with `~` and variables in paths filled in; InputError for a number out of bounds."""
    checked = dict(values)
    for name, parameter in inspect.signature(function).parameters.items():
        given, shown = values.get(name), name if name in _POSITIONAL else f"--{name}"
        if given is None:
            continue
        if name in _POSITIONAL or _kind(parameter.annotation) is Path:
            checked[name] = expanded_location(given, shown)
        elif isinstance(given, int | float):
            try:
                checked[name] = TypeAdapter(parameter.annotation, config=_FINITE).validate_python(given)
            except ValidationError as error:
                right = error.errors()[0]["msg"].removeprefix("Input should ")
                raise InputError(f"{shown} {given}: it must {right}") from None
    return checked


def _kind(annotation: Any) -> type:
    """The type that an option's text is converted to: without `| None` and bounds, and Path for a `Location`."""
    if typing.get_origin(annotation) is Annotated:
        return _kind(typing.get_args(annotation)[0])
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        kinds = {_kind(option) for option in typing.get_args(annotation)} - {type(None)}
        return Path if Path in kinds else kinds.pop()
    return typing.cast(type, annotation)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are InputErrors, like all other errors of the user's."""

    def error(self, message: str) -> typing.NoReturn:
        raise InputError(f"{message}; --help lists the options")


def _parser(function: Callable[..., Any]) -> argparse.ArgumentParser:
    description = (inspect.getdoc(function) or "").split("\n\n")[0]
    parser = _Parser(description=description, allow_abbrev=False)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            continue
        _add(parser, name, parameter)
    return parser


def _add(parser: argparse.ArgumentParser, name: str, parameter: inspect.Parameter) -> None:
    annotation, required = parameter.annotation, parameter.default is inspect.Parameter.empty
    if name in _POSITIONAL:
        group = parser.add_mutually_exclusive_group(required=required)
        group.add_argument(name, nargs="?", default=argparse.SUPPRESS, metavar=name.upper(), help=_POSITIONAL[name])
        group.add_argument(f"--{name}", dest=name, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return
    offered = choices(annotation) or None
    if annotation not in (bool, bool | None):
        annotation = str if offered or _kind(annotation) is Path else _kind(annotation)
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
        shown = f"default {parameter.default}"
        parser.add_argument(*flags, type=annotation, choices=offered, default=parameter.default, help=shown)
