"""Locations as people write them: paths with `~` and `$VAR`, s3:// addresses, addresses of servers."""

import os
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from core.runtime.errors import InputError, without_secrets

# A path of this machine, or an s3:// address.
Location = str | Path

LONGEST_PATH = 4096
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)(\}?))", re.ASCII)
_VARIABLE_OF_WINDOWS = re.compile(r"%[A-Za-z_]\w*%", re.ASCII)
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):(/*)")


def is_remote(location: Location) -> bool:
    """Whether `location` is an s3:// address rather than a path of this machine."""
    return str(location).startswith("s3://")


def expanded(location: Location) -> str:
    """`location` with `~`, `$VAR` and `${VAR}` replaced. All paths of configs and commands pass through here.

    Expanding the result again does not change it. Raises ValueError, which says what to do, for: empty text, other
    addresses than s3://, variables or users that do not exist, a secret in the address, and spaces, line breaks or
    quotes around it, as files of variables may have them.
    """
    text = _without_control(str(location))
    if not text.strip():
        raise ValueError("is empty: give a path, or leave the setting out")
    _require_no_secret(text)
    text = _VARIABLE.sub(_value, text)
    if text.startswith("~"):
        home = os.path.expanduser(text)
        if home.startswith("~"):
            user = text[1:].partition("/")[0]
            raise ValueError(f"{text}: {user or 'this user'} has no home folder: write the path out")
        text = home
    if "$" in text and _VARIABLE.search(text):
        raise ValueError(f"{text}: it still holds a $ after its variables are replaced: write the path out")
    _require_no_secret(_without_control(text))
    _require_known_kind(text)
    _require_nothing_around(text)
    return text


def expanded_location(location: Location, what: str) -> str:
    """`location` with `~` and variables filled in. InputErrors begin with `what`."""
    try:
        return expanded(location)
    except ValueError as error:
        raise InputError(f"{what} {error}") from None


def address(text: str) -> str:
    """`text` if it is the http(s):// address of a server; otherwise a ValueError that repeats no password."""
    _require_no_secret(_without_control(text))
    try:
        parts = urlsplit(text)
        is_valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        is_valid = False
    if not is_valid or parts.query or parts.fragment or any(letter.isspace() for letter in text):
        raise ValueError(f"{text!r} is not the address of a server: write https://HOST:PORT")
    return text


def require_plain_address(url: str, what: str) -> None:
    """InputError if the address of a server holds a user, password or token; the error does not repeat it."""
    try:
        _require_no_secret(url)
    except ValueError as error:
        raise InputError(f"{what} {error}") from None


def _without_control(text: str) -> str:
    if len(text) > LONGEST_PATH:
        raise ValueError(f"has {len(text)} characters: give at most {LONGEST_PATH}")
    if "\0" in text:
        raise ValueError("holds a NUL character: write the path without it")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"holds {text[error.start]!r}, which file names cannot hold in this locale: set LC_ALL=C.UTF-8"
        ) from None
    return text


def _require_no_secret(text: str) -> None:
    shown = without_secrets(text)
    if shown != text and "://" in text and "***@" in shown:
        raise ValueError("holds a user or password: leave them out; credentials go into the environment")
    if shown != text:
        raise ValueError("holds a signature, token or key: give a plain address; credentials go into the environment")


def _value(found: re.Match[str]) -> str:
    name = found[1] or found[2]
    if found[2] is not None and not (found[3] and re.fullmatch(r"\w+", name, re.ASCII)):
        raise ValueError(f"{found.string}: only $NAME and ${{NAME}} are replaced: write one of these")
    value = os.environ.get(name)
    if not value:
        raise ValueError(f"{found.string}: the variable {found[0]} is not set: set it, or write the path out")
    return value


def _require_known_kind(text: str) -> None:
    scheme = _SCHEME.match(text)
    if is_remote(text) and text[len("s3://") :].strip("/") and text[len("s3://")] != "/":
        return
    if re.match(r"[A-Za-z]:(?:[/\\]|$)", text):
        raise ValueError(f"{text} is a Windows path: give the path on this machine")
    if text.startswith("\\\\") or ("\\" in text and "/" not in text and not os.path.lexists(text)):
        raise ValueError(f"{text} is a Windows path: write it with / between folders, as on this machine")
    if _VARIABLE_OF_WINDOWS.search(text) and not os.path.lexists(text):
        raise ValueError(f"{text} holds a Windows variable, which is not replaced: write $NAME")
    if re.match(r"[\w.-]+@[\w.-]+:", text) and not os.path.lexists(text):
        raise ValueError(f"{text} is a path of another machine: give the path on this machine")
    if scheme is not None and scheme[1].lower() == "file" and scheme[2]:
        raise ValueError(f"{text} is the address of a file: write only its path, as /FOLDER/FILE")
    if "://" in text or (scheme is not None and (scheme[2] or scheme[1].lower() == "s3")):
        raise ValueError(f"{text} is neither a local path nor an s3:// address: write s3://BUCKET/PREFIX")


def _require_nothing_around(text: str) -> None:
    if not is_remote(text) and os.path.lexists(text):
        return
    if text != text.strip():
        raise ValueError(f"{text!r} begins or ends with a space or line break: write it without")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        raise ValueError(f"{text} has quotes around it, which would be part of the name: write it without")


# A path or s3:// address in a config; `~` and variables are replaced when the config is loaded.
Place = Annotated[str, Field(max_length=LONGEST_PATH), AfterValidator(expanded)]
# The address of a server in a config.
Address = Annotated[str, Field(max_length=LONGEST_PATH), AfterValidator(address)]
