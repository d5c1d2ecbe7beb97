"""A map that computes results in threads before they are needed."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Results that wait per worker. More would only use memory.
_WAITING = 2


def prefetch_map(
    work: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Generator[Result, None, None]:
    """`work(item)` for each item, in order, computed ahead by `num_workers` threads.

    With 0 workers each result is computed when it is needed, in the caller's thread. An error of `work` is raised in
    place of its result.
    """
    if num_workers == 0:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="ahead")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > _WAITING * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
