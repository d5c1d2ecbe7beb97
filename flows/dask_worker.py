"""The preload module of a Dask worker on this machine."""

import os


def dask_setup(_: object) -> None:
    """Discard the worker's stderr: the terminal is the run's, and errors come back with the task."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
