"""Types of the flows' parameters, with the JSON schema by which Prefect's server checks them before a run starts."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, StringConstraints, WithJsonSchema

from core.inputs.locations import Location, expanded
from core.runtime.errors import SECRET_PATTERN

# A path or s3:// address of a YAML file.
ConfigLocation = Annotated[
    Location,
    BeforeValidator(str),
    WithJsonSchema({"type": "string", "pattern": r"\.ya?ml$", "examples": ["configs/demo.yaml"]}),
]
# The address of a finished round, or of its record.
RoundLocation = Annotated[Location, BeforeValidator(str), AfterValidator(expanded), WithJsonSchema({"type": "string"})]
# Prefect stores parameters as they are given, so its server refuses one that holds a secret.
Override = Annotated[
    str,
    StringConstraints(pattern=r"^[^=\s]+="),
    WithJsonSchema({"type": "string", "pattern": rf"^(?![\s\S]*(?:{SECRET_PATTERN}))[^=\s]+="}),
]
