"""The gate before a round: while the label file is missing, a person is asked until it is there."""

from pathlib import Path

import pytest

from core.reports.round_table import round_table
from core.runtime.errors import InputError
from flows import gate
from flows.gate import Stopped, pass_gate
from tests.labelled_round import make_labelled


@pytest.fixture
def person(monkeypatch):
    """Answers the questions in turn, each with a function that returns the answer; what was asked, and the keys."""

    class Person:
        """`answers` that are still to be given, `asked` questions and their `keys`."""

        answers, asked, keys = [], [], []

    def ask(question, key, _):
        Person.keys.append(key)
        Person.asked.append(question._description)
        return question(answer=Person.answers.pop(0)())

    monkeypatch.setattr(gate, "ask_person", ask)
    return Person


@pytest.fixture
def awaiting(config, tmp_path):
    """Config of a run that waits for `labels.csv`, of a round that is finished."""
    latents = make_labelled(config, tmp_path / "earlier" / "round-03" / "bad_latents", count=2)
    return config.with_values(
        {
            "artifacts.root": str(tmp_path / "artifacts"),
            "rounds.gate": "manual",
            "rounds.viability": {"labels": "file", "file": str(tmp_path / "labels.csv"), "latents": str(latents)},
        }
    )


def test_it_asks_until_the_label_file_is_there(awaiting, person):
    file = Path(awaiting.rounds.viability.file)
    person.answers = [lambda: "go on", lambda: file.write_text("x") and "go on"]
    assert list(pass_gate(awaiting, 1, ["a.b=1"])) == ["a.b=1"]
    assert len(person.asked) == 2 and not person.answers
    # Prefect takes a question with the key of an answered one for answered.
    assert len(set(person.keys)) == 2
    config = file.parent / "earlier" / "round-03" / "config.yaml"
    for question in person.asked:
        assert str(file) in question
        assert f"`python -m tasks.label {config} --round 3 --output labels.html`" in question
    assert list(pass_gate(awaiting, 1, ["a.b=1"])) == ["a.b=1"] and len(person.asked) == 2


def test_the_answer_may_be_to_stop(awaiting, person):
    person.answers = [lambda: "go on", lambda: "stop"]
    with pytest.raises(Stopped, match=r"^stopped before round 1, as answered: its label file is missing$"):
        pass_gate(awaiting, 1, [])
    assert round_table([]) == "no round is finished"


def test_latents_outside_a_round_are_named_without_a_command(awaiting, person, config, tmp_path):
    latents = make_labelled(config, tmp_path / "apart", count=2)
    person.answers = [lambda: "stop"]
    with pytest.raises(Stopped):
        pass_gate(awaiting.with_values({"rounds.viability.latents": str(latents)}), 1, [])
    assert f"Label layouts of `{latents}`" in person.asked[0] and "tasks.label" not in person.asked[0]


@pytest.mark.parametrize("values", [{"rounds.gate": "none"}, {"rounds.viability": {}}])
def test_without_a_gate_or_other_labels_nobody_is_asked(awaiting, person, values):
    assert list(pass_gate(awaiting.with_values(values), 1, [])) == [] and not person.asked


def test_nobody_is_asked_to_label_what_is_not_there(awaiting, person):
    with pytest.raises(InputError, match=r"^rounds\.viability\.latents: /none holds no finished generate-bad-latents"):
        pass_gate(awaiting.with_values({"rounds.viability.latents": "/none"}), 1, [])
    assert not person.asked
