"""Signals that ask a command to end, sent to a command that takes long to do so."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tasks.interruption import INTERRUPTED_LINE

# Says what it does; a state takes as many seconds to be safe as the argument says.
COMMAND = """
import sys, time
from tasks.command_line import run_command

def work():
    try:
        print("works", flush=True)
        time.sleep(60)
    finally:
        print("unwinds", flush=True)
        time.sleep(float(sys.argv[1]))
        print("is safe", flush=True)

run_command(work, [])
"""


def started(number, handler=signal.SIG_DFL, seconds=0.5, **environment):
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        preexec_fn=lambda: signal.signal(number, handler),
    )
    assert command.stdout.readline() == "works\n"
    return command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_unwinds_and_leaves_with_its_status_and_one_line(number):
    with started(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL) as command:
        command.send_signal(number)
        time.sleep(0.2)
        command.send_signal(number)  # of the same wish, as `timeout` sends it
        out, errors = command.communicate(timeout=60)
    assert command.returncode == 128 + number
    assert (out, errors) == ("unwinds\nis safe\n", f"{INTERRUPTED_LINE}\n")


def test_a_second_wish_leaves_at_once():
    with started(signal.SIGTERM, seconds=4) as command:
        command.send_signal(signal.SIGTERM)
        assert command.stdout.readline() == "unwinds\n"
        time.sleep(1.2)
        command.send_signal(signal.SIGTERM)
        out, errors = command.communicate(timeout=60)
    assert (command.returncode, out, errors) == (143, "", f"{INTERRUPTED_LINE}\n")


def test_an_ignored_signal_stays_ignored():
    with started(signal.SIGHUP, signal.SIG_IGN) as command:  # nohup
        command.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert command.poll() is None
        command.kill()


def test_processes_of_torchrun_end_as_it_wants_them_to():
    with started(signal.SIGTERM, TORCHELASTIC_RUN_ID="x", WORLD_SIZE="2", RANK="1") as command:
        command.send_signal(signal.SIGTERM)
        _, errors = command.communicate(timeout=60)
    assert (command.returncode, errors) == (-signal.SIGTERM, "")
