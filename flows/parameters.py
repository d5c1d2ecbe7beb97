"""Types of the flows' parameters: what a deployment's form shows and what is refused before a run starts."""

from typing import Annotated

from pydantic import BeforeValidator, StringConstraints, WithJsonSchema

from core.store import Location

# A path or s3:// address of a YAML file.
ConfigLocation = Annotated[
    Location,
    BeforeValidator(str),
    WithJsonSchema({"type": "string", "pattern": r"\.ya?ml$", "examples": ["configs/demo.yaml"]}),
]
Override = Annotated[str, StringConstraints(pattern=r"^[^=\s]+=")]
