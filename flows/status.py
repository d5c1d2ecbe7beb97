"""Runs under an artefact root, rounds of a run, and whether their files are what the records say."""

import sys

from core.run_status import find_problems, status_text
from core.store import ArtifactsSection, open_store
from tasks.command_line import run_command, say


def status(uri: str, verify: bool = False, endpoint_url: str | None = None) -> list[str]:
    """Print the runs under a root, or the rounds of a run; with --verify, hash everything their records name."""
    open_store(uri, ArtifactsSection(endpoint_url=endpoint_url))
    say(status_text(uri))
    if not verify:
        return []
    problems = find_problems(uri)
    for line in problems:
        say(line)
    say(f"verified: {len(problems)} missing or altered" if problems else "verified: everything is as recorded")
    return problems


if __name__ == "__main__":
    sys.exit(1 if run_command(status) else 0)
