"""A one-node Ceph Object Gateway on 127.0.0.1: a real S3 server for trying and testing the project.

    python -m deployments.radosgw FOLDER --bucket layouts                      until Ctrl-C
    python -m deployments.radosgw FOLDER --bucket layouts -- COMMAND ARGS...   while COMMAND runs

What it stores survives in FOLDER. Ceph's own authentication is off: whoever may log in to this machine can
read and change it.
"""

import argparse
import contextlib
import fcntl
import functools
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import boto3
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool")
REGION = "us-east-1"

_INSTALL = "radosgw is not installed: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common"
_PATIENCE_SECONDS = 90
_STOP_SECONDS = 10
_LOG_LINES = 20
_INTERRUPTED_STATUS = 130
# Below those that Linux gives to outgoing connections: one of them could hold ours at the next start.
_PORTS = range(20000, 32768)

_MONITOR, _DISK, _GATEWAY = "mon.a", "osd.0", "client.rgw.a"

_CONFIG = """\
[global]
fsid = {fsid}
mon host = [v1:127.0.0.1:{mon_port}]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
keyring = /dev/null
run dir = {folder}
crash dir = {folder}/log
log file = {folder}/log/$name.log
debug rocksdb = 1
# A socket's path may have 107 characters; pytest's folders are longer.
admin socket =
pid file =

# One copy on one disk, without a manager.
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
rgw rados pool pg num min = 4
osd crush chooseleaf type = 0
# `_make_cluster` places the disk. Its daemon would ask for that before it knows the cluster, and end: "wrong fsid".
osd crush update on start = false
osd class update on start = false
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 2
mon data avail crit = 1

# Small: a sparse file of 20 GB and modest caches.
osd objectstore = bluestore
bluestore block size = 21474836480
bluestore fsck on mkfs = false
osd memory target = 939524096
bluestore cache autotune = false
bluestore cache size = 67108864
rgw thread pool size = 64
rgw enable usage log = false
rgw enable ops log = false

# Quick: every new pool takes several changes of the map, which the monitor would gather for a second each.
paxos propose interval = 0.05
paxos min wait = 0.01
# What changes a bucket waits for all gateways that watch it, for a killed one 30 seconds by default.
osd client watch timeout = 4
objecter tick interval = 1

[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd
[client.rgw.a]
rgw data = {folder}/rgw
"""


