"""SHA256SUMS, as sha256sum writes it: what the files beside it must hold."""

import re
from collections.abc import Mapping
from pathlib import Path

from core.inputs.locations import Location
from core.runtime.errors import InputError
from core.runtime.files import open_input, sha256

LIST_NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
# A longer list is not one of checkpoints.
_LARGEST = 2**20


def digest_list(digests: Mapping[str, str]) -> bytes:
    """A SHA256SUMS with these digests by name of file; `sha256sum --check` reads it."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())).encode()


def require_listed_digest(path: Location, what: str) -> None:
    """InputError if a SHA256SUMS beside the file at `path` names it with another sha256 than it has.

    Without such a line nothing is read.
    """
    path = Path(path)
    listed = path.with_name(LIST_NAME)
    if not listed.is_file():
        return
    with open_input(listed, "list of digests") as file:
        lines = file.read(_LARGEST).decode(errors="replace").splitlines()
    wanted = {found[2]: found[1] for found in map(_LINE.fullmatch, lines) if found}.get(path.name)
    if wanted is None:
        return
    open_input(path, what).close()  # raises for a missing file, a folder and the like
    if sha256(path) != wanted:
        raise InputError(
            f"{what} {path} is not the file that {listed} lists: it was changed or damaged; put it back "
            f"(git checkout {path}) or make it again"
        )
