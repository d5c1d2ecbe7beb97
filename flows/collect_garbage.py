"""The command that lists, or removes, files of this project that nothing needs any more."""

from core.inputs.section import Hours
from core.rounds.garbage import find_garbage, remove_garbage
from core.storage.store import artifacts_of_options
from tasks.command_line import refuse_last, run_command, say


def collect_garbage(
    uri: str,
    delete: bool = False,
    grace_hours: Hours = 24.0,
    endpoint_url: str | None = None,
    single_writer: bool = False,
) -> None:
    """List garbage in the runs, older than the grace period; remove it with --delete.

    Garbage is: resumable states of finished stages, states that newer ones replaced, and scratch files of killed
    processes. All other files are the user's. A run whose lease cannot be read is left alone; InputError names it at
    the end.
    """
    artifacts = artifacts_of_options(endpoint_url=endpoint_url, single_writer=single_writer)
    unreadable = []
    for garbage in find_garbage(uri, grace_hours, artifacts):
        if garbage.unreadable:
            unreadable.append(garbage.unreadable)
            continue
        if garbage.busy:
            say(f"{garbage.uri}: left alone, a process works on it")
            continue
        if delete:
            garbage = remove_garbage(garbage.uri, grace_hours, artifacts)
        for file in garbage.files:
            say(f"{garbage.uri}/{file.name}  {file.size} bytes, {file.age / 3600:.1f} h old: {file.why}")
        for upload in garbage.uploads:
            say(f"{garbage.uri}/{upload}  unfinished upload")
        size = sum(file.size for file in garbage.files) / 1e6
        done = "removed" if delete else "to remove with --delete"
        say(f"{garbage.uri}: {len(garbage.files)} files ({size:.1f} MB), {len(garbage.uploads)} uploads {done}")
    refuse_last(unreadable)


if __name__ == "__main__":
    run_command(collect_garbage)
