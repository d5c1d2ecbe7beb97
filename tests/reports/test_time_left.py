"""How long the rest of a stage and of a run takes."""

import pytest

from core.reports.time_left import seconds_left, time_left
from core.runtime.progress import Progress


def rounds(*seconds):
    return [{"round": number, "seconds": took} for number, took in enumerate(seconds, 1)]


@pytest.mark.parametrize(
    ("seconds", "count", "expected"),
    [
        ([], 3, None),
        ([100.0], 3, 200.0),
        ([500.0, 100.0], 3, 100.0),  # the first also audits the model that it starts from
        ([500.0, 90.0, 100.0, 110.0, 150.0], 7, 240.0),  # the last three
        ([100.0, 100.0], 2, 0.0),
        ([100.0, 100.0, 100.0], 2, 0.0),
    ],
)
def test_rounds_take_what_the_last_ones_did(seconds, count, expected):
    assert seconds_left(rounds(*seconds), count) == pytest.approx(expected)


def test_it_is_said_only_where_something_is_known_and_left():
    assert time_left(rounds(100.0), 3) == "about 03:20 for the 2 rounds left"
    assert time_left(rounds(100.0, 3723.0), 3) == "about 1:02:03 for the 1 round left"
    assert time_left([], 3) is time_left(rounds(100.0), 1) is None


def test_a_stage_goes_on_at_its_rate():
    assert Progress("stage3", done=10, total=100, unit="steps", per_second=0.5).time_left == "03:00"
