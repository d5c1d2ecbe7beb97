"""Work done ahead of whoever takes its results."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Results that wait for each worker; more would only fill memory.
_WAITING = 2


def prefetch_map(
    work: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Generator[Result, None, None]:
    """`work(item)` of each of `items`, in their order, done by so many threads ahead of its being asked for.

    With 0 it is done when asked for, in the caller's thread. What `work` raises is raised where its result would be.
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
