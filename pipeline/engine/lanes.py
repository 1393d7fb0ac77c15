"""Micro-batches side by side on a CPU: a thread each, and torch's operators within it on that thread's share of cores.

An operator that is cut over all cores ends when its slowest part does, and much of a step is not cut at all: small
operators, gathers, random numbers, Python between them. Whole micro-batches are long and need nothing of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

MOST = 8
"""More would wait for Python's lock, which each holds for a few per cent of its time, and keep as many activations."""

T = TypeVar("T")
R = TypeVar("R")


def available() -> int:
    """How many lanes torch's threads make; to be asked on the main thread."""
    return min(MOST, torch.get_num_threads())


def in_order(function: Callable[[T], R], items: Iterable[T], lanes: int) -> Iterator[R]:
    """`function` of each item, in the items' order, `lanes` of them at a time; with one lane on the caller's thread.

    While it runs, the caller's own operators have one thread too. An exception of an item is raised in its place; what
    has not begun by then never does.

    Args:
        function: must touch nothing that two threads may not: above all no global generator.
        items: all taken at once.
        lanes: threads.
    """
    if lanes == 1:
        yield from map(function, items)
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(lanes, "lane", torch.set_num_threads, (max(1, threads // lanes),))
    try:
        torch.set_num_threads(1)
        yield from pool.map(function, items)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # this thread's, and the default of threads to come
