"""What a process does that `core.runtime.processes` started: join the first one, and do the work that it sends."""

import json
import os
import pickle
import signal
import sys
import threading
import traceback
from typing import IO

import torch

from core.runtime import distributed
from core.runtime.errors import InputError
from core.runtime.progress import log_to_stderr


def main(port: int, report: IO[str]) -> int:
    """Do the work that is read from the standard input; the exit status.

    `report` gets a line when this process is about to join the first one, and one as JSON if the work fails.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the first process gets them too, and ends this one
    device, work, arguments = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    log_to_stderr()
    rank, count = int(os.environ["RANK"]), distributed.launched()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    print("ready", file=report, flush=True)
    try:
        distributed.join(distributed.meeting_point(count, port), rank, count, device)
        work(*arguments)
    except InputError as error:
        print(json.dumps({"refused": str(error)}), file=report, flush=True)
        return error.exit_status
    except Exception:
        print(json.dumps({"failed": traceback.format_exc()}), file=report, flush=True)
        return 1
    distributed.leave()
    return 0


def _end_with_the_first() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    _port, _report = sys.argv[1:]
    with os.fdopen(int(_report), "w") as _open_report:
        _status = main(int(_port), _open_report)
    os._exit(_status)  # threads of libraries may still run, and nothing of this process is needed any more
