"""What Prefect's server accepts as a parameter of a run, by the schema that the flows give it."""

import jsonschema
import pytest
from pydantic import TypeAdapter

from flows.parameters import Override
from tests.runtime.test_escaping import PLAIN, SECRETS

SCHEMA = TypeAdapter(Override).json_schema()


@pytest.mark.parametrize("text", SECRETS)
def test_an_override_that_holds_a_secret_is_not_stored(text):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(f"artifacts.root={text}", SCHEMA)


@pytest.mark.parametrize("text", [*PLAIN, "s3://bucket/run", "[1, 2]"])
def test_any_other_override_is_accepted(text):
    jsonschema.validate(f"artifacts.root={text}", SCHEMA)


@pytest.mark.parametrize("text", ["rounds.count", "= 3", "rounds count=3"])
def test_an_override_names_its_setting(text):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(text, SCHEMA)
