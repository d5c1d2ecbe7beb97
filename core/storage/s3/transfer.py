"""How many requests run at once, and from which size on files are sent and fetched in parts."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from boto3.s3.transfer import TransferConfig

_SMALL_FILES_AT_ONCE = 8
_PARTS_AT_ONCE = 4
MOST_REQUESTS_AT_ONCE = _SMALL_FILES_AT_ONCE + _PARTS_AT_ONCE
# Files of this size and larger are sent and fetched in parts. Smaller files are held in memory while they are sent.
PART_BYTES = 16 * 2**20


def is_large(size: int) -> bool:
    """Whether a file of `size` bytes is sent and fetched in parts."""
    return size >= PART_BYTES


def transfer_config() -> TransferConfig:
    """Settings for files in parts: four parts at once, and about 25 MB of memory for data to be written."""
    return TransferConfig(
        multipart_threshold=PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=_PARTS_AT_ONCE,
        num_download_attempts=10,
        max_io_queue=100,
        io_chunksize=256 * 2**10,
        preferred_transfer_client="classic",
    )


def for_each(action: Callable[[str], None], names: Iterable[str]) -> None:
    """Call `action` for all names, several at once. The first error ends it and is raised."""
    with ThreadPoolExecutor(_SMALL_FILES_AT_ONCE) as pool:
        tasks = [pool.submit(action, name) for name in names]
        try:
            wait(tasks, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(cancel_futures=True)
    for task in tasks:
        if not task.cancelled():
            task.result()
