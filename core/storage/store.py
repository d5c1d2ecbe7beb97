"""The interface of an artefact store, which a local folder and an S3 bucket implement."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Protocol

from pydantic import Field, ValidationError, field_validator

from core.inputs.config_keys import first_problem
from core.inputs.locations import Address, Location, Place, expanded_location, is_remote
from core.inputs.section import NUMBER, Minutes, Section
from core.runtime.errors import InputError
from core.runtime.files import Entry

# Entered around every change of a store. It raises if this process must not write any more.
WriteCheck = Callable[[], AbstractContextManager[None]]


class ArtifactsSection(Section):
    """Where artefacts are stored."""

    root: Place = "artifacts"
    endpoint_url: Address | None = Field(
        None, description="S3 server of every s3:// address, if not AWS; AWS_ENDPOINT_URL if empty"
    )
    single_writer: bool = Field(
        False, description="use a store that ignores conditional writes; you promise to run one process at a time"
    )
    lease_seconds: Annotated[float, NUMBER, Field(ge=1, le=86_400)] = Field(
        60, description="another process may take over a run that was not renewed for so long"
    )
    state_minutes: Minutes = Field(1, description="shortest time between two uploads of a stage's resumable state")
    patience_minutes: Annotated[float, NUMBER, Field(gt=0, le=10_080)] = Field(
        10, description="how long to wait for a store that does not answer"
    )
    cache: Place | None = Field(None, description="folder of downloads; ~/.cache/adversarial-layouts if empty")
    cache_gb: Annotated[float, NUMBER, Field(gt=0, le=1_000_000)] = 50

    @field_validator("root", "cache")
    @classmethod
    def _require_folder(cls, place: str | None) -> str | None:
        if place is not None and not is_remote(place) and os.path.abspath(place).strip("/") == "":
            raise ValueError(f"{place} is a whole disk: give a folder on it")
        return place

    @field_validator("cache")
    @classmethod
    def _require_local(cls, place: str | None) -> str | None:
        if place is not None and is_remote(place):
            raise ValueError(f"{place} is an address: give a folder of this machine")
        return place


# Bytes of the largest file that is read into memory: records, configs, reports.
LARGEST_SMALL_FILE = 2**28


@dataclass(frozen=True)
class Versioned:
    """A small file. `version` changes with its content; `age` is in seconds by the store's clock."""

    data: bytes
    version: str
    age: float


@dataclass(frozen=True)
class StoredFile:
    """A file in a listing. `age` is in seconds since it was written, by the store's clock."""

    name: str
    size: int
    age: float


class Store(Protocol):
    """Files under a root by relative name, `a/b/c.pt`.

    A file is visible only once it is complete. What the user can fix (no such bucket, no permission, an altered file,
    a store that does not answer) raises InputError with the address.
    """

    uri: str

    def below(self, name: str) -> "Store":
        """The store of the folder `name` in this one."""

    def with_write_check(self, write_check: WriteCheck) -> "Store":
        """The same store, which makes every change inside `write_check()`."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Inside, no other process of this host is in `exclusive` for the same folder, if the store can lock."""

    def upload(self, folder: Path, names: Iterable[str]) -> dict[str, Entry]:
        """Size and digest of those files of `folder`, once they are stored. A stored file of the same content stays."""

    def fetch(self, entries: Mapping[str, Entry]) -> Path:
        """A local read-only folder that has each file of `entries`.

        InputError names the first file that is missing, or that is altered even when it is fetched again.
        """

    def measure(self, name: str) -> Entry | None:
        """Size and sha256 of the stored file, which is read in full; None if it does not exist."""

    def read(self, name: str) -> Versioned | None:
        """A small file; None if it does not exist."""

    def create(self, name: str, data: bytes) -> bool:
        """Add a small file; false if a file of that name exists."""

    def compare_and_swap(self, name: str, data: bytes, version: str) -> str | None:
        """Replace the small file if it still has `version`; its new version, or None if it has another."""

    def files(self) -> Iterator[StoredFile]:
        """Every file below the root, in order of name."""

    def folders(self) -> list[str]:
        """Names of the folders directly below the root."""

    def delete(self, names: Iterable[str]) -> None:
        """Remove files; names that do not exist are ignored."""

    def unfinished_uploads(self, older_than: float) -> list[str]:
        """Names of uploads that began more than `older_than` seconds ago and never finished. They take up space."""

    def abort_uploads(self, older_than: float) -> None:
        """Abort the uploads that `unfinished_uploads` names."""


def artifacts_of_options(**options: Any) -> ArtifactsSection:
    """The settings that a command without a config gives as options; InputError names the option that is wrong."""
    try:
        return ArtifactsSection(**options)
    except ValidationError as error:
        raise InputError(f"--{first_problem(error, ArtifactsSection)}") from None


def cache_folder(artifacts: ArtifactsSection) -> Path:
    """Folder for downloads and for files on their way to a bucket: `artifacts.cache`, or the user's cache folder."""
    if artifacts.cache is not None:
        return Path(artifacts.cache)
    user_cache = expanded_location(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "cache folder")
    return Path(user_cache) / "adversarial-layouts"


def replace(store: Store, name: str, data: bytes) -> None:
    """Write a small file, replacing one that exists."""
    while not store.create(name, data):
        found = store.read(name)
        if found is not None and (found.data == data or store.compare_and_swap(name, data, found.version) is not None):
            return


def join(location: Location, *names: str) -> str:
    """Address of something under `location`."""
    return "/".join([str(location).rstrip("/"), *names])


def split_location(location: Location) -> tuple[str, str]:
    """Address of the folder that holds the file at `location`, and the file's name; InputError if it is a bucket."""
    folder, _, name = str(location).rpartition("/")
    if is_remote(location):
        if folder == "s3:/" or not name:
            raise InputError(f"{location} is a bucket or a folder: give the address of a file, s3://BUCKET/NAME")
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
    """The error for a file that is too large to be read into memory."""
    return InputError(
        f"{uri}/{name} has {size} bytes but should be a small file: restore it from a copy, or choose another folder"
    )


def altered(uri: str, name: str, wanted: Entry, found: Entry | None) -> InputError:
    """The error for a stored file that differs from its record; `found` is None if it is missing."""
    if found is None:
        return InputError(f"{uri}/{name} is missing: restore it from a copy, or remove the record that names it")
    return InputError(
        f"{uri}/{name} is altered: recorded with {wanted['size']} bytes, sha256 {wanted['sha256'][:12]}, found with "
        f"{found['size']} bytes, sha256 {found['sha256'][:12]}: restore the file from a copy"
    )
