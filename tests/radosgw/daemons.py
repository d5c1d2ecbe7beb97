"""Ceph's programs, run as daemons or to their end, with their logs in one folder."""

import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_PATIENCE_SECONDS = 90
_STOP_SECONDS = 10
_LOG_LINES = 20


class Daemons:
    """The running daemons of the cluster whose `ceph.conf` and `log/` are in `folder`.

    They end with the process that started them, however that ends. `starter` is one thread that lasts: Linux kills a
    daemon when the thread that started it ends.
    """

    def __init__(self, folder: Path, starter: ThreadPoolExecutor):
        self._folder, self._starter = folder, starter
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> None:
        """Start a program in the foreground under `name`."""
        self._running[name] = self._spawn(name, *command, "-f")

    def kill(self, name: str) -> None:
        """End one daemon with SIGKILL."""
        daemon = self._running.pop(name)
        daemon.kill()
        daemon.wait()

    def stop(self) -> None:
        """End every daemon, the last one started first, with SIGKILL if one takes too long."""
        while self._running:
            _, daemon = self._running.popitem()
            daemon.terminate()
            try:
                daemon.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def check(self) -> None:
        """Raise a RuntimeError with the end of its log if a daemon ended by itself."""
        for name, daemon in self._running.items():
            if daemon.poll() is not None:
                raise RuntimeError(f"{name} ended with status {daemon.returncode}{self._log_tail(name)}")

    def run(self, *command: str) -> None:
        """Run a program to its end; a RuntimeError shows the end of its log if it fails."""
        if status := self.status(*command):
            raise RuntimeError(f"{command[0]} ended with status {status}{self._log_tail(command[0])}")

    def status(self, *command: str) -> int:
        """The exit status of a program."""
        name = command[0]
        process = self._spawn(name, *command)
        try:
            self.wait_for(f"end of {name}", lambda: process.poll() is not None, name)
        finally:
            process.kill()
            process.wait()
        return process.returncode

    def wait_for(self, event: str, happened: Callable[[], bool], log: str) -> None:
        """Return once `happened()`; a RuntimeError shows the end of the log called `log` if it takes too long."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not happened():
            self.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {event} within {_PATIENCE_SECONDS} seconds{self._log_tail(log)}")
            time.sleep(0.05)

    def _spawn(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        config = ("-c", str(self._folder / "ceph.conf"))
        with self._log(name).open("ab") as log:
            return self._starter.submit(
                subprocess.Popen,
                ["setpriv", "--pdeathsig", "KILL", *command, *config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is for this process, which ends the daemons in their order
            ).result()

    def _log(self, name: str) -> Path:
        return self._folder / "log" / f"{name}.log"

    def _log_tail(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").splitlines()
        return "".join(f"\n  {line}" for line in lines[-_LOG_LINES:])
