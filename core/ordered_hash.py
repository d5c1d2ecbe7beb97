"""The digest of a file that is written in pieces out of order, taken while it is written."""

import hashlib
import os
from pathlib import Path
from types import TracebackType

from core.store import Entry


class HashedFile:
    """A new file for s3transfer's writer, which seeks and writes from one thread.

    What arrives in order is hashed from memory, the rest from the page cache as soon as the gap before it is
    filled, so that next to nothing is left to hash at the end.
    """

    def __init__(self, path: Path):
        self._file = path.open("w+b")
        self._hash = hashlib.sha256()
        self._hashed, self._position = 0, 0
        self._ahead: dict[int, int] = {}
        self._rewritten = False

    def __enter__(self) -> "HashedFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        self._position = self._file.seek(position, whence)
        return self._position

    def write(self, data: bytes) -> int:
        self._file.write(data)
        start, self._position = self._position, self._position + len(data)
        if start == self._hashed:
            self._hash.update(data)
            self._hashed = self._position
            self._catch_up()
        elif start > self._hashed:
            # A part that is fetched again may come in other pieces; one that reaches less far leaves a gap, see entry.
            self._ahead[start] = len(data)
        else:
            self._rewritten = True
        return len(data)

    def entry(self) -> Entry:
        """Size and digest of what was written."""
        self._file.flush()
        size = os.fstat(self._file.fileno()).st_size
        if self._rewritten or self._hashed != size:
            # Pieces came twice, and the first ones may have been other bytes.
            self._file.seek(0)
            return {"size": size, "sha256": hashlib.file_digest(self._file, "sha256").hexdigest()}
        return {"size": size, "sha256": self._hash.hexdigest()}

    def _catch_up(self) -> None:
        if self._hashed not in self._ahead:
            return
        self._file.flush()
        while (length := self._ahead.pop(self._hashed, 0)) > 0:
            self._hash.update(os.pread(self._file.fileno(), length, self._hashed))
            self._hashed += length
