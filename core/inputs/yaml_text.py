"""YAML as configs and `--set` use it: plain values only, each key once, no more than a person writes."""

import re
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from core.runtime.errors import InputError

LARGEST_FILE = 2**20
_DEEPEST = 32
# Values with every reference (`*name`) counted as often as it is used.
_MOST_VALUES = 10_000
_MOST_DIGITS = 30
# `1e-4`, which YAML 1.1 wants to be written `1.0e-4`.
_EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
# Whole numbers without leading zeros: `007` is text, as `010` means eight to some readers and ten to others.
_WHOLE = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$")
_DECIMAL = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?)$")
_NO_NUMBER = re.compile(r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")
_INT, _FLOAT, _DATE, _TEXT = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp", "str"))
# What PyYAML raises of its own on values that it cannot make.
_PYYAML_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class _Loader(yaml.SafeLoader):
    """Refuses dates, keys given twice, references that an alias makes endless or huge, and deep nesting."""

    def __init__(self, text: bytes | str):
        self._open, self._sizes = 0, {}
        super().__init__(text)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()
        if self._open == _DEEPEST:
            raise ComposerError(None, None, f"it is nested more than {_DEEPEST} levels deep", event.start_mark)
        self._open += 1
        node = super().compose_node(parent, index)
        self._open -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise ComposerError(None, None, f"*{event.anchor} refers to itself", event.start_mark)
            return node
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in inner for part in pair] if isinstance(node, yaml.MappingNode) else inner
        self._sizes[id(node)] = size = 1 + sum(self._sizes[id(part)] for part in parts)
        if size > _MOST_VALUES:
            raise ComposerError(None, None, f"it holds more than {_MOST_VALUES} values", node.start_mark)
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line = key.start_mark.line + 1
            if key.style is None and key.value != key.value.strip():
                # Of a page or a word processor; YAML takes ordinary spaces alone for indentation.
                problem = "it is indented with spaces of another kind than the ordinary one: write those again"
                raise ComposerError(None, None, problem, key.start_mark)
            if key.value in lines:
                problem = f"{key.value} is given twice, first at line {lines[key.value]}: keep one"
                raise ComposerError(None, None, problem, key.start_mark)
            lines[key.value] = line
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except _PYYAML_ERRORS:
            raise ConstructorError(None, None, f"{_shown(node)} is no value that YAML knows", node.start_mark) from None

    def construct_yaml_int(self, node: yaml.Node) -> int:
        text = self.construct_scalar(node)
        if sum(letter.isalnum() for letter in text) > _MOST_DIGITS:
            problem = f"{_shown(node)} has more than {_MOST_DIGITS} digits: put it in quotes if it is text"
            raise ConstructorError(None, None, problem, node.start_mark)
        return super().construct_yaml_int(node)

    def construct_date(self, node: yaml.Node) -> Any:
        problem = f"{_shown(node)} is a date to YAML, which no setting is: put it in quotes"
        raise ConstructorError(None, None, problem, node.start_mark)


def _unreadable(error: yaml.reader.ReaderError) -> str:
    if error.encoding != "unicode":
        return "it is not in UTF-8: save it as that"
    character = f"U+{ord(error.character):04X}" if isinstance(error.character, str) else f"U+{error.character:04X}"
    return f"it holds the character {character}, which no text does: save it as plain text in UTF-8"


def _shown(node: yaml.Node) -> str:
    text = str(node.value) if isinstance(node, yaml.ScalarNode) else node.id
    return text if len(text) <= 60 else f"{text[:50]}..."


def _with_resolvers(kind: type, *resolvers: tuple[str, re.Pattern[str], str]) -> None:
    """Have `kind` read or write plain text as numbers by these forms alone."""
    kept = {
        first: [(tag, form) for tag, form in known if tag not in (_INT, _FLOAT)]
        for first, known in kind.yaml_implicit_resolvers.items()
    }
    kind.yaml_implicit_resolvers = kept
    for tag, form, first in resolvers:
        kind.add_implicit_resolver(tag, form, list(first))


_Loader.add_constructor(_INT, _Loader.construct_yaml_int)
_Loader.add_constructor(_DATE, _Loader.construct_date)
for _kind in ("binary", "omap", "pairs", "set"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_undefined)
_with_resolvers(
    _Loader,
    (_INT, _WHOLE, "-+0123456789"),
    (_FLOAT, _EXPONENT, "-+0123456789"),
    (_FLOAT, _DECIMAL, "-+.0123456789"),
    (_FLOAT, _NO_NUMBER, "-+."),
)


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or `_Loader` would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+0123456789"))


def read_yaml(text: bytes | str, what: str, remedy: str) -> Any:
    """The plain value that `text` holds; None if it is empty.

    An InputError says `what` the text is, what is wrong at which line of it, and the `remedy`.
    """
    if len(text) > LARGEST_FILE:
        raise InputError(f"{what} is larger than {LARGEST_FILE // 2**20} MiB, so it is no text of settings: {remedy}")
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, error.problem or error.context
        if "'\\t'" in str(problem):
            problem = "there is a tab, which YAML does not take for spaces: write spaces"
    except yaml.reader.ReaderError as error:
        mark, problem = None, _unreadable(error)
    except _PYYAML_ERRORS:
        mark, problem = loader and loader.get_mark(), "it holds what YAML cannot read"
    lines = text.count(b"\n" if isinstance(text, bytes) else "\n")
    where = f" at line {mark.line + 1}" if mark is not None and lines else ""
    raise InputError(f"{what} is not valid YAML{where} ({problem}): {remedy}")


def write_yaml(value: Any) -> bytes:
    """The text of plain `value` that `read_yaml` reads back equal."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False).encode()
