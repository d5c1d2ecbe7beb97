"""Labelled latents: what is drawn is matched in furniture and mixed by rule, and a file of another form is refused."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.models.labelled_latents import LabelledLatents, LabelledPairs
from core.runtime.errors import InputError

RULES = ("enclosed", "reachable")


def labelled(viable, fifth, kept=None):
    count = len(viable)
    latents = torch.arange(count, dtype=torch.float)[:, None, None, None].expand(count, 1, 2, 2).clone()
    kept = torch.ones(count, 2, dtype=torch.bool) if kept is None else torch.tensor(kept)
    return LabelledLatents(latents, torch.tensor(viable), torch.tensor(fifth), RULES, kept)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@given(
    rows=st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=60),
    pairs=st.integers(1, 20),
    match=st.booleans(),
    held_out=st.booleans(),
    seed=st.integers(0, 99),
)
def test_pairs_are_of_both_kinds_and_of_one_fifth(rows, pairs, match, held_out, seed):
    data = labelled(*map(list, zip(*rows, strict=True)))
    both = {fifth for kind, fifth in rows if kind} & {fifth for kind, fifth in rows if not kind}
    if not (both if match else len({kind for kind, _ in rows}) == 2):
        with pytest.raises(InputError, match=f"of {len(rows)} labelled latents .* no fifth of the furniture shares"):
            LabelledPairs(data, match, {})
        return
    drawn = LabelledPairs(data, match, {})
    viable, other = drawn.draw(pairs, held_out, rng(seed))
    assert len(viable) == len(other) == pairs
    assert data.viable[viable].all() and not data.viable[other].any()
    if match and not held_out:
        assert torch.equal(data.fifth[viable], data.fifth[other])
        counts = torch.bincount(data.fifth[viable], minlength=5)
        assert counts.max() - counts[[fifth in both for fifth in range(5)]].min() <= 1
    again = drawn.draw(pairs, held_out, rng(seed))
    assert torch.equal(viable, again[0]) and torch.equal(other, again[1])


def test_what_is_kept_for_validation_is_never_trained_on():
    data = labelled([True, False] * 100, [0, 1, 1, 0] * 50)
    drawn = LabelledPairs(data, True, {})
    trained, held_out = (set(torch.cat(drawn.draw(2000, split, rng())).tolist()) for split in (False, True))
    assert not trained & held_out and len(trained) > 150 and len(held_out) > 15


def test_the_shares_of_the_rules_that_bad_latents_break():
    """One in ten of the bad latents breaks `reachable`; half of those drawn are to."""
    kept = [[True, True]] * 100 + [[index < 10, index >= 10] for index in range(100)]
    data = labelled([True] * 100 + [False] * 100, [0] * 200, kept)
    for shares, expected in (({}, 0.1), ({"reachable": 0.5}, 0.5 + 0.5 * 0.1), ({"reachable": 1.0}, 1.0)):
        _, other = LabelledPairs(data, True, shares).draw(4000, False, rng())
        assert (~data.kept[other, 1]).double().mean().item() == pytest.approx(expected, abs=0.03)


def test_a_share_of_a_rule_that_judged_nothing_is_refused():
    data = LabelledLatents(
        torch.zeros(2, 1, 2, 2), torch.tensor([True, False]), torch.zeros(2).long(), (), torch.ones(2, 0) > 0
    )
    with pytest.raises(
        InputError, match=r"^rounds\.viability\.shares: the latents were not judged by reachable: leave"
    ):
        LabelledPairs(data, True, {"reachable": 0.5})


def test_a_file_comes_back_as_it_was_written_and_another_is_refused(tmp_path):
    data = labelled([True, False, True], [0, 4, 2])
    judged = dataclasses.replace(data, score=torch.tensor([1.0, 0.0, 0.7], dtype=torch.float64))
    for written in (data, judged):
        written.save(tmp_path / "l.pt")
        again = LabelledLatents.load(tmp_path / "l.pt")
        for name, value in vars(written).items():
            same = torch.equal(value, getattr(again, name)) if torch.is_tensor(value) else value == getattr(again, name)
            assert same, name
    assert again.at(torch.tensor([2])).score.tolist() == [0.7]
    for name, wrong, line in (
        ("latents", torch.full((3, 1, 2, 2), torch.nan), "latents holds NaN or infinite numbers"),
        ("latents", torch.zeros(3), "latents is a tensor"),
        ("viable", torch.zeros(3), "viable is a tensor"),
        ("fifth", torch.tensor([0, 5, 1]), "fifth is not from 0 to 4"),
        ("rules", [1], "rules is"),
        ("kept", torch.zeros(3, 1, dtype=torch.bool), "kept is a tensor"),
        ("score", torch.zeros(3), "score is a tensor"),
        ("score", torch.tensor([0.0, 1.1, 0.0], dtype=torch.float64), "score is not from 0 to 1"),
    ):
        saved = {**vars(data), "rules": list(RULES), name: wrong}
        torch.save(saved, tmp_path / "wrong.pt")
        with pytest.raises(InputError, match=line) as refused:
            LabelledLatents.load(tmp_path / "wrong.pt")
        assert "\n" not in str(refused.value) and "labelled latents" in str(refused.value)
