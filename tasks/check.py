"""check: what a config names, tried in seconds to minutes before any work."""

from collections.abc import Sequence

from core.inputs.locations import Location
from core.reports.config_check import check_config
from core.runtime.errors import InputError
from tasks.command_line import run_command, say
from tasks.standard_streams import put_error


def check(config: Location, overrides: Sequence[str] = ()) -> None:
    """Load everything that a config names, try it on a few layouts, and print a table. Nothing is written.

    What is wrong is said in one line each, on stderr, and the command ends with 2: the last line is the error.
    """
    found = check_config(config, overrides)
    if text := found.as_text():
        say(text)
    *others, last = found.faults.lines or [None]
    for line in others:
        put_error(f"error: {line}")
    if last is not None:
        raise InputError(last)


if __name__ == "__main__":
    run_command(check)
