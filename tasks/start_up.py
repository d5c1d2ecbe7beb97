"""Errors while a command imports its modules: they end it with one line, as later errors do."""

import os
import sys
from types import TracebackType

_SETTINGS_OF_PREFECT = f"{os.sep}prefect{os.sep}settings{os.sep}"
_INTERRUPTED_STATUS, _ERROR_STATUS = 130, 2


def say_in_one_line() -> None:
    """Make Ctrl-C, and settings that Prefect cannot read, end a starting command with one line.

    Does something only while Python, started with `-m`, looks for the command's module.
    """
    if sys.argv[:1] == ["-m"]:
        sys.excepthook = _hook


def settings_problem(error: BaseException) -> str | None:
    """The message for an error in Prefect's settings, which it reads when it is imported; None for any other error.

    It shows no value, which may be a key.
    """
    if not _is_of_settings(error.__traceback__):
        return None
    cause = type(error).__name__
    if hasattr(error, "errors") and hasattr(error, "title"):  # of pydantic
        first = error.errors()[0]
        cause = f"{error.title} {'.'.join(map(str, first['loc']))}: {first['msg']}"
    elif isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        cause = str(error)
    where = os.path.join(os.environ.get("PREFECT_HOME") or "~/.prefect", "profiles.toml")
    return f"Prefect's settings cannot be read ({cause}): correct the PREFECT_ variables, {where} or prefect.toml"


def _is_of_settings(trace: TracebackType | None) -> bool:
    while trace is not None:
        if _SETTINGS_OF_PREFECT in trace.tb_frame.f_code.co_filename:
            return True
        trace = trace.tb_next
    return False


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    problem = settings_problem(error)
    if problem is None and not isinstance(error, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    from core.runtime.errors import one_line
    from tasks.interruption import INTERRUPTED_LINE
    from tasks.standard_streams import put_error

    put_error(f"error: {one_line(problem)}" if problem is not None else INTERRUPTED_LINE)
    # Returning would make the interpreter exit with 1.
    os._exit(_ERROR_STATUS if problem is not None else _INTERRUPTED_STATUS)
