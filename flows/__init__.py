"""Prefect flows: the algorithm in a few lines."""
