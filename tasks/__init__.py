"""Prefect tasks: thin wrappers around `core`, each also a command."""

from tasks.start_up import say_in_one_line

say_in_one_line()
