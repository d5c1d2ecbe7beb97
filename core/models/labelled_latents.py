"""Latents that the model generated, labelled viable or not, and how a training step draws pairs of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.data.latents import Latents
from core.inputs.state_form import Source, is_plain, kind_of, mapping
from core.inputs.tensor_files import load_tensors, save_tensors
from core.runtime.errors import InputError

# Of the latents of a kind and fifth, every eighth is kept for validation.
_HELD_OUT = 8
_NUMBER_OF_FIFTHS = 5
_FIELDS = ("latents", "viable", "fifth", "rules", "kept")


@dataclass(frozen=True)
class LabelledLatents:
    """Generated `latents` [N, C, h, w], and of the layout of each: whether it is `viable`, bool [N].

    `fifth` [N], 0 to 4, is the fifth of the real layouts' furniture shares that its own lies in. `kept` bool [N, R]
    says which of the `rules` it keeps; without rules R is 0. If a critic labelled them, `score` float64 [N] is the
    probability of each to be viable.
    """

    latents: Tensor
    viable: Tensor
    fifth: Tensor
    rules: tuple[str, ...]
    kept: Tensor
    score: Tensor | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def at(self, rows: Tensor) -> "LabelledLatents":
        """Those in `rows` [n]."""
        score = None if self.score is None else self.score[rows]
        return LabelledLatents(
            self.latents[rows], self.viable[rows], self.fifth[rows], self.rules, self.kept[rows], score
        )

    def save(self, path: Path) -> None:
        """Write all fields to `path`, `score` only if there is one."""
        fields = {name: value for name, value in vars(self).items() if value is not None}
        save_tensors({**fields, "rules": list(self.rules)}, path)

    @classmethod
    def load(cls, path: Path) -> "LabelledLatents":
        """What `save` wrote to `path`; InputError if the file is of another form."""
        source = Source("labelled latents", path, "give the labelled_latents.pt of generate-bad-latents, unaltered")
        saved = mapping(load_tensors(path, "labelled latents"), _FIELDS, "the file", source)
        latents, rules = saved["latents"], saved["rules"]
        if not isinstance(latents, Tensor) or not is_plain(latents) or latents.dim() != 4 or not len(latents):
            raise source.error("latents", f"is {kind_of(latents)}, not latents [N, C, h, w]")
        if not torch.isfinite(latents).all():
            raise source.error("latents", "holds NaN or infinite numbers")
        if not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
            raise source.error("rules", f"is {kind_of(rules)}, not names of rules")
        shapes = {"viable": [len(latents)], "fifth": [len(latents)], "kept": [len(latents), len(rules)]}
        for name, shape in shapes.items():
            value, dtype = saved[name], torch.long if name == "fifth" else torch.bool
            if not isinstance(value, Tensor) or not is_plain(value, (dtype,)) or list(value.shape) != shape:
                raise source.error(name, f"is {kind_of(value)}, not {dtype} {shape}")
        if not ((saved["fifth"] >= 0) & (saved["fifth"] < _NUMBER_OF_FIFTHS)).all():
            raise source.error("fifth", f"is not from 0 to {_NUMBER_OF_FIFTHS - 1}")
        return cls(latents, saved["viable"], saved["fifth"], tuple(rules), saved["kept"], _score(saved, source))


def _score(saved: Mapping[str, Any], source: Source) -> Tensor | None:
    """The score in a file, whose latents are sound; None if it has none."""
    score = saved.get("score")
    if score is None:
        return None
    shape = [len(saved["latents"])]
    if not isinstance(score, Tensor) or not is_plain(score, (torch.float64,)) or list(score.shape) != shape:
        raise source.error("score", f"is {kind_of(score)}, not {torch.float64} {shape}")
    if not ((score >= 0) & (score <= 1)).all():
        raise source.error("score", "is not from 0 to 1")
    return score


@dataclass(frozen=True)
class RealLatents:
    """Real latents, which stand in for a `share` (0 to 1) of the viable ones: of training, and of validation."""

    share: float
    training: Latents
    validation: Latents

    def draw(self, viable: int, held_out: bool, rng: torch.Generator) -> Tensor:
        """Latents [n, C, h, w], float32 on the CPU, for the share of `viable` ones; `held_out` for validation."""
        latents, count = self.validation if held_out else self.training, round(self.share * viable)
        return latents.batch(torch.randint(len(latents), (count,), generator=rng)).cpu()


class _Group(NamedTuple):
    """Rows of viable latents, rows of others, and the probability of each of the others."""

    viable: Tensor
    other: Tensor
    probability: Tensor


class LabelledPairs:
    """Draws as many viable latents as others.

    With `match`, the two of a pair are of the same fifth, and each fifth is drawn equally often, so that the label does
    not teach how much furniture a layout has. `shares` gives by rule the share of the others that are drawn among
    those that break it; the rest is drawn among all of them. InputError if no fifth has both kinds, or for a share of a
    rule by which no latent was judged.
    """

    def __init__(self, labelled: LabelledLatents, match: bool, shares: Mapping[str, float]):
        self.labelled = labelled
        if unknown := sorted(shares.keys() - set(labelled.rules)):
            raise InputError(
                f"rounds.viability.shares: the latents were not judged by {unknown[0]}: leave it out, or set "
                "rounds.viability.labels: rules"
            )
        self._groups: dict[bool, list[_Group]] = {}
        everywhere = torch.zeros_like(labelled.fifth)
        for held_out in (False, True):
            # Few latents may leave no fifth with both kinds for validation.
            choices = [labelled.fifth, everywhere] if match and held_out else [labelled.fifth if match else everywhere]
            split = _held_out(labelled) == held_out
            groups = (self._grouped(cells, split, shares) for cells in choices)
            self._groups[held_out] = next((found for found in groups if found), [])
        if not self._groups[False]:
            raise InputError(
                f"of {len(labelled)} labelled latents {int(labelled.viable.sum())} are viable, and no fifth of the "
                "furniture shares has both kinds: raise rounds.bad_latents.num_samples, or set rounds.viability.match: "
                "false"
            )
        self._groups[True] = self._groups[True] or self._groups[False]

    def _grouped(self, cells: Tensor, split: Tensor, shares: Mapping[str, float]) -> list[_Group]:
        groups = []
        for cell in range(_NUMBER_OF_FIFTHS):
            inside = split & (cells == cell)
            viable, other = (inside & kind for kind in (self.labelled.viable, ~self.labelled.viable))
            if viable.any() and other.any():
                rows = other.nonzero().squeeze(1)
                groups.append(_Group(viable.nonzero().squeeze(1), rows, self._probability(rows, shares)))
        return groups

    def _probability(self, rows: Tensor, shares: Mapping[str, float]) -> Tensor:
        """Of each of the bad latents in `rows`, so that `shares` of them break the rules."""
        probability, rest = torch.zeros(len(rows)), 1.0
        for rule, share in shares.items():
            broken = ~self.labelled.kept[rows, self.labelled.rules.index(rule)]
            if broken.any():
                probability += share * broken / broken.sum()
                rest -= share
        return probability + max(0.0, rest) / len(rows)

    def draw(self, pairs: int, held_out: bool, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows of `pairs` viable latents and of as many others, [pairs] each; `held_out` for validation."""
        groups = self._groups[held_out]
        first = int(torch.randint(len(groups), (), generator=rng))
        viable, other = [], []
        for pair in range(pairs):
            group = groups[(first + pair) % len(groups)]
            viable.append(group.viable[torch.randint(len(group.viable), (), generator=rng)])
            other.append(group.other[torch.multinomial(group.probability, 1, generator=rng)[0]])
        return torch.stack(viable), torch.stack(other)


def _held_out(labelled: LabelledLatents) -> Tensor:
    """Which latents are for validation, bool [N]: every eighth of each kind in each fifth."""
    held_out = torch.zeros(len(labelled), dtype=torch.bool)
    for fifth in range(_NUMBER_OF_FIFTHS):
        for kind in (labelled.viable, ~labelled.viable):
            rows = ((labelled.fifth == fifth) & kind).nonzero().squeeze(1)
            held_out[rows[_HELD_OUT - 1 :: _HELD_OUT]] = True
    return held_out
