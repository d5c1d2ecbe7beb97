"""Imports point downwards: flows over tasks over core."""

import ast
from pathlib import Path

import pytest

DASK = {"dask", "distributed", "prefect_dask"}
FORBIDDEN = {
    "core": {"prefect", "tasks", "flows", *DASK},
    "tasks": {"flows", "torch", "boto3", "pandas", *DASK},
    "flows": {"torch", "boto3", "pandas"},
}
FILES = [path for layer in FORBIDDEN for path in sorted(Path(layer).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_downwards(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    assert not imported & FORBIDDEN[path.parts[0]]


def test_only_one_module_writes_to_the_terminal():
    """What a command says passes through `say`, so that a closed or full output ends every command alike."""
    writers = {path for path in FILES if "sys.stdout" in path.read_text() or "sys.__stdout__" in path.read_text()}
    assert writers == {Path("tasks/standard_streams.py")}
