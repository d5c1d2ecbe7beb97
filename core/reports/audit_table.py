"""Tables of audits: each figure with its interval, whether the labels teach it, and what is better."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core.audit.rules import RULES, VIABLE
from core.rounds.alarms import LOWER_IS_BETTER, NO_DIRECTION
from core.rounds.finished_rounds import AuditFigures, Number, audit_figure

AUDIT_HEADER = ("figure", "value", "95 % interval", "taught by labels", "better")
CHANGE_HEADER = ("figure", "before", "after", "taught by labels", "better")
# These come first; the others follow in the order of their record.
_FIRST = (VIABLE, *RULES, "judge_sound", "doorless")


@dataclass(frozen=True)
class AuditTable:
    """What was taught, in a sentence, and a row of texts for each figure, of the columns `AUDIT_HEADER`."""

    taught: str
    rows: list[list[str]]


def audit_table(audit: AuditFigures | None, taught: Sequence[str]) -> AuditTable | None:
    """The table of `audit`, in which the labels teach the figures `taught`; None without an audit."""
    if audit is None:
        return None
    return AuditTable(_taught_sentence(taught), [_row(audit, name, taught) for name in _ordered(audit["intervals"])])


def change_table(before: AuditFigures | None, after: AuditFigures, taught: Sequence[str]) -> AuditTable:
    """The table of two audits, of the columns `CHANGE_HEADER`: each figure with its interval before and after."""
    names = _ordered(after["intervals"])
    rows = [[_title(name), _cell(before, name), _cell(after, name), *_nature(name, taught)] for name in names]
    return AuditTable(_taught_sentence(taught), rows)


def _ordered(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))


def _cell(audit: AuditFigures | None, name: str) -> str:
    if audit is None or name not in audit["intervals"]:
        return "-"
    low, high = audit["intervals"][name]
    interval = "" if low is None or high is None else f" [{short(low)}, {short(high)}]"
    return f"{short(audit_figure(audit, name))}{interval}"


def short(number: Number) -> str:
    """A figure in three decimals; a dash for one that could not be computed."""
    return "-" if number is None else f"{number:.3f}"


def _row(audit: AuditFigures, name: str, taught: Sequence[str]) -> list[str]:
    low, high = audit["intervals"][name]
    return [_title(name), short(audit_figure(audit, name)), f"{short(low)} to {short(high)}", *_nature(name, taught)]


def _nature(name: str, taught: Sequence[str]) -> list[str]:
    """Whether the labels teach the figure, and which direction is better."""
    better = "neither" if name in NO_DIRECTION else "lower" if name in LOWER_IS_BETTER else "higher"
    return ["taught" if name in taught else "not taught", better]


def _taught_sentence(taught: Sequence[str]) -> str:
    if not taught:
        return "The labels teach none of these figures."
    return f"The labels teach {', '.join(map(_title, taught))}. What is not taught may become worse meanwhile."


def _title(name: str) -> str:
    return name.replace("_", " ")
