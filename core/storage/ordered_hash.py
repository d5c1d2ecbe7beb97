"""A file that is written in pieces in any order and hashed at the same time."""

import hashlib
import os
import threading
from pathlib import Path
from types import TracebackType

from core.runtime.files import Entry

_BLOCK = 2**20


class HashedFile:
    """A new file for s3transfer, which seeks and writes from one thread.

    A second thread hashes the part from the start that has no gap, reading it from the page cache. The writer never
    waits for it, and little is left to hash at the end.
    """

    def __init__(self, path: Path):
        self._file = path.open("w+b", buffering=0)
        self._position = 0
        # Pieces after the first gap: their ends, by their starts.
        self._after_gap: dict[int, int] = {}
        self._is_rewritten = False
        self._hash, self._hashed = hashlib.sha256(), 0
        # The file has no gap before this position; it is written in full once `_is_complete`.
        self._contiguous, self._is_complete = 0, False
        self._changed = threading.Condition()
        self._hasher = threading.Thread(target=self._hash_contiguous)
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
        if start < self._contiguous:
            self._is_rewritten = True
            return len(data)
        # A part that is fetched again may come in other pieces. If they end earlier, a gap remains: see `entry`.
        self._after_gap[start] = self._position
        contiguous = self._contiguous
        while contiguous in self._after_gap:
            contiguous = self._after_gap.pop(contiguous)
        if contiguous > self._contiguous:
            with self._changed:
                self._contiguous = contiguous
                self._changed.notify()
        return len(data)

    def entry(self) -> Entry:
        """Size and digest of what was written."""
        self._finish()
        size = os.fstat(self._file.fileno()).st_size
        if self._is_rewritten or self._hashed != size:
            # Pieces came twice, and the bytes that were hashed may have been replaced.
            self._file.seek(0)
            return {"size": size, "sha256": hashlib.file_digest(self._file, "sha256").hexdigest()}
        return {"size": size, "sha256": self._hash.hexdigest()}

    def _finish(self) -> None:
        with self._changed:
            self._is_complete = True
            self._changed.notify()
        self._hasher.join()

    def _hash_contiguous(self) -> None:
        buffer = memoryview(bytearray(_BLOCK))
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_complete or self._contiguous - self._hashed >= _BLOCK)
                contiguous = self._contiguous
                is_last = self._is_complete
            while (length := min(_BLOCK, contiguous - self._hashed)) == _BLOCK or (is_last and length > 0):
                length = os.preadv(self._file.fileno(), [buffer[:length]], self._hashed)
                self._hash.update(buffer[:length])
                self._hashed += length
            if is_last:
                return
