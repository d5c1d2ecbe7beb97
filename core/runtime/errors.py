"""Exceptions for problems that the user can fix, and the safe form of text from outside in messages."""

import errno
import math
import os
import re

# Longer messages are cut in the middle: the start names the thing, the end says what to do.
LONGEST_LINE = 500
_LONGEST_CAUSE = 200
# Longer text is cut before patterns are searched in it.
_LONGEST_TEXT = 20_000
HIDDEN = "***"

# `user:password@` of an address, also if the password holds "/" or "@"; `host:9000/` is not a user. Repetitions are
# bounded, so that no text takes long.
_USER_INFO = re.compile(
    r"(?<=://)(?![^\s/:@]{1,255}:\d+/)[^\s/@:]{0,255}:\S{0,255}@|(?<=://)[^\s/@]{1,255}@"
    r"|(?<![\w/.+-])[\w.+-]{1,255}:[^\s@/:]{1,255}@(?=[\w\[])"
)
_SECRET_NAME = (
    r"x-amz-(?:signature|security-token|credential)|x-goog-(?:signature|credential)|awsaccesskeyid|"
    r"(?:access_?|auth_?|id_?|refresh_?|session_?|security_?)?token|(?:client_?|secret_?)?(?:secret|password|passwd|pwd)|"
    r"(?:aws_?)?(?:secret_?)?access_?key(?:_?id)?|api[_-]?key|secret_?key|account_?key|auth_?string|pgpassword"
)
# `name=value` of a secret, as in a signed URL; `sig=0.1` alone is the name of a folder.
_NAMED_SECRET = re.compile(
    rf"(?i)(?<![A-Za-z0-9])({_SECRET_NAME}|(?<=[?&])sig(?:nature)?|sig(?:nature)?(?==[A-Za-z0-9+%_-]{{16}}))(=|%3D)(?!\*\*\*)"
    r"""(?:"[^"]+"|'[^']+'|[^\s&'"#;,)]+)"""
)
# The same in JSON, Python and YAML. Without quotes only values that do not look like a word of a sentence.
_WRITTEN_SECRET = re.compile(
    rf"""(?i)(?<![A-Za-z0-9])({_SECRET_NAME})(["']?\s{{0,9}}[:=]\s{{0,9}})(?!["']?\*\*\*)"""
    r"""(?:"[^"]+"|'[^']+'|(?=\S{0,255}\d)[^\s'",;&)\]}]{6,}|[^\s'",;&)\]}]{20,})"""
)
_BEARER = re.compile(
    r"(?i)\b(bearer\s{1,9}|authorization:\s{0,9}\w{1,20}\s{1,9})(?!\*\*\*)(?:(?=\S{0,255}\d)[A-Za-z0-9._~+/=-]{8,}"
    r"|[A-Za-z0-9._~+/=-]{20,})"
)
# Keys of AWS, Prefect, GitHub, GitLab and Hugging Face, and signed web tokens, by how they begin.
_KEY = re.compile(
    r"\b(?:(AKIA|ASIA)[A-Z0-9]{12,}|(pn[ub]_|gh[opsu]_|github_pat_|glpat-|hf_)[A-Za-z0-9_-]{16,}"
    r"|(eyJ)[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*)"
)

# All of them in one, for validators that take a pattern.
SECRET_PATTERN = "|".join(
    f"(?{'i' if known.flags & re.IGNORECASE else ''}:{known.pattern.removeprefix('(?i)')})"
    for known in (_USER_INFO, _NAMED_SECRET, _WRITTEN_SECRET, _BEARER, _KEY)
)


class InputError(Exception):
    """One line that says what is wrong and what to do. Commands print it and exit with `exit_status`."""

    exit_status = 2

    def __init__(self, message: str):
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """`printable` text of at most `LONGEST_LINE` characters: the form of error lines and log lines."""
    text = printable(text)
    if len(text) <= LONGEST_LINE:
        return text
    end = LONGEST_LINE * 2 // 5
    return f"{text[: LONGEST_LINE - end - 5]} ... {text[-end:]}"


def first_line(error: Exception) -> str:
    """The start of an error's text, to name as a cause; the name of its class if it has no text."""
    return next(iter(str(error).splitlines()), "")[:_LONGEST_CAUSE] or type(error).__name__


def printable(text: str) -> str:
    """`text` without secrets, as one line without characters that affect a terminal.

    Control characters, line separators, surrogates and characters that change the writing direction are escaped.
    """
    text = without_secrets(text)
    return "".join(c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else _escaped(c) for c in text)


def without_secrets(text: str) -> str:
    """`text` with `***` for passwords in addresses, signatures and tokens of signed URLs, and keys."""
    if len(text) > _LONGEST_TEXT:
        text = f"{text[: _LONGEST_TEXT // 2]} ... {text[-_LONGEST_TEXT // 2 :]}"
    text = _USER_INFO.sub(f"{HIDDEN}@", text)
    text = _NAMED_SECRET.sub(rf"\1\2{HIDDEN}", text)
    text = _WRITTEN_SECRET.sub(rf"\1\2{HIDDEN}", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    return _KEY.sub(lambda found: f"{''.join(filter(None, found.groups()))}{HIDDEN}", text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


class LeaseError(InputError):
    """Another process works on the run; this one must not."""

    exit_status = 3


class MissingFileError(InputError):
    """There was no file of the given path when it was opened."""


class UnavailableError(InputError):
    """A server did not answer for `artifacts.patience_minutes`. The same command may work later."""


def require_positive(**options: float) -> None:
    """InputError for the first of a command's options that is not a number above 0."""
    for name, value in options.items():
        if not 0 < value < math.inf:
            raise InputError(f"--{name} {value}: it must be above 0")


# What to do about an error of the operating system.
_REMEDIES = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space, or have the quota raised, and run the same command again",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f) and run the same command again",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose another place that can be written to",
    errno.ENOENT: "check that it exists",
    errno.ENOTDIR: "give a place whose parent is a folder",
    errno.EISDIR: "give the path of a file",
    errno.ENAMETOOLONG: "choose shorter names",
    errno.EMFILE: "raise the limit on open files (ulimit -n) and run the same command again",
    errno.ENFILE: "close other programs' files and run the same command again",
    errno.ENOMEM: "free some memory and run the same command again",
    errno.EIO: "the disk fails: check the system's log, and choose another place",
    errno.ESTALE: "mount the file system again and run the same command again",
    errno.EADDRINUSE: "end the program that listens there",
}


def system_line(error: OSError) -> str:
    """One line for an error of the operating system: the file if it is known, the cause, and what to do."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    cause = error.strerror or str(error) or type(error).__name__
    if isinstance(error, ConnectionError | TimeoutError):
        remedy = "check that the server is running, and run the same command again"
    else:
        unknown = "run the same command again; if the error comes again, the system's log may say why"
        remedy = _REMEDIES.get(error.errno or 0, unknown)
    return one_line(f"{': '.join([*dict.fromkeys(names), cause])}: {remedy}")
