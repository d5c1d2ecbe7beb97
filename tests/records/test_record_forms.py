"""Records that were changed anywhere: each is refused by name or read as it is, and the other runs are shown."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.records.record_forms import RecordError, parse_record
from core.reports.run_status import find_problems, read_status
from core.runtime.errors import InputError
from core.storage.store import ArtifactsSection
from flows.status import status
from tests.inputs.test_state_form import paths
from tests.sweep import rows_records as forms

RECORDS = {
    "run.json": forms.RUN,
    "stage.json": forms.STAGE,
    "round.json": forms.ROUND,
    "lease.json": forms.LEASE,
    "decision.json": forms.DECISION,
    "000001-000001.json": forms.STATE,
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["..", "/", "a//b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed_records(draw):
    """A record's file name and its content with another value at one place, or without it."""
    name = draw(st.sampled_from(sorted(RECORDS)))
    record = copy.deepcopy(RECORDS[name])
    path = draw(st.sampled_from(list(paths(record))))
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    if isinstance(inner, dict) and draw(st.booleans()):
        del inner[path[-1]]
    else:
        inner[path[-1]] = draw(JSON)
    return name, record


@pytest.mark.parametrize("name", RECORDS)
def test_a_whole_record_is_read_as_it_is(name):
    assert parse_record(json.dumps(RECORDS[name]).encode(), "root/a", name) == RECORDS[name]


@given(changed_records())
def test_a_changed_record_is_refused_by_name_or_read_as_it_is(changed):
    name, record = changed
    try:
        assert parse_record(json.dumps(record).encode(), "root/a", name) == record
    except RecordError as refused:
        assert f"root/a/{name}" in str(refused)
        assert "remove" not in str(refused)  # what is there may be days of work


@given(st.sampled_from(sorted(RECORDS)), st.binary(max_size=64))
def test_any_bytes_are_refused_by_name(name, data):
    with pytest.raises(RecordError, match=name):
        parse_record(data, "root/a", name)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changed=changed_records())
def test_a_run_with_a_changed_record_hides_no_other(tmp_path, changed):
    name, record = changed
    places = {"run.json": "bad/run.json", "lease.json": "bad/lease.json", "decision.json": "bad/round-01/decision.json"}
    places |= {"round.json": "bad/round-01/round.json", "stage.json": "bad/round-01/stage3/stage.json"}
    place = tmp_path / places.get(name, f"bad/round-01/stage3/state/{name}")
    files = {"good/run.json": forms.RUN, "good/lease.json": forms.LEASE, "bad/run.json": forms.RUN}
    for path, content in {**files, str(place.relative_to(tmp_path)): record}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(json.dumps(content))
    try:
        shown = read_status(str(tmp_path), ArtifactsSection())
        assert f"{tmp_path}/good" in shown.text and f"{tmp_path}/bad" in shown.text
        assert all(str(tmp_path / "bad") in line for line in shown.unreadable)
        assert all(isinstance(line, str) for line in find_problems(str(tmp_path), ArtifactsSection()))
    finally:
        place.unlink()


def test_status_prints_what_it_can_and_ends_with_what_it_cannot(tmp_path, capsys):
    for path, content in {
        "a/run.json": forms.RUN,
        "b/run.json": forms.RUN,
        "b/lease.json": {},
        "c/run.json": {},
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"b/lease.json is damaged or another program's \(holder: is missing\)"):
        status(str(tmp_path))
    shown = capsys.readouterr().out
    for word in (f"{tmp_path}/a", f"{tmp_path}/b", "lease: unreadable", f"not a run: record {tmp_path}/c/run.json"):
        assert word in shown
    assert (tmp_path / "c/run.json").read_text() == "{}"
