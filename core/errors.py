"""The one exception for what a user can cause and mend."""

import math


class InputError(Exception):
    """One line that names the thing that is wrong and what to do; commands print it and exit with 2."""


def require_positive(**options: float) -> None:
    """InputError for the first of a command's options that is not a number above 0."""
    for name, value in options.items():
        if not 0 < value < math.inf:
            raise InputError(f"--{name} {value}: it must be above 0")
