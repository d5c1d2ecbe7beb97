"""The command that shows runs and their rounds, and checks their files against the records."""

import sys

from core.reports.run_status import find_problems, read_status
from core.storage.store import artifacts_of_options
from tasks.command_line import refuse_last, run_command, say


def status(uri: str, verify: bool = False, endpoint_url: str | None = None) -> list[str]:
    """Print the runs under a root, or the rounds of a run; with --verify, hash all files that their records name.

    If a record cannot be read, the rest is printed and InputError names the record at the end.
    """
    artifacts = artifacts_of_options(endpoint_url=endpoint_url)
    shown = read_status(uri, artifacts)
    say(shown.text)
    problems = find_problems(uri, artifacts) if verify else []
    for line in problems:
        say(line)
    if verify:
        say(f"verified: {len(problems)} missing or altered" if problems else "verified: everything is as recorded")
    refuse_last(shown.unreadable)
    return problems


if __name__ == "__main__":
    sys.exit(1 if run_command(status) else 0)
