"""Uploads files to a bucket, small ones in one request and large ones in parts.

Each file is sent again if it is not complete on the server afterwards. Single failed requests are repeated before that,
see `retries.py`.
"""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from boto3.s3.transfer import create_transfer_manager
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from core.runtime.errors import InputError
from core.runtime.files import Entry, file_entry
from core.storage.s3.errors import code_of
from core.storage.s3.objects import S3Objects
from core.storage.s3.retries import MOST_ATTEMPTS
from core.storage.s3.transfer import for_each, is_large, transfer_config
from core.storage.store import checked_name


def upload(objects: S3Objects, folder: Path, names: Iterable[str]) -> dict[str, Entry]:
    """Size and digest of those files of `folder`, once they are in the bucket. Equal objects are not sent again."""
    paths = {name: folder / checked_name(name) for name in names}
    large = [name for name, path in paths.items() if is_large(path.stat().st_size)]
    entries: dict[str, Entry] = {}

    def upload_small(name: str) -> None:
        entries[name] = _upload_small(objects, paths[name], name)

    for_each(upload_small, paths.keys() - large)
    for name in large:
        entries[name] = _upload_large(objects, paths[name], name)
    return {name: entries[name] for name in paths}


def _upload_small(objects: S3Objects, path: Path, name: str) -> Entry:
    data = path.read_bytes()
    entry: Entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if_absent = {} if objects.artifacts.single_writer else {"IfNoneMatch": "*"}
    for _ in range(MOST_ATTEMPTS):
        head = objects.head(name)
        if head is not None:
            if {"size": head.size, "sha256": head.metadata.get("sha256")} == entry:
                return entry
            objects.delete(name)
        if objects.write_if(name, data, **if_absent) is not None:
            return entry
    raise InputError(f"{objects.uri}/{name} is being written by another process too: stop it")


def _upload_large(objects: S3Objects, path: Path, name: str) -> Entry:
    if _is_stored(objects, name, path.stat().st_size, "", lambda: file_entry(path)):
        return file_entry(path)
    for _ in range(MOST_ATTEMPTS):
        before, upload_id = _identity(path), secrets.token_hex(8)
        # Sending mostly waits for the server, so hashing at the same time costs little.
        with ThreadPoolExecutor(1) as hasher:
            hashed = hasher.submit(file_entry, path)
            with objects.connection.explained():
                _send_parts(objects, path, name, upload_id)
        if _identity(path) != before:
            objects.delete(name)
            raise InputError(f"{path} was changed while it was stored: run the same command again")
        if _is_stored(objects, name, path.stat().st_size, upload_id, hashed.result):
            return hashed.result()
    raise InputError(
        f"{objects.uri}/{name} was sent {MOST_ATTEMPTS} times and is still not complete there: check the server"
    )


def _is_stored(objects: S3Objects, name: str, size: int, upload_id: str, content: Callable[[], Entry]) -> bool:
    """Whether the object comes from the upload `upload_id` or, if its metadata does not say so, has this content."""
    head = objects.head(name)
    if head is None or head.size != size:
        return False
    # A server may drop metadata. A killed process may have stored the file, and not the record that names it.
    return head.metadata.get("upload") == upload_id or stored_entry(objects, name) == content()


def stored_entry(objects: S3Objects, name: str) -> Entry | None:
    """Size and digest of the object, read in full; None if it does not exist."""
    return objects.download(name, Path(os.devnull))


def _send_parts(objects: S3Objects, path: Path, name: str, upload_id: str) -> None:
    with create_transfer_manager(objects.client, transfer_config()) as manager:
        options = {"Metadata": {"upload": upload_id}}
        try:
            manager.upload(str(path), objects.bucket, objects.key(name), extra_args=options).result()
        except (ClientError, ResponseParserError) as error:
            # The server forgot the upload, or finished it and its answer was lost or cut off: the caller checks.
            if code_of(error) not in {"", "NoSuchUpload"}:
                raise


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
