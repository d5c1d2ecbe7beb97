"""Commands of the project as tests give them: `python -m MODULE ARGUMENTS`, without the seconds of its imports.

Each is forked from one process that has imported what they need and has done nothing else.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

# For the process that all are forked from, too: it could not be changed later.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["flows.adversarial_training", "tasks.report_round", "tests.quick_audits"])
_IN_A_TERMINAL = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


class Command:
    """A started command at the head of a process group of its own; with it as `subprocess.Popen`.

    Its stdout is kept for `communicate`, unless it goes to the file `output`; `environment` are variables of its own.
    """

    def __init__(self, module: str, *arguments: object, output: str | None = None, **environment: str):
        self.args = [module, *map(str, arguments)]
        self._folder = tempfile.TemporaryDirectory()
        self._streams = [str(Path(self._folder.name, name)) for name in ("stdout", "stderr")]
        for path in self._streams:
            Path(path).touch()
        streams = [output or self._streams[0], self._streams[1]]
        self._process = _processes.Process(
            target=_run, args=(self.args, os.environ | environment, streams), daemon=True
        )
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the command's process group, if it has not ended."""
        while self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has not made the group yet
                return os.killpg(self.pid, number)
            time.sleep(0.01)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to stdout and stderr, once it has ended; TimeoutExpired if it has not by then."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        out, errors = (Path(path).read_text() for path in self._streams)
        return out, errors

    def wait_for(self, words: str, timeout: float = 200) -> None:
        """Return once these words are on its stderr; AssertionError if it ends without them or takes longer."""
        until = time.monotonic() + timeout
        while words not in (errors := Path(self._streams[1]).read_text()):
            assert self.returncode is None and time.monotonic() < until, errors
            time.sleep(0.05)

    def wait(self) -> None:
        """Return once it has ended."""
        self._process.join()


def run(module: str, *arguments: object, timeout: float = 200, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command once it has ended."""
    command = Command(module, *arguments, **environment)
    output, errors = command.communicate(timeout)
    return subprocess.CompletedProcess(command.args, command.returncode, output, errors)


def _run(arguments: Sequence[str], environment: Mapping[str, str], streams: Sequence[str]) -> None:
    """In the forked process: what the interpreter does for `-m`."""
    from prefect.context import refresh_global_settings_context

    os.setsid()
    for signal_number, handler in _IN_A_TERMINAL.items():
        signal.signal(signal_number, handler)
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = arguments
    refresh_global_settings_context()
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")  # the module was imported before
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves without
