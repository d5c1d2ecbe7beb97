"""The exceptions for what a user can cause and mend, and the form in which their text is shown."""

import math
import re

# Longer messages are cut in their middle: the start names the thing, the end says what to do.
LONGEST_LINE = 500
_USER_INFO = re.compile(r"(?<=://)[^\s/@]+@")


class InputError(Exception):
    """One line that names the thing that is wrong and what to do; commands print it and exit with `exit_status`."""

    exit_status = 2

    def __init__(self, message: str):
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """`text` as one printable line of at most `LONGEST_LINE` characters, without the password of any address in it.

    Control characters, line separators, surrogates and characters that change the direction of writing are escaped.
    """
    text = _USER_INFO.sub("***@", text)
    text = "".join(c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else _escaped(c) for c in text)
    if len(text) <= LONGEST_LINE:
        return text
    end = LONGEST_LINE * 2 // 5
    return f"{text[: LONGEST_LINE - end - 5]} ... {text[-end:]}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


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
