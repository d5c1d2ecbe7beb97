"""Lists a bucket page by page: objects, folders, and uploads that were never finished."""

import functools
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from core.runtime.errors import InputError
from core.storage.s3.condition_probe import PROBE_PREFIX
from core.storage.s3.errors import code_of
from core.storage.s3.objects import S3Objects, age
from core.storage.store import StoredFile, is_file_name

# A probe this old was left by a killed process. It is listed like any other file, so that it can be removed.
_PROBE_SECONDS = 3600
# Which field of an answer becomes which parameter of the request for the next page.
_NEXT_PAGE = {
    "list_objects_v2": {"ContinuationToken": "NextContinuationToken"},
    "list_multipart_uploads": {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"},
}


def files(objects: S3Objects) -> Iterator[StoredFile]:
    """Every object whose name a store can have given, in order of name."""
    for page in pages(objects, "list_objects_v2"):
        for item in page.get("Contents", []):
            name, seconds = item["Key"].removeprefix(objects.key_prefix), age(page, item["LastModified"])
            if is_file_name(name) and not (name.startswith(PROBE_PREFIX) and seconds < _PROBE_SECONDS):
                yield StoredFile(name, item["Size"], seconds)


def folders(objects: S3Objects) -> list[str]:
    """Names of the folders directly below the prefix, without hidden ones."""
    names = []
    for page in pages(objects, "list_objects_v2", Delimiter="/"):
        for item in page.get("CommonPrefixes", []):
            names.append(item["Prefix"].removeprefix(objects.key_prefix).removesuffix("/"))
    return sorted(name for name in names if is_file_name(name) and not name.startswith("."))


def unfinished_uploads(objects: S3Objects, older_than: float) -> list[str]:
    """Names of uploads in parts that began more than `older_than` seconds ago and were never finished."""
    return [upload["Key"].removeprefix(objects.key_prefix) for upload in _unfinished(objects, older_than)]


def abort_uploads(objects: S3Objects, older_than: float) -> None:
    """Abort the uploads that `unfinished_uploads` names."""
    for upload in list(_unfinished(objects, older_than)):
        with objects.connection.explained():
            try:
                objects.client.abort_multipart_upload(
                    Bucket=objects.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
            except ClientError as error:
                if code_of(error) not in {"404", "NoSuchUpload"}:
                    raise


def pages(objects: S3Objects, operation: str, **options: Any) -> Iterator[dict[str, Any]]:
    """The answers of a listing operation for the objects' prefix; InputError if they do not come to an end."""
    options |= {"Bucket": objects.bucket, "Prefix": objects.key_prefix}
    request = getattr(objects.client, operation)
    has_more = True
    while has_more:
        with objects.connection.explained():
            page = objects.connection.retries.run(functools.partial(request, **options))
        yield page
        has_more = page.get("IsTruncated", False)
        following = {marker: page.get(field) for marker, field in _NEXT_PAGE[operation].items() if has_more}
        if has_more and (None in following.values() or following.items() <= options.items()):
            raise InputError(
                f"{objects.uri}: the server at {objects.connection.endpoint} does not list it to its end: check the "
                "server, and any proxy before it"
            )
        options |= following


def _unfinished(objects: S3Objects, older_than: float) -> Iterator[dict[str, Any]]:
    for page in pages(objects, "list_multipart_uploads"):
        for upload in page.get("Uploads", []):
            if age(page, upload["Initiated"]) >= older_than:
                yield upload
