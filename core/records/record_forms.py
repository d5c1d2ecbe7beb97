"""Reading records: every JSON file of a run is checked against its form here before anything in it is used."""

import json
from typing import Any

from pydantic import ValidationError

from core.inputs.yaml_text import read_yaml
from core.records.artifacts import (
    ANNOUNCED_NAME,
    DECISION_NAME,
    LEASE_NAME,
    MADE_NAME,
    PUBLISHING_NAME,
    RECORD_NAME,
    ROUND_RECORD,
    RUN_RECORD,
    is_part_record,
    is_state_record,
)
from core.records.json_forms import (
    Announced,
    Decision,
    Form,
    Lease,
    Made,
    PartRecord,
    Publishing,
    RoundRecord,
    RunRecord,
    StageRecord,
    State,
)
from core.runtime.errors import InputError

_PUT_BACK = "put back a copy of it, or choose another folder (artifacts.root, experiment.name, --output_dir)"
_MOVE = "if no process works on the run, move the file elsewhere"


class RecordError(InputError):
    """A record that is damaged or was written by another program."""


# By file name: the form, and what the user can do if the file does not have it.
_FORMS: dict[str, tuple[type[Form], str]] = {
    RECORD_NAME: (StageRecord, _PUT_BACK),
    ROUND_RECORD: (RoundRecord, _PUT_BACK),
    RUN_RECORD: (RunRecord, _PUT_BACK),
    LEASE_NAME: (Lease, _MOVE),
    DECISION_NAME: (Decision, f"{_MOVE}, and you are asked again"),
    PUBLISHING_NAME: (Publishing, _MOVE),
    MADE_NAME: (Made, _MOVE),
    ANNOUNCED_NAME: (Announced, f"{_MOVE}, and the round's events are sent again"),
}


def parse_record(data: bytes, uri: str, name: str) -> dict[str, Any]:
    """The record in `data`, read from the file `name` in the folder at `uri`; RecordError if it has another form."""
    form: type[Form]
    if is_state_record(name):
        form, remedy = State, f"{_MOVE}, and the stage continues from an older state or from its beginning"
    elif is_part_record(name):
        form, remedy = PartRecord, f"{_MOVE}, and the part is made again"
    else:
        form, remedy = _FORMS[name]
    try:
        record: dict[str, Any] = json.loads(data, parse_constant=_refuse_constant)
        form.model_validate(record)
    except RecursionError:
        problem = "it is nested too deeply"
    except ValidationError as error:
        problem = _first(error)
    except ValueError:
        problem = "not JSON"
    else:
        return record
    raise RecordError(f"record {uri}/{name} is damaged or another program's ({problem}): {remedy}")


def rounds_wanted(config: bytes, uri: str, name: str) -> int:
    """`rounds.count` of the config `name` in a run's folder; RecordError if the config does not hold it."""
    try:
        count = read_yaml(config, f"{uri}/{name}", "replace it")["rounds"]["count"]
        if type(count) is not int or not 1 <= count <= 10**6:
            raise ValueError
    except (InputError, ValueError, LookupError, TypeError):
        raise RecordError(
            f"{uri}/{name} is damaged or another program's (it has no rounds.count): start the run again with its own "
            "config, which is then written there"
        ) from None
    return count


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a number in JSON")


def _first(error: ValidationError) -> str:
    """The first problem of a record, in a few words."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in problem["loc"])[:80]
    text = "is missing" if problem["type"] == "missing" else problem["msg"].removeprefix("Value error, ").lower()
    return f"{where}: {text}" if where else text
