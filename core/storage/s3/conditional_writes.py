"""Whether a store honours conditional writes, found out by trying: servers that ignore them answer just the same."""

import hashlib
import secrets
from collections.abc import Callable
from typing import Protocol

# How a version is written in If-Match.
VersionForm = Callable[[str], str]


class ConditionalWrite(Protocol):
    """Writes the probe's object on a condition; its version, or None if the condition does not hold."""

    def __call__(self, data: bytes, **condition: str) -> str | None: ...


def version_form(write: ConditionalWrite) -> VersionForm | None:
    """How the store wants a version in If-Match; None if it ignores conditions.

    `write` is for an object that does not exist yet.
    """
    version = write(_content(), IfNoneMatch="*")
    if version is None or write(_content(), IfNoneMatch="*") is not None:
        return None
    for form in (_bare, _quoted):  # Ceph wants it bare, HTTP says quoted
        if write(_content(), IfMatch=form(hashlib.md5(_content(), usedforsecurity=False).hexdigest())) is not None:
            return None
        if write(_content(), IfMatch=form(version)) is not None:
            return form
    return None


def _bare(version: str) -> str:
    return version.strip('"')


def _quoted(version: str) -> str:
    return f'"{_bare(version)}"'


def _content() -> bytes:
    """Bytes of no other write: it can be told whether they arrived."""
    return secrets.token_bytes(16)
