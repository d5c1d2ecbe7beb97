"""Label files: which tables are understood, which latents they are about, and what is refused in one line."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.labels.label_files import (
    Labels,
    generated_names,
    labels_of,
    latents_digest,
    read_labels,
)
from core.runtime.errors import InputError

NAMES = [f"bad_latents/bad_latent_{number:05d}.pt" for number in range(12)]
SPELLINGS = {True: ["true", "True", "1", "1.0", "yes", "wahr"], False: ["false", "FALSE", "0", "no", "nein"]}


@pytest.fixture
def table(tmp_path):
    def write(text):
        (tmp_path / "labels.csv").write_text(text)
        return tmp_path / "labels.csv"

    return write


@st.composite
def tables(draw):
    """(text of a label file, its labels): any order, separator, spelling of flags and further columns."""
    labels = draw(st.dictionaries(st.sampled_from(NAMES), st.booleans(), min_size=1))
    names = draw(st.permutations(list(labels)))
    header = draw(st.permutations(["is_viable", draw(st.sampled_from(["latent_path", "layout_path"])), "remark"]))
    made = io.StringIO()
    writer = csv.writer(made, delimiter=draw(st.sampled_from(",;\t")))
    writer.writerow(header)
    for name in names:
        path = draw(st.sampled_from([name, f"./{name}", f" {name}", name.replace("/", "\\")]))
        flag = draw(st.sampled_from(SPELLINGS[labels[name]]))
        writer.writerow([{"is_viable": flag, "remark": "a, b; c"}.get(column, path) for column in header])
    return made.getvalue(), {name: labels[name] for name in names}


@given(tables())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_table_gives_its_labels_in_any_form(table, drawn):
    text, wanted = drawn
    labels = read_labels(table(text))
    assert dict(labels.viable) == wanted and list(labels.viable) == list(wanted)
    assert labels.latents_sha256 is None
    found = labels_of(labels, NAMES, "round-01")
    assert found == wanted and list(found) == [name for name in NAMES if name in wanted]


def test_rows_without_a_path_and_a_flag_are_left_out(table):
    labels = read_labels(table(f"latent_path,is_viable,who\n{NAMES[3]},true,A\n,,B\n"))
    assert dict(labels.viable) == {NAMES[3]: True}


def test_the_digest_is_read_as_text(table):
    row = f"{NAMES[0]},true,"
    for digest in ("0012345678901234", "12e4567890123456"):
        labels = read_labels(table(f"latent_path,is_viable,latents_sha256\n{row}{digest}\n"))
        assert labels.latents_sha256 == digest
        assert labels_of(labels, NAMES, "round-01", digest) == {NAMES[0]: True}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("latent_path,label\na,1\n", "has no column is_viable; it has latent_path, label: add it"),
        ("path,is_viable\na,1\n", "has no column latent_path or layout_path; it has path, is_viable: add it"),
        ("latent_path,is_viable\n", "has no rows"),
        ("latent_path,is_viable,who\n,,A\n", "labels no layout: label some, and save the file again"),
        ("latent_path,is_viable\na,1\nb,\n", "row 2: is_viable is empty, which is neither yes nor no: write true or"),
        ("latent_path,is_viable\na,maybe\n", "row 1: is_viable is 'maybe', which is neither yes nor no"),
        ("latent_path,is_viable\na,0.5\n", "row 1: is_viable is '0.5', which is neither yes nor no"),
        ("latent_path,is_viable\n,true\n", "row 1: latent_path is empty: name the layout, or remove the row"),
        ("latent_path,is_viable\na/b,1\na/b,1\n", "row 2: a/b is there twice: keep one of its rows"),
        ("latent_path,is_viable\na/b,1\n./a\\b,0\n", "row 2: a/b is there twice"),
        ("latent_path,is_viable,latents_sha256\na,1,0b\nb,1,0a\n", "several rounds (latents_sha256 0a, 0b): give a"),
    ],
)
def test_a_file_that_does_not_say_what_is_viable_is_refused(table, text, said):
    path = table(text)
    with pytest.raises(InputError) as refused:
        read_labels(path)
    assert str(refused.value).startswith(f"labels {path}") and said in str(refused.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"labels .*labels.csv does not exist: give the path"):
        read_labels(tmp_path / "labels.csv")


def test_labels_of_other_latents_are_refused():
    labels = Labels(Path("labels.csv"), {NAMES[0]: True, "bad_latents/x.pt": True, "y.pt": False}, "0a" * 8)
    said = r"labels labels.csv name bad_latents/x.pt and 1 more, which round-01 does not have: give the labels of its"
    with pytest.raises(InputError, match=said):
        labels_of(labels, NAMES, "round-01")
    said = rf"are of other latents \(latents_sha256 {'0a' * 8}\) than those of round-01 \({'0b' * 8}\): give the file"
    with pytest.raises(InputError, match=said):
        labels_of(labels, [*NAMES, "bad_latents/x.pt", "y.pt"], "round-01", "0b" * 8)


def test_generated_latents_are_told_from_real_ones_and_ordered_by_sample():
    names = ["viable_latents/viable_latent_99999.pt", "bad_latents/bad_latent_00009.pt", "bad_latents_all.pt"]
    names += ["real_latents/real_latent_00000.pt", "bad_latents/bad_latent_100000.pt"]
    assert generated_names(names) == [names[1], names[0], names[4]]


def test_the_digest_depends_on_every_latent_and_their_order():
    digests = ["ab" * 32, "cd" * 32]
    assert latents_digest(digests) == "dcd7d37b4a82f516"
    assert len({latents_digest(digests), latents_digest(digests[::-1]), latents_digest(digests[:1])}) == 3
