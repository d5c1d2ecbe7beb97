"""Where artefacts are kept: one small interface over a local folder and an S3 bucket."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Protocol

from pydantic import Field, ValidationError, field_validator

from core.inputs.config_keys import first_problem
from core.inputs.places import Address, Location, Place, expanded, is_remote
from core.inputs.section import NUMBER, Minutes, Section
from core.runtime.errors import InputError
from core.runtime.files import Entry as Entry

# Entered around every change of a store. It raises if this process must not write any more.
WriteCheck = Callable[[], AbstractContextManager[None]]


class ArtifactsSection(Section):
    """Where artefacts are kept, and how patiently."""

    root: Place = "artifacts"
    endpoint_url: Address | None = Field(None, description="of an S3 server that is not AWS; AWS_ENDPOINT_URL if empty")
    single_writer: bool = Field(
        False, description="use a store that ignores conditional writes; you promise to run one process at a time"
    )
    lease_seconds: Annotated[float, NUMBER, Field(ge=1, le=86_400)] = Field(
        60, description="a run whose holder is silent for so long may be taken over"
    )
    state_minutes: Minutes = Field(1, description="least time between two uploads of a stage's resumable state")
    patience_minutes: Annotated[float, NUMBER, Field(gt=0, le=10_080)] = Field(
        10, description="how long a store that does not answer is waited for"
    )
    cache: Place | None = Field(None, description="folder of downloads; ~/.cache/adversarial-layouts if empty")
    cache_gb: Annotated[float, NUMBER, Field(gt=0, le=1_000_000)] = 50

    @field_validator("root", "cache")
    @classmethod
    def _is_no_whole_disk(cls, place: str | None) -> str | None:
        if place is not None and not is_remote(place) and os.path.abspath(place).strip("/") == "":
            raise ValueError(f"{place} is a whole disk: give a folder on it")
        return place


# What is read at once: records, a config, a report of a run.
LARGEST_SMALL_FILE = 2**28


@dataclass(frozen=True)
class Versioned:
    """A small file as it was read: `version` changes with its content, `age` is in seconds by the store's clock."""

    data: bytes
    version: str
    age: float


@dataclass(frozen=True)
class StoredFile:
    """A file in a listing; `age` in seconds since it was written, by the store's clock."""

    name: str
    size: int
    age: float


class Store(Protocol):
    """Files under a root by relative name, `a/b/c.pt`.

    Every file is there whole or not at all. What the user can mend (no such bucket, no permission, an altered
    file, a store that stays silent) raises InputError naming the address.
    """

    uri: str

    def below(self, name: str) -> "Store":
        """The store of what lies under the folder `name` of this one."""

    def with_write_check(self, write_check: WriteCheck) -> "Store":
        """The same store, which makes every change inside `write_check()`."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Keeps out the other processes of this host that use it on the same folder, where a store can."""

    def upload(self, folder: Path, names: Iterable[str]) -> dict[str, Entry]:
        """Add those files of `folder`; what they are. One already there with the same content is left."""

    def fetch(self, entries: Mapping[str, Entry]) -> Path:
        """A local folder with a file of each name and content in `entries`, for reading only.

        InputError names the first that is missing, or altered even when fetched again.
        """

    def measure(self, name: str) -> Entry | None:
        """Size and sha256 of the file as it is stored, read through; None if there is none."""

    def read(self, name: str) -> Versioned | None:
        """A small file; None if there is none."""

    def create(self, name: str, data: bytes) -> bool:
        """Add a small file; false if there is one of that name already."""

    def compare_and_swap(self, name: str, data: bytes, version: str) -> str | None:
        """Replace the small file if it still has `version`; its new version, or None if it was changed meanwhile."""

    def files(self) -> Iterator[StoredFile]:
        """Every file under the root, in order of name."""

    def folders(self) -> list[str]:
        """Names of the folders directly under the root."""

    def delete(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone already do not matter."""

    def unfinished_uploads(self, older_than: float) -> list[str]:
        """Names of uploads begun more than `older_than` seconds ago and never finished, which cost space."""

    def abort_uploads(self, older_than: float) -> None:
        """Drop the uploads that `unfinished_uploads` names."""


def place(location: Location, what: str) -> str:
    """`location` with `~` and variables filled in; an InputError begins with `what` it is."""
    try:
        return expanded(location)
    except ValueError as error:
        raise InputError(f"{what} {error}") from None


def artifacts_of_options(**options: Any) -> ArtifactsSection:
    """How a command without a config reaches its artefacts; InputError names the option that is wrong."""
    try:
        return ArtifactsSection(**options)
    except ValidationError as error:
        raise InputError(f"--{first_problem(error, ArtifactsSection)}") from None


def cache_folder(artifacts: ArtifactsSection) -> Path:
    """Folder of downloads and of what is being made for a bucket: `artifacts.cache`, or the user's cache folder."""
    if artifacts.cache is not None:
        return Path(artifacts.cache)
    return Path(place(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "cache folder")) / "adversarial-layouts"


def replace(store: Store, name: str, data: bytes) -> None:
    """Write a small file, whatever was there before."""
    while not store.create(name, data):
        there = store.read(name)
        if there is not None and (there.data == data or store.compare_and_swap(name, data, there.version) is not None):
            return


def join(location: Location, *names: str) -> str:
    """Address of something under `location`."""
    return "/".join([str(location).rstrip("/"), *names])


def split_location(location: Location) -> tuple[str, str]:
    """Address of the folder that holds the file at `location`, and the file's name."""
    folder, _, name = str(location).rpartition("/")
    if is_remote(location):
        return folder, name
    path = Path(location)
    return str(path.parent), path.name


def is_file_name(name: str) -> bool:
    """Whether `name` is the name of a file below a root: relative, normalised, and never leaving the root."""
    path = PurePosixPath(name)
    leaves_root = path.is_absolute() or ".." in path.parts
    return not leaves_root and str(path) == name and name not in ("", ".") and "\0" not in name


def checked_name(name: str) -> str:
    """`name` if it `is_file_name`; InputError otherwise, since records may come from anyone."""
    if not is_file_name(name):
        raise InputError(
            f"{name!r} is not the name of a file below an artefact root: the record that names it is damaged"
        )
    return name


def too_large(uri: str, name: str, size: int) -> InputError:
    """The error for a file that is too large to be one that is read at once."""
    return InputError(
        f"{uri}/{name} holds {size} bytes, it should be a small file: put back a copy of it, or choose another folder"
    )


def altered(uri: str, name: str, wanted: Entry, found: Entry | None) -> InputError:
    """The error for a stored file that is not what its record says; `found` is None for a missing one."""
    if found is None:
        return InputError(f"{uri}/{name} is missing: put it back from a copy, or remove the record that names it")
    return InputError(
        f"{uri}/{name} is altered: recorded with {wanted['size']} bytes, sha256 {wanted['sha256'][:12]}, found with "
        f"{found['size']} bytes, sha256 {found['sha256'][:12]}: put the file back from a copy"
    )
