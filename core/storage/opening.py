"""Opening the store at an address: a local folder or an S3 bucket."""

from pathlib import Path

from core.inputs.locations import Location, expanded_location, is_remote
from core.storage.local_store import LocalStore
from core.storage.store import ArtifactsSection, Store


def open_store(location: Location, artifacts: ArtifactsSection) -> Store:
    """The store at a local path or `s3://bucket/prefix`; a bucket is opened with the settings `artifacts`."""
    uri = expanded_location(location, "artefact folder")
    if not is_remote(uri):
        return LocalStore(Path(uri))
    from core.storage.s3_store import open_bucket  # importing boto3 takes a while

    return open_bucket(uri, artifacts)
