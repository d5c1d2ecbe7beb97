"""What a process of a Dask cluster on this machine begins with."""

import os


def dask_setup(_: object) -> None:
    """Keep it off the terminal, which is the run's own: what goes wrong comes back with the task."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
