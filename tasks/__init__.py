"""Prefect tasks: thin wrappers around `core`, each also a command."""
