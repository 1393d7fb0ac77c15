"""Micro-batches side by side on a CPU: one thread for each, whose torch operators run on a share of the cores.

An operator that is split over all cores ends when its slowest part does, and much of a step is not split at all: small
operators, gathers, random numbers, and the Python code between them. Whole micro-batches are long and independent of
each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

MOST = 4
"""Most lanes: each holds activations and up to two gradients of every weight. Only two lanes have been measured."""

T = TypeVar("T")
R = TypeVar("R")


def available() -> int:
    """Return how many lanes of equally many threads torch's threads form, at most `MOST`; call on the main thread."""
    threads = torch.get_num_threads()
    return threads // -(-threads // MOST)


def in_order(function: Callable[[T], R], items: Iterable[T], lanes: int) -> Iterator[R]:
    """Yield `function(item)` for each item in order, computing `lanes` at a time; one lane is the caller's thread.

    At most twice as many items as lanes are submitted before their results are taken. Meanwhile the caller's own
    operators have one thread. An item's exception is raised in its place; items that have not begun by then never do.

    Args:
        function: must be thread-safe; above all it may use no global random number generator.
        items: all are taken from the iterable at once.
        lanes: how many threads.
    """
    waiting = list(items)
    lanes = min(lanes, len(waiting))
    if lanes <= 1:
        yield from map(function, waiting)
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(lanes, "lane", torch.set_num_threads, (max(1, threads // lanes),))
    begun: deque[Future[R]] = deque()
    try:
        torch.set_num_threads(1)
        for item in waiting:
            begun.append(pool.submit(function, item))
            if len(begun) == 2 * lanes:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        try:
            pool.shutdown(wait=True, cancel_futures=True)
        finally:
            torch.set_num_threads(threads)  # this thread's, and the default of threads to come
