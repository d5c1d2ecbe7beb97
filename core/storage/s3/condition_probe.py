"""Finds out whether a server honours conditional writes. Servers that ignore the condition answer like all others."""

import hashlib
import secrets
from collections.abc import Callable
from typing import Protocol

# Probe objects are called so; listings leave them out.
PROBE_PREFIX = ".probe-"
# How a version is written in If-Match.
VersionForm = Callable[[str], str]


class ConditionalWrite(Protocol):
    """Writes the probe object on a condition; its version, or None if the condition does not hold."""

    def __call__(self, data: bytes, **condition: str) -> str | None: ...


def version_form(write: ConditionalWrite) -> VersionForm | None:
    """How the server wants a version to be written in If-Match; None if it ignores conditions.

    `write` must write an object that does not exist yet.
    """
    version = write(_new_content(), IfNoneMatch="*")
    if version is None or write(_new_content(), IfNoneMatch="*") is not None:
        return None
    for form in (_bare, _quoted):  # Ceph wants it bare, HTTP says quoted
        if (
            write(_new_content(), IfMatch=form(hashlib.md5(_new_content(), usedforsecurity=False).hexdigest()))
            is not None
        ):
            return None
        if write(_new_content(), IfMatch=form(version)) is not None:
            return form
    return None


def _bare(version: str) -> str:
    return version.strip('"')


def _quoted(version: str) -> str:
    return f'"{_bare(version)}"'


def _new_content() -> bytes:
    """Bytes that no other write has, so that a later read shows whether they arrived."""
    return secrets.token_bytes(16)
