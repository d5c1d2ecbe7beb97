"""YAML as configs use it: values that are read, errors with a line number, and how values are written."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from core.config.loading import config_bytes, load_config
from core.inputs.yaml_text import read_yaml, write_yaml
from core.runtime.errors import LONGEST_LINE, InputError

# An input that takes minutes to refuse is a hang.
pytestmark = pytest.mark.timeout(60)


def read(text: bytes | str) -> object:
    return read_yaml(text, "config c.yaml", "correct the file")


def refused(text: bytes | str, *words: str) -> str:
    with pytest.raises(InputError) as told:
        read(text)
    line = str(told.value)
    assert line.startswith("config c.yaml ") and line.isprintable() and len(line) <= LONGEST_LINE
    for word in words:
        assert word in line, line
    return line


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-3", -3),
        ("0x1F", 31),
        ("007", "007"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("yes", True),
        ("'yes'", "yes"),
        ("~", None),
        ("'2024-01-01'", "2024-01-01"),
        ("!!str 2024-01-01", "2024-01-01"),
        ("{<<: {a: 1, b: 2}, a: 3}", {"a": 3, "b": 2}),
        ("x: &x {a: 1}\ny: &y {<<: *x, a: 2}\nz: {<<: *y, a: 3}", {"x": {"a": 1}, "y": {"a": 2}, "z": {"a": 3}}),
        ("z: {v: &y {<<: {a: 1}, a: 2}}\nw: {<<: *y}", {"z": {"v": {"a": 2}}, "w": {"a": 2}}),
        ("\ufeffa: 1\r\n", {"a": 1}),
        ("a: é".encode("utf-16"), {"a": "é"}),
    ],
)
def test_values_that_are_read(text, value):
    found = read(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: 1\nb: 2\na: 3\n", ("at line 3", "a is given twice, first at line 1")),
        ("{a: 1, 'a': 1}", ("a is given twice",)),
        ("x:\n  a: 1\n  b: {c: 1,\n    c: 2}", ("at line 4", "c is given twice, first at line 3")),
        ("a: 1\nb: 2024-13-45", ("at line 2", "2024-13-45 is a date", "quotes")),
        ("2024-01-01", ("is a date", "quotes")),
        ("2024-01-01T25:61:61", ("is a date",)),
        ("0x_", ("0x_ is not a valid value",)),
        ("9" * 5000, ("has more than 30 digits", "999...")),
        ("0x" + "f" * 5000, ("has more than 30 digits",)),
        ("!!int x", ("x is not a valid value",)),
        ("!!bool x", ("x is not a valid value",)),
        ("!!timestamp x", ("is a date",)),
        ("!!binary aGk=", ("binary",)),
        ("!!set {a}", ("set",)),
        ("!!python/object/apply:os.getcwd []", ("python/object",)),
        ('a: 1\nb: "\\UFFFFFFFF"', ("at line 2",)),
        ("[" * 600 + "]" * 600, ("nested more than 32 levels",)),
        ("[" * 900_000, ("nested more than 32 levels",)),
        ("{a: " * 200_000, ("nested more than 32 levels",)),
        ("&a [*a]", ("*a refers to itself",)),
        ("&f {is_empty: *f}", ("*f refers to itself",)),
        ("a: 1\nb: &l [x, {y: *l}]", ("at line 2", "refers to itself")),
        ("*nothing", ("undefined alias",)),
        ("[" + "1," * 50_000 + "]", ("more than 10000 values",)),
        ("a: [", ("not valid YAML", "correct the file")),
        ("---\na\n---\nb", ("another document",)),
        ("a: \0", ("the character U+0000", "plain text in UTF-8")),
        (b"a: 1\x1a", ("the character U+001A",)),
        (b"\xff\xfe\x00\xd8", ("not valid YAML",)),
        ("a: \N{LATIN SMALL LETTER A WITH DIAERESIS}".encode("latin-1"), ("it is not in UTF-8: save it in UTF-8",)),
        ("a: 1".encode("utf-32"), ("plain text in UTF-8",)),
        ("a:\n\tb: 1", ("at line 2", "a tab", "write spaces")),
        ("a: 1\t\n", ("at line 1", "a tab", "write spaces")),
        ("a:\n\N{NO-BREAK SPACE} b: 1", ("at line 2", "unusual space characters")),
        ("? [a]\n: b", ("unhashable key",)),
        ("x" * (2**20 + 1), ("larger than 1 MiB",)),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, str | bytes) else "",
)
def test_invalid_yaml_is_refused_in_one_line(text, words):
    refused(text, *words)


def test_references_count_as_often_as_they_are_used():
    lines = ["a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    refused("\n".join(lines), "more than 10000 values")


@given(st.text() | st.binary())
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        read(text)
    except InputError as error:
        assert str(error).isprintable()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_written_values_are_read_back_equal(value):
    assert read(write_yaml({"a": value})) == {"a": value}


@given(st.sampled_from(["1e5", "010", "2024-01-01", "no", "1_0", "0x_", "=", "<<", "~", "", "1:30", ".inf"]))
def test_text_that_looks_like_something_else_is_written_as_text_for_every_reader(text):
    assert read(write_yaml({"a": text})) == yaml.safe_load(write_yaml({"a": text})) == {"a": text}


@pytest.mark.parametrize("name", ["007", "1e5", "2024-01-01", "0x10", "no"])
def test_a_name_in_quotes_is_a_name(prepared, tmp_path, name):
    config = load_config(prepared, [f"experiment.name='{name}'"])
    (tmp_path / "c.yaml").write_bytes(config_bytes(config))
    assert load_config(tmp_path / "c.yaml").experiment.name == name


def test_a_config_is_a_regular_file_of_readable_size(tmp_path):
    for path, words in [
        (tmp_path, "is a folder"),
        ("/dev/zero", "is a device"),
        ("a\0b.yaml", "NUL"),
        ("", "is empty"),
        (tmp_path / "large.yaml", "larger than 1 MiB"),
    ]:
        if str(path).endswith("large.yaml"):
            path.write_text("#" * 2**21)
        with pytest.raises(InputError, match=words):
            load_config(path)
