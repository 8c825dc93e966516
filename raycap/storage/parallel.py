"""Many small requests in parallel, with their order kept and memory bounded."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from queue import Queue
from threading import Event, Thread, get_ident
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def thread_pool(num_threads: int) -> Iterator[ThreadPoolExecutor]:
    """Give a pool of threads; at the end, drop what has not started and wait for the rest.

    A generator that nobody exhausts ends where the garbage collector happens to run, and that may
    be in one of the pool's own threads, which cannot wait for itself.
    """
    own: set[int] = set()
    pool = ThreadPoolExecutor(num_threads, initializer=lambda: own.add(get_ident()))
    try:
        yield pool
    finally:
        pool.shutdown(wait=get_ident() not in own, cancel_futures=True)


def ordered_map(function: Callable[[T], R], items: Iterable[T], num_threads: int) -> Iterator[R]:
    """Apply a function in threads and yield the results in order.

    At most twice `num_threads` items are under way or waiting to be yielded. The first error is
    raised at its place in the order; items not yet started are then dropped.
    """
    remaining = iter(items)
    with thread_pool(num_threads) as pool:
        pending: deque[Future[R]] = deque()
        for item in islice(remaining, num_threads * 2):
            pending.append(pool.submit(function, item))
        while pending:
            result = pending.popleft().result()
            for item in islice(remaining, 1):
                pending.append(pool.submit(function, item))
            yield result


class _Stream(Iterator[T]):
    """An iterable read by a thread of its own into a short queue."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        self._queue: Queue[tuple[T | None, BaseException | None, bool]] = Queue(depth)
        self._stopped = Event()
        self._thread = Thread(target=self._drain, args=(items,), daemon=True)
        self._thread.start()

    def _drain(self, items: Iterable[T]) -> None:
        try:
            for item in items:
                self._queue.put((item, None, False))
                if self._stopped.is_set():
                    return
            self._queue.put((None, None, True))
        except BaseException as error:  # noqa: BLE001  raised again where the stream is read
            self._queue.put((None, error, True))

    def __next__(self) -> T:
        item, error, ended = self._queue.get()
        if error is not None:
            raise error
        if ended:
            raise StopIteration
        return item  # type: ignore[return-value]  # an item, since the stream has not ended

    def stop(self) -> None:
        """End the thread; empty the queue in case the thread waits to put an item.

        In the thread itself, see `thread_pool`, the next item ends it.
        """
        self._stopped.set()
        while self._thread.is_alive():
            while not self._queue.empty():
                self._queue.get_nowait()
            if self._thread.ident == get_ident():
                return
            self._thread.join(timeout=0.01)


def ordered_chain(streams: Iterable[Iterable[T]], num_threads: int, depth: int = 4) -> Iterator[T]:
    """Chain iterables in order, reading up to `num_threads` of them ahead.

    Each is read ahead by at most `depth` items, so memory does not grow with their length.
    """
    remaining = iter(streams)
    active: deque[_Stream[T]] = deque(_Stream(s, depth) for s in islice(remaining, num_threads))
    try:
        while active:
            yield from active[0]
            active.popleft()
            active.extend(_Stream(s, depth) for s in islice(remaining, 1))
    finally:
        for stream in active:
            stream.stop()
