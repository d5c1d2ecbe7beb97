"""The sweep as a page: a line an input. `python -m tests.sweep.table` writes it."""

import importlib
from pathlib import Path

from tests.sweep.ground import Row

PAGE = Path("docs/wrong-input.md")
# By the name of its file: a kind's title, and its rows.
KINDS: dict[str, tuple[str, list[Row]]] = {
    path.stem.removeprefix("rows_"): (module.TITLE, module.ROWS)
    for path in sorted(Path(__file__).parent.glob("rows_*.py"))
    for module in [importlib.import_module(f"tests.sweep.{path.stem}")]
}


def as_markdown() -> str:
    """The page: for every kind a table of who is given what, and what comes of it."""
    count = sum(len(rows) for _, rows in KINDS.values())
    lines = [
        "# Wrong input, and what comes of it",
        "",
        f"A test gives each of these {count} inputs to the reader beside it (`tests/sweep`). What is refused ends in",
        "one line that holds the words shown, within five seconds, with exit status 2, and changes no file.",
    ]
    for title, rows in KINDS.values():
        lines += ["", f"## {title}", "", "| reader | given | what comes of it |", "|---|---|---|"]
        lines += [f"| {_cell(row.reader)} | {_cell(row.given)} | {_cell(_outcome(row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _outcome(row: Row) -> str:
    return f"refused: {', '.join(row.says)}" if row.says else f"understood: {row.meaning}"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(as_markdown())
