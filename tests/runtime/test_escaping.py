"""Text from outside is shown safely in error lines, logs, Markdown, HTML and tables."""

import io
import logging
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape

from core.reports.audit_table import AuditTable
from core.reports.report import Picture, RoundPart, render_page
from core.runtime.errors import LONGEST_LINE, InputError, one_line, system_line, without_secrets
from core.runtime.escaping import markdown_code, markdown_text, mermaid_text, write_csv

SECRETS = [
    "http://user:SECRET@host:9000/x",
    "https://user:SEC/RET@host",
    "s3://user:SE@CRET@bucket/a",
    "tcp://SECRET@host:1",
    "got 'user:SECRET@host:9000'",
    "https://b/a?X-Amz-Signature=SECRET&X-Amz-Security-Token=SECRET",
    "https://b/a?x-amz-credential=SECRET%2Fus-east-1",
    "https://acc.blob/a?sv=1&sig=SECRET",
    "s3://b/a?token=SECRET",
    "aws_secret_access_key=SECRET/1+2",
    "password=SECRET, user=x",
    "Authorization: Bearer SECRET1234567890",
    "key AKIASECRETSECRETSECR is wrong",
    "pnu_SECRET1234567890SECRET",
    "hf_SECRET1234567890SECRET",
    "aws_secret_access_key = SECRET/1+2",
    "secret_key: SECRET0123",
    "got {'password': 'SECRET'}",
    '{"SecretAccessKey": "SECRET", "Token" : "SECRET"}',
    "Password='SECRET'",
    "PREFECT_API_AUTH_STRING=admin:SECRET",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=SECRET==;EndpointSuffix=x",
    "Credential=AKIASECRETSECRETSECR/x, Signature=SECRET0123456789abcdef",
]
PLAIN = [
    "s3://bucket/a@b.pt",
    "http://host:9000/a@b",
    "manifest /data/a:b@c.png does not exist: give the path of an existing file",
    "training.learning_rate: should be less than 1, got 3",
    "no bearer token was sent",
    "see someone@example.org",
    "tokens=5 seed=3 key.path=value",
    "unknown key token: no key has a similar name",
    "the server wants a password: set PREFECT_API_AUTH_STRING to USER:PASSWORD",
    "/runs/sig=0.1,signature=mean/tokens: 512",
]


@pytest.mark.parametrize("text", SECRETS)
@pytest.mark.parametrize("frame", ["{}", "a {} b", "({})", "'{}'"])
def test_a_secret_is_shown_nowhere(text, frame, caplog):
    told = frame.format(text)
    logging.getLogger("core.some.module").warning("reading %s", told)
    for shown in (without_secrets(told), str(InputError(told)), markdown_text(told), markdown_code(told), caplog.text):
        for piece in ("SECRET", "CRET@", "RET@"):
            assert piece not in shown, shown


@pytest.mark.parametrize("text", PLAIN)
def test_text_without_secrets_is_unchanged(text):
    assert without_secrets(text) == text


@given(st.text())
def test_every_line_is_one_line(text):
    line = one_line(text)
    assert len(line) <= LONGEST_LINE and all(c.isprintable() or c == "\N{NO-BREAK SPACE}" for c in line)


def test_log_records_of_this_project_are_one_line_and_others_unchanged(caplog):
    logging.getLogger("core.data.manifest").warning("row %s", "x\nINFO: all went well\x1b[2J")
    logging.getLogger("else").warning("two\nlines")
    assert caplog.messages == ["row x\\nINFO: all went well\\x1b[2J", "two\nlines"]


@given(st.text())
def test_markdown_holds_no_markup_of_the_text(text):
    shown = markdown_text(text)
    rest = shown
    for escaped in ("\\\\", *(f"\\{c}" for c in "`*_[]<>|!#~&$:")):
        rest = rest.replace(escaped, "")
    assert "\n" not in shown and not set(rest) & set("\\`*_[]<>|!#~&$") and "://" not in rest


@given(st.text())
def test_a_label_of_a_drawing_shows_the_text_and_ends_nowhere(text):
    shown = mermaid_text(text)
    assert re.fullmatch(r"(?:[A-Za-z0-9 ._-]|#\d+;)*", shown)
    assert re.sub(r"#(\d+);", lambda found: chr(int(found[1])), shown) == one_line(text)


@pytest.mark.parametrize("text", ["a|b", "![x](http://evil)", "<script>", "a\n# title", "`code`", "*b*", "</pre>"])
def test_text_does_not_leave_its_place_on_a_page(text):
    picture = Picture(text, b"")
    part = RoundPart(1, [text], text, picture, AuditTable(text, [[text]]), [picture], [(text, text)])
    page = render_page(text, [[text]], picture, [part])
    # Heading and title, a cell, alarm, what is known, the audit's sentence and cell, location and its title, and three
    # pictures with two captions each.
    assert page.count(str(escape(text))) == 15 and ("<" not in text or text not in page)
    code = markdown_code(text)
    inner = code.strip("`")
    fence = len(code) - len(code.lstrip("`"))
    assert "`" * fence not in inner and "\n" not in code


@pytest.mark.parametrize("cell", ["=1+1", "+cmd", "-cmd|x", "@sum", "\t=1", " =1", "=HYPERLINK(1)"])
def test_no_cell_is_a_formula(cell):
    file = io.BytesIO()
    write_csv(pd.DataFrame({"note": [cell], "read": [cell], cell: ["a"]}), file, ("read",))
    read = pd.read_csv(io.BytesIO(file.getvalue()))
    assert read.iloc[0].to_list() == [f"'{cell}", cell, "a"] and read.columns[2] == f"'{cell}"


def test_numbers_and_plain_text_stay_as_they_are_in_a_table():
    rows = pd.DataFrame({"a": [-1.5, 2.0], "b": ["-1.5e3", "x=1"], "c": [True, None], "d": [None, "+5"]})
    file, plain = io.BytesIO(), io.BytesIO()
    write_csv(rows, file)
    rows.to_csv(plain, index=False)
    assert file.getvalue() == plain.getvalue()


def test_an_error_of_the_system_names_file_cause_and_remedy():
    assert system_line(OSError(27, "File too large", "/a/b")).startswith("/a/b: File too large: raise the limit")
    assert "ulimit -n" in system_line(OSError(24, "Too many open files", "/a"))
    assert system_line(OSError(28, "No space left on device")) == (
        "No space left on device: free some space and run the same command again"
    )
    assert "\n" not in system_line(OSError(2, "No such file", "a\nb"))
    assert "server" in system_line(ConnectionResetError(104, "Connection reset by peer"))
