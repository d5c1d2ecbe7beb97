"""Further processes that one starts for its work: what they do together, and what happens when one ends."""

import os
import signal
import threading
import time
from typing import NamedTuple

import pytest
import torch

from core.runtime import distributed
from core.runtime.errors import InputError
from core.runtime.processes import ProcessLostError, count_processes, start_others, together


class Workers(NamedTuple):
    """As a config says it."""

    processes: int
    device: str = "cpu"


def add_ranks(count, report):
    """Every process writes the sum that all got, and its rank and number of threads."""
    with together(Workers(count), add_ranks, count, report):
        start_others()
        (total,) = distributed.summed([torch.tensor([distributed.rank() + 1.0])])
        value = distributed.from_first(os.getpid())
        rank = torch.tensor(float(distributed.rank()))
        (mean,) = distributed.averaged([distributed.weighted(rank, rank + 1)])
        assert mean == 8 / 6  # of 0, 1 and 2 with the weights 1, 2 and 3
        (report / str(distributed.rank())).write_text(f"{total.item()} {value} {torch.get_num_threads()}")


def test_all_processes_get_the_same_sum_and_end(tmp_path):
    for folder in (tmp_path / "one", tmp_path / "two"):  # a process may start others again
        folder.mkdir()
        add_ranks(3, folder)
        texts = {path.name: path.read_text() for path in folder.iterdir()}
        assert texts == {str(rank): f"6.0 {os.getpid()} 1" for rank in range(3)}
    assert distributed.size() == 1 and not distributed.is_joined()


def test_one_process_starts_nothing(tmp_path):
    with together(Workers(1), fail, "refused"):
        start_others()
        assert distributed.size() == 1


def fail(kind):
    """The second process fails in some way, while the first waits for it."""
    with together(Workers(2), fail, kind):
        start_others()
        if distributed.rank() == 1:
            if kind == "refused":
                raise InputError("layout 7 is empty: remove it")
            if kind == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "left":
                os._exit(5)
            raise ValueError("a fault of ours")
        distributed.from_first(None)
        for _ in range(1000):
            distributed.summed([torch.zeros(1)])


@pytest.mark.parametrize(
    ("kind", "error", "line"),
    [
        ("refused", InputError, r"^layout 7 is empty: remove it$"),
        ("killed", ProcessLostError, r"^process 1 of 2 was killed \(SIGKILL\): run the same command again"),
        ("left", ProcessLostError, r"^process 1 of 2 ended with status 5: run the same command again"),
        ("broken", RuntimeError, r"^process 1 of 2 failed:\nTraceback (.*\n)*ValueError: a fault of ours\n$"),
    ],
)
def test_a_process_that_fails_ends_all_with_its_own_line(capfd, kind, error, line):
    began = time.monotonic()
    with pytest.raises(error, match=line):
        fail(kind)
    assert time.monotonic() - began < 30
    assert not capfd.readouterr().err
    assert not distributed.is_joined()


def wait_for_ever(report):
    with together(Workers(2), wait_for_ever, report):
        start_others()
        (report / str(distributed.rank())).write_text(str(os.getpid()))
        while True:
            time.sleep(0.1)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_interrupted_process_ends_the_others(tmp_path):
    def interrupt():
        while not (tmp_path / "1").is_file() or not (tmp_path / "1").read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        wait_for_ever(tmp_path)
    assert not is_running(int((tmp_path / "1").read_text()))


@pytest.mark.parametrize(("count", "device", "processes"), [(1, "cpu", 1), (3, "cpu", 3), ("auto", "cpu", 1)])
def test_how_many_processes_work(count, device, processes):
    assert count_processes(count, device) == processes


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert count_processes("auto", "cuda") == count_processes(2, "auto") == 2
    assert count_processes("auto", "cuda:1") == 1
    with pytest.raises(
        InputError, match=r"^training.processes 3: each process needs a GPU, and this machine has 2: set"
    ):
        count_processes(3, "auto")
    with pytest.raises(InputError, match=r"^training.processes 2: device cuda:1 is one GPU; use auto or cuda"):
        count_processes(2, "cuda:1")
