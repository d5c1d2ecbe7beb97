"""The files of an exported model as a new repository of the Hugging Face hub."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.hf_api import RepoFile

from core.runtime.errors import InputError, first_line
from core.runtime.files import Entry

# The hub adds it to every repository.
_ATTRIBUTES = ".gitattributes"
# What the client's versions send their requests with. Errors of the connection are of these packages.
_TRANSPORTS = ("requests", "httpx", "httpx2")


def require_hub_access(name: str) -> None:
    """InputError if no repository `name`, written ORGANISATION/MODEL, can be made or gone on with; it makes none."""
    if name.count("/") != 1:
        raise InputError(f"--push {name}: give the name of a repository as ORGANISATION/MODEL")
    with _refusals(name):
        HfApi().repo_exists(name)
        HfApi().whoami()


def push_files(folder: Path, entries: Mapping[str, Entry], name: str) -> str:
    """Address of the repository `name` after the files `entries` of `folder` are in it; it is private if it is new.

    Raises InputError, with nothing changed, if the repository holds a file that is none of these, and if the hub
    refuses the upload or does not answer.
    """
    api = HfApi()
    with _refusals(name):
        if api.repo_exists(name):
            _require_no_other_files(api, folder, entries, name)
        url = str(api.create_repo(name, private=True, exist_ok=True))
        added = [CommitOperationAdd(path_in_repo=file, path_or_fileobj=folder / file) for file in sorted(entries)]
        api.create_commit(name, added, commit_message="Exported model")
    return url


def _require_no_other_files(api: HfApi, folder: Path, entries: Mapping[str, Entry], name: str) -> None:
    for file in api.list_repo_tree(name, recursive=True):
        if not isinstance(file, RepoFile) or file.path == _ATTRIBUTES:
            continue
        ours = entries.get(file.path)
        if ours is not None and file.lfs is not None:
            is_ours = file.lfs.sha256 == ours["sha256"]
        else:
            is_ours = ours is not None and file.blob_id == _blob_id(folder / file.path)
        if not is_ours:
            raise InputError(
                f"--push {name}: the repository holds {file.path}, which is not of this model: choose another name, or "
                "upload the folder yourself"
            )


def _blob_id(path: Path) -> str:
    """The name that git gives to the file's content."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def _refusals(name: str) -> Iterator[None]:
    """What the hub and its client refuse, as an InputError."""
    try:
        yield
    except LocalTokenNotFoundError:
        raise InputError(f"--push {name}: there is no token of the Hugging Face hub: run hf auth login") from None
    except HFValidationError as error:
        raise InputError(f"--push {name} is no name of a repository ({first_line(error)}): choose another") from None
    except Exception as error:
        if not isinstance(error, HfHubHTTPError | OSError) and type(error).__module__.split(".")[0] not in _TRANSPORTS:
            raise
        raise InputError(
            f"--push {name}: the Hugging Face hub did not take it ({first_line(error)}): check the network, and that "
            "your token may write there (hf auth whoami); the same command goes on from the exported folder"
        ) from None
