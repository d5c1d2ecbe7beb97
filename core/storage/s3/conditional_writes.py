"""Small files that several processes may write: created only if absent, replaced only if unchanged."""

import functools
import secrets

from botocore.exceptions import ClientError

from core.runtime.errors import InputError
from core.storage.s3.condition_probe import PROBE_PREFIX, VersionForm, version_form
from core.storage.s3.errors import code_of
from core.storage.s3.objects import S3Objects


def create(objects: S3Objects, name: str, data: bytes) -> bool:
    """Add a small file; false if one of that name exists."""
    if objects.artifacts.single_writer:
        if objects.head(name) is not None:
            return False
        objects.write(name, data)
        return True
    _version_form(objects)
    return objects.write_if(name, data, IfNoneMatch="*") is not None


def compare_and_swap(objects: S3Objects, name: str, data: bytes, version: str) -> str | None:
    """Replace the small file if it still has `version`; its new version, or None if it has another."""
    if objects.artifacts.single_writer:
        found = objects.read(name)
        if found is None or found.version != version:
            return None
        return objects.write(name, data)
    return objects.write_if(name, data, IfMatch=_version_form(objects)(version))


def _version_form(objects: S3Objects) -> VersionForm:
    """How If-Match is written for this bucket; InputError if the server ignores conditions."""
    known, bucket = objects.connection.server.version_forms, objects.bucket
    if bucket not in known:
        form = _probe(objects)
        if form is None:
            raise InputError(
                f"{objects.connection.where} ignores conditional writes, so two processes could overwrite one another: "
                "use another server, or set artifacts.single_writer: true and run one process at a time"
            )
        known[bucket] = form
    return known[bucket]


def _probe(objects: S3Objects) -> VersionForm | None:
    name = PROBE_PREFIX + secrets.token_hex(8)
    with objects.connection.explained():
        try:
            form = version_form(functools.partial(objects.try_write_if, name))
        except ClientError as error:
            if code_of(error) != "NotImplemented":
                raise
            form = None
    objects.delete(name)
    return form
