"""Commands that end while their modules are still imported."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("environment", "profiles", "words"),
    [
        ({"PREFECT_SERVER_API_PORT": "SECRET"}, "", ("ServerAPISettings port", "integer", "the PREFECT_ variables")),
        ({"PREFECT_CLIENT_CUSTOM_HEADERS": '{"A": "SECRET"'}, "", ("custom_headers", "the PREFECT_ variables")),
        ({}, "[profiles.x\n", ("Expected ']'", "profiles.toml")),
    ],
)
def test_settings_that_prefect_cannot_read_are_one_line(environment, profiles, words, tmp_path):
    (tmp_path / "profiles.toml").write_text(profiles)
    environment = os.environ | environment | {"PREFECT_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "flows.adversarial_training", "missing.yaml"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert last.startswith("error: Prefect's settings cannot be read (") and "SECRET" not in last
    assert all(word in last for word in words)


def test_an_interruption_while_modules_are_imported_is_one_line(tmp_path):
    (tmp_path / "yaml.py").write_text("raise KeyboardInterrupt\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    command = [sys.executable, "-m", "tasks.continue_stage3", "missing.yaml"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    line = "interrupted; run the same command again to continue from the last checkpoint"
    assert (ended.returncode, ended.stderr.splitlines()) == (130, [line])
