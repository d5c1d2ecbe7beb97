"""An S3 server as a command.

    python -m tests.radosgw FOLDER --bucket layouts                      until Ctrl-C
    python -m tests.radosgw FOLDER --bucket layouts -- COMMAND ARGS...   while COMMAND runs

What it stores survives in FOLDER.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

from botocore.exceptions import BotoCoreError, ClientError

from tests.radosgw.gateway import RadosGateway, missing_programs

_INSTALL = "radosgw is not installed: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common"
_INTERRUPTED_STATUS = 130


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
        prog="python -m tests.radosgw",
        usage="%(prog)s FOLDER [--port PORT] [--bucket NAME] [-- COMMAND ARGS...]",
        description="An S3 server on 127.0.0.1, until Ctrl-C or while COMMAND runs.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where its data, ports, credentials and logs are")
    parser.add_argument("--port", type=int, default=0, help="a free one by default; the same at every later start")
    parser.add_argument(
        "--bucket", action="append", default=[], metavar="NAME", help="create this bucket; may be repeated"
    )
    return parser.parse_args(arguments)


def _split(arguments: list[str], separator: str) -> tuple[list[str], bool, list[str]]:
    """`arguments` before the first `separator`, whether there is one, and those after it."""
    if separator not in arguments:
        return arguments, False, []
    at = arguments.index(separator)
    return arguments[:at], True, arguments[at + 1 :]


def _serve(gateway: RadosGateway) -> int:
    """Exit status 0 after Ctrl-C; a RuntimeError if a daemon ends before."""
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
    """Exit status of `command`, run with the server in its environment; 128 + the signal's number if one ended it."""
    others = {name: value for name, value in os.environ.items() if name not in ("AWS_PROFILE", "AWS_SESSION_TOKEN")}
    # The terminal sends Ctrl-C to the command too, which ends in its own way; the server must outlive it.
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
