"""Types of the flows' parameters: what a deployment's form shows and what is refused before a run starts."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, StringConstraints, WithJsonSchema

from core.inputs.places import Location, expanded

# A path or s3:// address of a YAML file.
ConfigLocation = Annotated[
    Location,
    BeforeValidator(str),
    WithJsonSchema({"type": "string", "pattern": r"\.ya?ml$", "examples": ["configs/demo.yaml"]}),
]
# The address of a finished round, or of its record.
RoundLocation = Annotated[Location, BeforeValidator(str), AfterValidator(expanded), WithJsonSchema({"type": "string"})]
# Prefect keeps parameters as they are given: one with a password or signature in an address is not taken.
_NO_SECRET = r"(?!.*://[^\s/]*@)(?!.*[Xx]-[Aa]mz-(Signature|Security-Token|Credential)=)"
Override = Annotated[
    str,
    StringConstraints(pattern=r"^[^=\s]+="),
    WithJsonSchema({"type": "string", "pattern": rf"^[^=\s]+={_NO_SECRET}"}),
]