def missing_programs() -> list[str]:
    """The Ceph programs that are not on PATH."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


class RadosGateway:
    """An S3 server whose data, ports, credentials and logs are in `folder`, where the first start makes them.

    Its daemons end with the process that started them, however that ends. One process at a time may run it.
    """

    def __init__(self, folder: Path, port: int = 0):
        self.folder = folder.resolve()
        self._wanted_port = port
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
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
        """Create the bucket `name`; it may be there already."""
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
        self._start_daemon(_GATEWAY, "radosgw", "-n", _GATEWAY, "--rgw-frontends", frontend)
        self._wait("a first write", self._can_write, _GATEWAY)

    def kill(self) -> None:
        """End the gateway alone with SIGKILL."""
        gateway = self._daemons.pop(_GATEWAY)
        gateway.kill()
        gateway.wait()

    def stop(self) -> None:
        """End every daemon, the gateway first, with SIGKILL if one takes too long."""
        while self._daemons:
            _, daemon = self._daemons.popitem()
            daemon.terminate()
            try:
                daemon.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._until_stop.close()

    def check(self) -> None:
        """Raise a RuntimeError with the end of its log if a daemon ended by itself."""
        for name, daemon in self._daemons.items():
            if daemon.poll() is not None:
                raise RuntimeError(f"{name} ended with status {daemon.returncode}{self._log_tail(name)}")

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
        self._create_folder()
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(cluster, file, indent=2)
        return cluster

    def _create_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        there = {path.name for path in self.folder.iterdir()}
        if there - {"lock"} and not self._is_ours():
            raise ValueError(f"{self.folder} holds something else: name a new folder for the server")

    def _is_ours(self) -> bool:
        """Whether a server was made in the folder before."""
        try:
            return "fsid" in json.loads((self.folder / "cluster.json").read_text())
        except (OSError, ValueError, TypeError):
            return False

    def _hold_folder(self) -> None:
        """Keep other processes from running this cluster until `stop`."""
        self._create_folder()
        with contextlib.ExitStack() as held:
            lock = held.enter_context((self.folder / "lock").open("a"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError(f"the server in {self.folder} is running already") from None
            # Linux kills a daemon when the thread that started it ends, so that thread has to last.
            self._starter = held.enter_context(ThreadPoolExecutor(1, "radosgw"))
            self._until_stop = held.pop_all()

    def _make_cluster(self) -> None:
        """Make monitor, disk and S3 user anew; both daemons stay on for the gateway."""
        monmap, disk = self.folder / "monmap", str(uuid.uuid4())
        address = f"[v1:127.0.0.1:{self._cluster['mon_port']}]"
        identity = ("--fsid", self._cluster["fsid"])
        for name in ("mon", "osd", "rgw", "log"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir()
        self._write_config()
        self._run("monmaptool", "--create", "--clobber", *identity, "--addv", "a", address, str(monmap))
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(monmap))
        self._start_monitor()
        # It lets nobody in until it has made its keys.
        self._wait("monitor", lambda: self._status("ceph", "quorum_status") == 0, "ceph")
        self._run("ceph", "osd", "create", disk)
        self._run("ceph", "osd", "crush", "add", _DISK, "1", "root=default")
        self._run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", disk)
        self._start_disk()
        access, secret = self.credentials.values()
        user = ("--uid=local", "--display-name=local", f"--access-key={access}", f"--secret-key={secret}")
        self._run("radosgw-admin", "user", "create", *user)
        self._made.touch()

    def _write_config(self) -> None:
        (self.folder / "ceph.conf").write_text(_CONFIG.format(folder=self.folder, **self._cluster))

    def _start_monitor(self) -> None:
        self._start_daemon(_MONITOR, "ceph-mon", "-i", "a")

    def _start_disk(self) -> None:
        self._start_daemon(_DISK, "ceph-osd", "-i", "0")

    def _start_daemon(self, name: str, *command: str) -> None:
        self._daemons[name] = self._spawn(name, *command, "-f")

    def _run(self, *command: str) -> None:
        """Run one of Ceph's programs to its end."""
        if status := self._status(*command):
            raise RuntimeError(f"{command[0]} ended with status {status}{self._log_tail(command[0])}")

    def _status(self, *command: str) -> int:
        """What one of Ceph's programs ended with."""
        name = command[0]
        process = self._spawn(name, *command)
        try:
            self._wait(f"end of {name}", lambda: process.poll() is not None, name)
        finally:
            process.kill()
            process.wait()
        return process.returncode

    def _spawn(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        config = ("-c", str(self.folder / "ceph.conf"))
        with self._log(name).open("ab") as log:
            return self._starter.submit(
                subprocess.Popen,
                ["setpriv", "--pdeathsig", "KILL", *command, *config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is for this process, which ends the daemons in their order
            ).result()

    def _wait(self, event: str, happened: Callable[[], bool], log: str) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not happened():
            self.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {event} within {_PATIENCE_SECONDS} seconds{self._log_tail(log)}")
            time.sleep(0.05)

    def _can_write(self) -> bool:
        """Whether a bucket and an object in it can be made and removed again."""
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

    def _log(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.log"

    def _log_tail(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").splitlines()
        return "".join(f"\n  {line}" for line in lines[-_LOG_LINES:])


def _free_port() -> int:
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def main(arguments: list[str]) -> int:
    """Exit status of the command with these `arguments`."""
    before, separator, command = _split(arguments, "--")
    options = _parse(before)
    if separator and (not command or shutil.which(command[0]) is None):
        return _fail(2, f"no such command: {' '.join(command[:1])}")
    if missing_programs():
        return _fail(2, _INSTALL)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with RadosGateway(options.folder, options.port) as gateway:
            for bucket in options.bucket:
                gateway.create_bucket(bucket)
            return _run_beside(gateway, command) if command else _serve(gateway)
    except (RuntimeError, ValueError, OSError, BotoCoreError, ClientError) as error:
        return _fail(1, str(error))
    except KeyboardInterrupt:
        return _INTERRUPTED_STATUS


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deployments.radosgw",
        usage="%(prog)s FOLDER [--port PORT] [--bucket NAME] [-- COMMAND ARGS...]",
        description="An S3 server on 127.0.0.1, until Ctrl-C or while COMMAND runs.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where its data, ports, credentials and logs are")
    parser.add_argument("--port", type=int, default=0, help="a free one if not named; the same at every later start")
    parser.add_argument("--bucket", action="append", default=[], metavar="NAME", help="create it; may be repeated")
    return parser.parse_args(arguments)


def _split(arguments: list[str], separator: str) -> tuple[list[str], bool, list[str]]:
    """`arguments` before the first `separator`, whether there is one, and those after it."""
    if separator not in arguments:
        return arguments, False, []
    at = arguments.index(separator)
    return arguments[:at], True, arguments[at + 1 :]


def _serve(gateway: RadosGateway) -> int:
    """Status 0 after Ctrl-C; a RuntimeError if a daemon ends before."""
    _say(f"S3 server on {gateway.endpoint_url} until Ctrl-C, for this environment:")
    for name, value in gateway.environment.items():
        _say(f"export {name}={value}")
    try:
        while True:
            time.sleep(1)
            gateway.check()
    except KeyboardInterrupt:
        return 0


def _run_beside(gateway: RadosGateway, command: list[str]) -> int:
    """Status of `command`, run with the server in its environment; 128 and the signal's number if one ended it."""
    others = {name: value for name, value in os.environ.items() if name not in ("AWS_PROFILE", "AWS_SESSION_TOKEN")}
    # The terminal sends Ctrl-C to the command as well, which ends in its own way; the server outlives it.
    signal.signal(signal.SIGINT, lambda *_: None)
    process = subprocess.Popen(command, env={**others, **gateway.environment})
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    status = process.wait()
    return status if status >= 0 else 128 - status


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _fail(status: int, reason: str) -> int:
    _say(reason, sys.stderr)
    return status


def _say(line: str, file: TextIO = sys.stdout) -> None:
    file.write(f"{line}\n")
    file.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
