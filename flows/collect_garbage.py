"""Remove what no record names from the runs under an artefact root."""

from core.garbage import find_garbage, remove_garbage
from core.store import ArtifactsSection, open_store
from tasks.command_line import run_command, say


def collect_garbage(
    uri: str,
    delete: bool = False,
    grace_hours: float = 24.0,
    endpoint_url: str | None = None,
    single_writer: bool = False,
) -> None:
    """List files that no record names and that are older than the grace period; remove them with --delete."""
    artifacts = ArtifactsSection(endpoint_url=endpoint_url, single_writer=single_writer)
    open_store(uri, artifacts)
    for garbage in find_garbage(uri, grace_hours):
        if garbage.busy:
            say(f"{garbage.uri}: left alone, a process works on it")
            continue
        if delete:
            garbage = remove_garbage(garbage.uri, grace_hours, artifacts)
        for file in garbage.files:
            say(f"{garbage.uri}/{file.name}  {file.size} bytes, {file.age / 3600:.1f} h old")
        for upload in garbage.uploads:
            say(f"{garbage.uri}/{upload}  unfinished upload")
        size = sum(file.size for file in garbage.files) / 1e6
        done = "removed" if delete else "to remove with --delete"
        say(f"{garbage.uri}: {len(garbage.files)} files ({size:.1f} MB), {len(garbage.uploads)} uploads {done}")


if __name__ == "__main__":
    run_command(collect_garbage)
