"""What the discriminator of a round knows of viability, for a report: a sentence, and shares by fifths of its score."""

from collections.abc import Mapping
from typing import cast

from core.audit.rules import RULES
from core.rounds.finished_rounds import Number, RoundMetrics

_FIFTHS = tuple(f"viable_fifth_{number}" for number in range(1, 6))


def known_of_viability(metrics: RoundMetrics) -> str | None:
    """The AUCs of the discriminator's score in a sentence; None for a round that did not measure them."""
    known = cast(Mapping[str, Number], metrics)
    value, low, high = (known.get(f"viability_auc{end}") for end in ("", "_low", "_high"))
    if value is None:
        return None
    interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    rules = [f"{rule.replace('_', ' ')} {auc:.2f}" for rule in RULES if (auc := known.get(f"auc_{rule}")) is not None]
    by_rule = f"; by rule: {', '.join(rules)}" if rules else ""
    return (
        "The discriminator on generated latents that it did not see: "
        f"AUC of viability {value:.2f}{interval}{by_rule}. An AUC of 0.5 is chance."
    )


def viable_by_fifths(metrics: RoundMetrics) -> list[float] | None:
    """Share of viable ones in each fifth of the unseen latents by score, from the lowest; None if one is unknown."""
    known = cast(Mapping[str, Number], metrics)
    shares = [share for name in _FIFTHS if (share := known.get(name)) is not None]
    return shares if len(shares) == len(_FIFTHS) else None
