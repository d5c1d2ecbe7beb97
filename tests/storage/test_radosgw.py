"""The S3 server of the tests keeps its objects when it is killed, and leaves no process behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.radosgw.__main__ import main
from tests.radosgw.gateway import RadosGateway, missing_programs


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Folder of a cluster that was created and stopped."""
    if missing_programs():
        pytest.skip(f"not installed: {', '.join(missing_programs())}")
    folder = tmp_path_factory.mktemp("radosgw") / "cluster"
    with RadosGateway(folder) as gateway:
        gateway.create_bucket("layouts")
    assert not processes_of(folder)
    return folder


def processes_of(folder: Path) -> list[str]:
    """Command lines that name `folder`."""
    listing = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if f"{folder}/ceph.conf" in line]


def test_an_object_survives_a_killed_gateway(folder):
    with RadosGateway(folder) as gateway:
        assert len(processes_of(folder)) == 3
        client = gateway.client()
        client.put_object(Bucket="layouts", Key="round.json", Body=b"whole")
        gateway.kill()
        gateway.start_gateway()
        assert client.get_object(Bucket="layouts", Key="round.json")["Body"].read() == b"whole"
        with pytest.raises(ClientError) as refused:
            client.put_object(Bucket="layouts", Key="round.json", Body=b"other", IfNoneMatch="*")
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert not processes_of(folder)


def test_a_second_server_in_the_folder_is_refused(folder):
    with RadosGateway(folder) as gateway:
        with pytest.raises(RuntimeError, match="running already"):
            RadosGateway(folder).start()
        gateway.create_bucket("layouts")


def test_daemons_end_with_a_killed_starter(folder):
    code = "import sys, pathlib, time; from tests.radosgw.gateway import RadosGateway as R"
    code += "; R(pathlib.Path(sys.argv[1])).start(); print('started', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True) as starter:
        said = starter.stdout.readline()
        starter.kill()
    assert said == "started\n"
    deadline = time.monotonic() + 20
    while processes_of(folder):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_command_finds_the_server_and_gives_its_status(folder):
    code = "import boto3, sys; boto3.client('s3').head_bucket(Bucket='checkpoints'); sys.exit(3)"
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert main([str(folder), "--bucket", "checkpoints", "--", sys.executable, "-c", code]) == 3
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)  # the command's own would swallow the signals of later tests
    assert not processes_of(folder)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds something else"):
        RadosGateway(tmp_path).start()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_missing_programs_are_named_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([str(tmp_path / "cluster")]) == 2
    assert capsys.readouterr().err.startswith("radosgw is not installed: apt-get install")
