"""A one-node Ceph Object Gateway on 127.0.0.1: a real S3 server for trying and testing the project.

Ceph's own authentication is off: whoever can log in to this machine can read and change what the server stores.
"""

import contextlib
import fcntl
import functools
import json
import os
import random
import secrets
import shutil
import socket
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.radosgw.daemons import Daemons

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool")
REGION = "us-east-1"

# Below the ports that Linux gives to outgoing connections: one of them could hold ours at the next start.
_PORTS = range(20000, 32768)
_MONITOR, _DISK, _GATEWAY = "mon.a", "osd.0", "client.rgw.a"
_CONFIG = Path(__file__).with_name("ceph.conf.template")


def missing_programs() -> list[str]:
    """The Ceph programs that are not on PATH."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


class RadosGateway:
    """An S3 server whose data, ports, credentials and logs are in `folder`; the first start creates them.

    Its daemons end with the process that started them, however that ends. One process at a time may run it.
    """

    def __init__(self, folder: Path, port: int = 0):
        self.folder = folder.resolve()
        self._wanted_port = port
        self._until_stop = contextlib.ExitStack()

    def __enter__(self) -> "RadosGateway":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._cluster['port']}"

    @property
    def credentials(self) -> dict[str, str]:
        return {name: self._cluster[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which an S3 client finds this server."""
        return {"AWS_ENDPOINT_URL_S3": self.endpoint_url, **self.credentials, "AWS_DEFAULT_REGION": REGION}

    def client(self, **options: Any) -> BaseClient:
        """A boto3 client of this server; `options` are those of botocore's Config."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=self.credentials["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.credentials["AWS_SECRET_ACCESS_KEY"],
            config=Config(s3={"addressing_style": "path"}, **options),
        )

    def create_bucket(self, name: str) -> None:
        """Create the bucket `name`, unless it exists."""
        self.client().create_bucket(Bucket=name)

    def start(self) -> None:
        """Start the cluster and wait until a write works; a RuntimeError shows the end of the failing log."""
        self._hold_folder()
        try:
            if self._made.exists():
                self._write_config()
                self._start_monitor()
                self._start_disk()
            else:
                self._make_cluster()
            self.start_gateway()
        except BaseException:
            self.stop()
            raise

    def start_gateway(self) -> None:
        """Start the gateway alone and wait until a write works."""
        frontend = f"beast endpoint=127.0.0.1:{self._cluster['port']}"
        self._daemons.start(_GATEWAY, "radosgw", "-n", _GATEWAY, "--rgw-frontends", frontend)
        self._daemons.wait_for("a first write", self._can_write, _GATEWAY)

    def kill(self) -> None:
        """End the gateway alone with SIGKILL."""
        self._daemons.kill(_GATEWAY)

    def stop(self) -> None:
        """End every daemon, the gateway first."""
        self._until_stop.close()

    def check(self) -> None:
        """Raise a RuntimeError with the end of its log if a daemon ended by itself."""
        self._daemons.check()

    @property
    def _made(self) -> Path:
        return self.folder / "made"

    @functools.cached_property
    def _cluster(self) -> dict[str, Any]:
        """Identity, ports and keys: chosen once, kept in the folder."""
        path = self.folder / "cluster.json"
        if path.exists():
            cluster = json.loads(path.read_text())
        else:
            cluster = {
                "fsid": str(uuid.uuid4()),
                "mon_port": _free_port(),
                "port": self._wanted_port or _free_port(),
                "AWS_ACCESS_KEY_ID": f"local{secrets.token_hex(8)}",
                "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
            }
        cluster["port"] = self._wanted_port or cluster["port"]
        _create_folder(self.folder)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(cluster, file, indent=2)
        return cluster

    def _hold_folder(self) -> None:
        """Keep other processes from running this cluster until `stop`."""
        _create_folder(self.folder)
        with contextlib.ExitStack() as held:
            lock = held.enter_context((self.folder / "lock").open("a"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError(f"the server in {self.folder} is running already") from None
            self._daemons = Daemons(self.folder, held.enter_context(ThreadPoolExecutor(1, "radosgw")))
            held.callback(self._daemons.stop)
            self._until_stop = held.pop_all()

    def _make_cluster(self) -> None:
        """Make a new monitor, disk and S3 user; both daemons keep running for the gateway."""
        monmap, disk = self.folder / "monmap", str(uuid.uuid4())
        address = f"[v1:127.0.0.1:{self._cluster['mon_port']}]"
        identity = ("--fsid", self._cluster["fsid"])
        for name in ("mon", "osd", "rgw", "log"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir()
        self._write_config()
        run = self._daemons.run
        run("monmaptool", "--create", "--clobber", *identity, "--addv", "a", address, str(monmap))
        run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(monmap))
        self._start_monitor()
        # It accepts no client until it has made its keys.
        self._daemons.wait_for("monitor", lambda: self._daemons.status("ceph", "quorum_status") == 0, "ceph")
        # For a moment after that it still answers a command with EPERM; this one may be repeated.
        self._daemons.wait_for("disk", lambda: self._daemons.status("ceph", "osd", "create", disk) == 0, "ceph")
        run("ceph", "osd", "crush", "add", _DISK, "1", "root=default")
        run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", disk)
        self._start_disk()
        access, secret = self.credentials.values()
        user = ("--uid=local", "--display-name=local", f"--access-key={access}", f"--secret-key={secret}")
        run("radosgw-admin", "user", "create", *user)
        self._made.touch()

    def _write_config(self) -> None:
        (self.folder / "ceph.conf").write_text(_CONFIG.read_text().format(folder=self.folder, **self._cluster))

    def _start_monitor(self) -> None:
        self._daemons.start(_MONITOR, "ceph-mon", "-i", "a")

    def _start_disk(self) -> None:
        self._daemons.start(_DISK, "ceph-osd", "-i", "0")

    def _can_write(self) -> bool:
        """Whether a bucket and an object in it can be created and removed again."""
        client, bucket = self._impatient_client, "radosgw-readiness"
        try:
            client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="written", Body=b"")
            client.delete_object(Bucket=bucket, Key="written")
            client.delete_bucket(Bucket=bucket)
        except (BotoCoreError, ClientError):
            return False
        return True

    @functools.cached_property
    def _impatient_client(self) -> BaseClient:
        return self.client(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1})


def _create_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    existing = {path.name for path in folder.iterdir()}
    if existing - {"lock"} and not _is_of_server(folder):
        raise ValueError(f"{folder} holds something else: name a new folder for the server")


def _is_of_server(folder: Path) -> bool:
    """Whether a server was started in the folder before."""
    try:
        return "fsid" in json.loads((folder / "cluster.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


def _free_port() -> int:
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
