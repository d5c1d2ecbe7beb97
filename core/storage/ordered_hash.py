"""The digest of a file that is written in pieces out of order, taken while it is written."""

import hashlib
import os
import threading
from pathlib import Path
from types import TracebackType

from core.storage.store import Entry

_BLOCK = 2**20


class HashedFile:
    """A new file for s3transfer's writer, which seeks and writes from one thread.

    Another thread hashes it from the page cache as far as it is there without a gap, so that the writer waits for
    no hash, and next to nothing is left to hash at the end.
    """

    def __init__(self, path: Path):
        self._file = path.open("w+b", buffering=0)
        self._position = 0
        # Where pieces beyond the first gap end, by where they start.
        self._ahead: dict[int, int] = {}
        self._rewritten = False
        self._hash, self._hashed = hashlib.sha256(), 0
        # Up to here it is there without a gap; all of it is there once `_complete` is set.
        self._whole, self._complete = 0, False
        self._news = threading.Condition()
        self._hasher = threading.Thread(target=self._hash_what_is_whole)
        self._hasher.start()

    def __enter__(self) -> "HashedFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish()
        self._file.close()

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        self._position = self._file.seek(position, whence)
        return self._position

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        start, self._position = self._position, self._position + len(data)
        if start < self._whole:
            self._rewritten = True
            return len(data)
        # A part that is fetched again may come in other pieces; one that reaches less far leaves a gap, see entry.
        self._ahead[start] = self._position
        whole = self._whole
        while whole in self._ahead:
            whole = self._ahead.pop(whole)
        if whole > self._whole:
            with self._news:
                self._whole = whole
                self._news.notify()
        return len(data)

    def entry(self) -> Entry:
        """Size and digest of what was written."""
        self._finish()
        size = os.fstat(self._file.fileno()).st_size
        if self._rewritten or self._hashed != size:
            # Pieces came twice, and the first ones may have been other bytes.
            self._file.seek(0)
            return {"size": size, "sha256": hashlib.file_digest(self._file, "sha256").hexdigest()}
        return {"size": size, "sha256": self._hash.hexdigest()}

    def _finish(self) -> None:
        with self._news:
            self._complete = True
            self._news.notify()
        self._hasher.join()

    def _hash_what_is_whole(self) -> None:
        buffer = memoryview(bytearray(_BLOCK))
        while True:
            with self._news:
                self._news.wait_for(lambda: self._complete or self._whole - self._hashed >= _BLOCK)
                whole = self._whole
                last = self._complete
            while (length := min(_BLOCK, whole - self._hashed)) == _BLOCK or (last and length > 0):
                length = os.preadv(self._file.fileno(), [buffer[:length]], self._hashed)
                self._hash.update(buffer[:length])
                self._hashed += length
            if last:
                return
