"""YAML as configs and `--set` use it: plain values only, each key once, limited in size and depth."""

import re
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from core.runtime.errors import InputError

LARGEST_FILE = 2**20
_DEEPEST = 32
# Most values of a file, with each reference (`*name`) counted as often as it is used.
_MOST_VALUES = 10_000
_MOST_DIGITS = 30
# `1e-4`, which YAML 1.1 requires as `1.0e-4`.
_EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
# Whole numbers without leading zeros. `007` is text, because `010` is eight to some parsers and ten to others.
_WHOLE = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$")
_DECIMAL = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?)$")
_NOT_FINITE = re.compile(r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")
_INT, _FLOAT, _DATE, _TEXT = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp", "str"))
# Other errors that PyYAML raises on values that it cannot construct.
_PYYAML_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class _Loader(yaml.SafeLoader):
    """Refuses dates, repeated keys, endless or huge references, and deep nesting."""

    def __init__(self, text: bytes | str):
        self._depth = 0
        # By identity of the node: how many values it holds.
        self._sizes: dict[int, int] = {}
        super().__init__(text)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]  # types-PyYAML
        if self._depth == _DEEPEST:
            raise _problem(f"it is nested more than {_DEEPEST} levels deep", event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise _problem(f"*{event.anchor} refers to itself", event.start_mark)
            return node
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in inner for part in pair] if isinstance(node, yaml.MappingNode) else inner
        self._sizes[id(node)] = size = 1 + sum(self._sizes[id(part)] for part in parts)
        if size > _MOST_VALUES:
            raise _problem(f"it holds more than {_MOST_VALUES} values", node.start_mark)
        return node

    # types-PyYAML gives the anchor, which is a name, the type of the table of anchors.
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line = key.start_mark.line + 1
            if key.style is None and key.value != key.value.strip():
                # Copied from a web page or word processor. YAML accepts ordinary spaces only.
                problem = "it is indented with unusual space characters: type ordinary spaces instead"
                raise _problem(problem, key.start_mark)
            if key.value in lines:
                raise _problem(
                    f"{key.value} is given twice, first at line {lines[key.value]}: keep one", key.start_mark
                )
            lines[key.value] = line
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except _PYYAML_ERRORS:
            raise ConstructorError(None, None, f"{_shown(node)} is not a valid value", node.start_mark) from None

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        if sum(letter.isalnum() for letter in text) > _MOST_DIGITS:
            problem = f"{_shown(node)} has more than {_MOST_DIGITS} digits: put it in quotes if it is text"
            raise ConstructorError(None, None, problem, node.start_mark)
        return super().construct_yaml_int(node)

    def construct_date(self, node: yaml.Node) -> Any:
        problem = f"{_shown(node)} is a date in YAML, and no setting is a date: put it in quotes"
        raise ConstructorError(None, None, problem, node.start_mark)

    def refuse(self, node: yaml.Node) -> Any:
        self.construct_undefined(node)


def _problem(text: str, mark: Any) -> ComposerError:
    return ComposerError(None, None, text, mark)


def _unreadable(error: yaml.reader.ReaderError) -> str:
    if error.encoding != "unicode":
        return "it is not in UTF-8: save it in UTF-8"
    character = f"U+{ord(error.character):04X}" if isinstance(error.character, str) else f"U+{error.character:04X}"
    return f"it holds the character {character}, which is not allowed in text: save it as plain text in UTF-8"


def _shown(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        return "mapping" if isinstance(node, yaml.MappingNode) else "sequence"
    text = str(node.value)
    return text if len(text) <= 60 else f"{text[:50]}..."


def _set_number_forms(*forms: tuple[str, re.Pattern[str], str]) -> None:
    """Make `_Loader` read plain text as numbers in these forms only: tag, pattern and possible first characters."""
    kept = {
        first: [(tag, pattern) for tag, pattern in known if tag not in (_INT, _FLOAT)]
        for first, known in _Loader.yaml_implicit_resolvers.items()
    }
    _Loader.yaml_implicit_resolvers = kept
    for tag, pattern, first in forms:
        _Loader.add_implicit_resolver(tag, pattern, list(first))


_Loader.add_constructor(_INT, _Loader.construct_yaml_int)
_Loader.add_constructor(_DATE, _Loader.construct_date)
for _kind in ("binary", "omap", "pairs", "set"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.refuse)
_set_number_forms(
    (_INT, _WHOLE, "-+0123456789"),
    (_FLOAT, _EXPONENT, "-+0123456789"),
    (_FLOAT, _DECIMAL, "-+.0123456789"),
    (_FLOAT, _NOT_FINITE, "-+."),
)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or `_Loader` would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+0123456789"))


def read_yaml(text: bytes | str, what: str, remedy: str) -> Any:
    """The plain value that `text` holds; None if it is empty.

    InputErrors name `what` the text is, the problem and its line, and the `remedy`.
    """
    if len(text) > LARGEST_FILE:
        raise InputError(f"{what} is larger than {LARGEST_FILE // 2**20} MiB, so it is not a settings file: {remedy}")
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, error.problem or error.context
        if "'\\t'" in str(problem):
            problem = "there is a tab, and YAML indents with spaces only: write spaces"
    except yaml.reader.ReaderError as error:
        mark, problem = None, _unreadable(error)
    except _PYYAML_ERRORS:
        mark, problem = loader.get_mark() if loader else None, "it holds what YAML cannot read"
    lines = text.count(b"\n") if isinstance(text, bytes) else text.count("\n")
    where = f" at line {mark.line + 1}" if mark is not None and lines else ""
    raise InputError(f"{what} is not valid YAML{where} ({problem}): {remedy}")


def write_yaml(value: Any) -> bytes:
    """Plain `value` as YAML text that `read_yaml` reads back as an equal value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False).encode()
