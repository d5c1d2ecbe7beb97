"""The sha256 of a file whose parts are written in any order."""

import os

import pytest

from core.storage.ordered_hash import HashedFile
from tests.storage.entries import entry_of

pytest_plugins = ["tests.storage_servers"]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [0, 0, 1, 2, 3], [1, 0, 1, 2, 3]], ids=str)
def test_the_hash_of_pieces_in_any_order(tmp_path, order):
    pieces = [os.urandom(1000), os.urandom(1000), os.urandom(1000), os.urandom(7)]
    with HashedFile(tmp_path / "file") as file:
        for number in order:
            file.seek(1000 * number)
            file.write(pieces[number])
        assert file.entry() == entry_of(b"".join(pieces))


def test_the_hash_is_of_what_was_written_last(tmp_path):
    with HashedFile(tmp_path / "file") as file:
        for start, data in [(0, b"aaaa"), (4, b"bbbb"), (0, b"cccc")]:
            file.seek(start)
            file.write(data)
        assert file.entry() == entry_of(b"ccccbbbb")
