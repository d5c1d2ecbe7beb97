"""The exceptions for what a user can cause and mend."""

import math


class InputError(Exception):
    """One line that names the thing that is wrong and what to do; commands print it and exit with `exit_status`."""

    exit_status = 2


class LeaseError(InputError):
    """Another process works on the run; this one must not."""

    exit_status = 3


class UnavailableError(InputError):
    """A server stayed silent for longer than the user's patience; the same again may well work later."""


def require_positive(**options: float) -> None:
    """InputError for the first of a command's options that is not a number above 0."""
    for name, value in options.items():
        if not 0 < value < math.inf:
            raise InputError(f"--{name} {value}: it must be above 0")
