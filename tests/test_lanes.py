"""Work side by side: its results in order, its threads its own, its failures the caller's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from pipeline.engine import lanes


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def threads_of_a_new_thread() -> int:
    found: list[int] = []
    asked = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    asked.start()
    asked.join()
    return found[0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_come_in_order_whichever_ends_first(count: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.02 if item % count == 0 else 0.0)
        return item * 10

    assert list(lanes.in_order(slow_first, range(7), count)) == [item * 10 for item in range(7)]


def test_items_run_at_once() -> None:
    together = threading.Barrier(3, timeout=20)
    assert len(list(lanes.in_order(lambda item: together.wait(), range(6), 3))) == 6


def test_each_lane_has_its_share_of_threads_and_the_caller_one(threads: int) -> None:
    seen, callers = [], []
    for found in lanes.in_order(lambda item: torch.get_num_threads(), range(6), 2):
        seen.append(found)
        callers.append(torch.get_num_threads())
    assert set(seen) == {max(1, threads // 2)} and set(callers) == {1}
    assert torch.get_num_threads() == threads == threads_of_a_new_thread()


def test_one_lane_is_the_caller_itself(threads: int) -> None:
    def seen(item: int) -> tuple[int, int]:
        return threading.get_ident(), torch.get_num_threads()

    assert set(lanes.in_order(seen, range(3), 1)) == {(threading.get_ident(), threads)}


def test_a_failure_comes_in_its_place_and_stops_what_has_not_begun(threads: int) -> None:
    """Item 1 fails at once, item 0 and then 2 hold the lanes until the caller knows: 3 and 4 wait and never begin."""
    begun, running = list[int](), threading.active_count()
    failed = threading.Event()

    def failing(item: int) -> int:
        begun.append(item)
        if item == 1:
            failed.set()
            raise ValueError("of item 1")
        assert failed.wait(20)
        time.sleep(0.05 if item == 0 else 0.3)
        return item

    found: list[int] = []
    with pytest.raises(ValueError, match="of item 1"):
        for result in lanes.in_order(failing, range(1000), 2):
            found.append(result)
    assert found == [0] and set(begun) <= {0, 1, 2, 3}, "of the four that were submitted by then"
    assert torch.get_num_threads() == threads and threading.active_count() == running


def test_what_is_begun_waits_for_the_caller() -> None:
    begun: list[int] = []
    for place, _ in enumerate(lanes.in_order(begun.append, range(30), 3)):
        time.sleep(0.005)
        assert len(begun) <= place + 6


def test_a_caller_that_leaves_stops_it_and_has_its_threads_again(threads: int) -> None:
    begun: list[int] = []
    found = lanes.in_order(begun.append, range(100), 2)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert len(begun) < 10 and torch.get_num_threads() == threads


def test_there_are_no_more_lanes_than_items(threads: int) -> None:
    assert list(lanes.in_order(lambda item: torch.get_num_threads(), [1], 4)) == [threads]
    assert set(lanes.in_order(lambda item: torch.get_num_threads(), [1, 2], 4)) == {max(1, threads // 2)}


@pytest.mark.parametrize(("given", "count"), [(1, 1), (2, 2), (4, 4), (5, 2), (6, 3), (7, 3), (12, 4), (16, 4)])
def test_lanes_are_as_many_as_threads_up_to_a_limit(given: int, count: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(given)
    try:
        assert lanes.available() == count <= lanes.MOST
    finally:
        torch.set_num_threads(before)
