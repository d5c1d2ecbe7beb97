"""Every row of the sweep: a wrong input is refused in one line that names the cause, at once, and no file is lost.

The rows are in `rows_*.py`, a file a kind. `python -m tests.sweep.table` writes them as docs/wrong-input.md.
"""

import time
from pathlib import Path

import pytest

from core.runtime.errors import LONGEST_LINE, InputError
from tests.sweep.ground import Ground, Row
from tests.sweep.table import KINDS, PAGE, as_markdown

# Seconds until a wrong input is refused; what a row allows itself more than that is a hang.
AT_ONCE = 5.0


def _rows() -> list[object]:
    return [
        pytest.param(row, id=f"{kind}-{number:03d}-{row.reader}-{row.given}"[:90])
        for kind, (_, rows) in KINDS.items()
        for number, row in enumerate(rows, 1)
    ]


def _states(*folders: Path) -> dict[str, tuple[int, int, int]]:
    """Of every file what changes when it is written or replaced; hashing them 1,600 times would take half a minute."""
    files = {str(path): path.lstat() for folder in folders for path in folder.rglob("*") if path.is_file()}
    return {path: (state.st_ino, state.st_size, state.st_ctime_ns) for path, state in files.items()}


@pytest.mark.filterwarnings("ignore")  # of torch, about the tensors that rows bring
@pytest.mark.timeout(60)
@pytest.mark.parametrize("row", _rows())
def test_a_wrong_input_is_refused_or_understood(row: Row, prepared, config, manifest, tmp_path):
    before = _states(prepared.parent, manifest.parent)
    for attempt in ("first", "second"):
        ground = Ground(tmp_path / attempt, prepared, config, manifest)
        ground.folder.mkdir()
        began = time.monotonic()
        _require_outcome(row, ground)
        seconds = time.monotonic() - began
        if seconds < AT_ONCE:
            break
        # A busy machine may be late once; what waits for something does so again.
    assert seconds < AT_ONCE
    assert _states(prepared.parent, manifest.parent) == before, "a file of the user's was changed"


def _require_outcome(row: Row, ground: Ground) -> None:
    if row.says:
        with pytest.raises(InputError) as told:
            row.give(ground)
        line = str(told.value)
        assert line.isprintable() and len(line) <= LONGEST_LINE
        for word in row.says:
            assert word in line, line
    else:
        assert row.give(ground), "it was understood as something else"
    lost = [path for path, data in ground.written.items() if not path.is_file() or path.read_bytes() != data]
    assert not lost, "a file of the user's was lost or changed"


def test_the_page_shows_every_row():
    assert PAGE.read_text() == as_markdown(), "run: python -m tests.sweep.table"
