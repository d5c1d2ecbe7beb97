"""An experiment of each test's own for the deployments to work on."""

from pathlib import Path

import pytest

from tests.conftest import own_copy


@pytest.fixture
def tiny(prepared: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Config of an experiment of the test's own name, prerequisites made."""
    name = request.node.name.removeprefix("test_")[:30].strip("_").replace("_", "-")
    made = own_copy(prepared, tmp_path)
    config = made.with_name(f"{name}.yaml")
    config.write_text(made.read_text().replace("name: tiny", f"name: {name}"))
    return config
