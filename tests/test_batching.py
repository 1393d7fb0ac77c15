"""Which pairs make a step: the numbers of the published recipes, and properties that hold for any input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import ResourceError
from pipeline.inputs.batching import (
    BLOCK_TOKENS,
    SCORING_WIDTH_STEP,
    TRAINING_WIDTH_STEP,
    Plan,
    blocks,
    equal_shares,
    halved,
    linear_schedule,
    micro_batches,
    pairs_step,
    rounded,
    split_into_micro_batches,
    warmup_steps,
)


@pytest.mark.parametrize(("batch_size", "steps", "warmup"), [(2048, 283, 29), (64, 9038, 904)])
def test_steps_and_warm_up_of_the_published_recipes(batch_size: int, steps: int, warmup: int) -> None:
    plan = Plan(rows=578_402, batch_size=batch_size, epochs=1, seed=12)
    assert (plan.steps, warmup_steps(plan.steps, 0.1)) == (steps, warmup)


def test_the_order_of_rows_is_pinned() -> None:
    # Another numpy or another way to seed would train other weights under the same key.
    plan = Plan(rows=100, batch_size=8, epochs=2, seed=12)
    assert plan.permutation(0)[:8].tolist() == [11, 44, 81, 76, 55, 87, 6, 20]
    assert plan.permutation(1)[:8].tolist() == [59, 8, 11, 18, 52, 21, 77, 15]
    assert Plan(rows=100, batch_size=16, epochs=5, seed=12, max_steps=3).permutation(1).tolist() == (
        plan.permutation(1).tolist()
    )


@given(
    rows=st.integers(1, 200), batch_size=st.integers(1, 64), epochs=st.integers(1, 3), seed=st.integers(0, 2**32 - 1)
)
@settings(max_examples=60, deadline=None)
def test_an_epoch_takes_each_row_once_and_keeps_the_last_batch(
    rows: int, batch_size: int, epochs: int, seed: int
) -> None:
    plan = Plan(rows, batch_size, epochs, seed)
    batches = list(plan.batches())
    start = len(batches) // 3
    assert plan.pairs(start, len(batches)) == sum(map(len, batches[start:]))
    assert len(batches) == plan.steps == plan.steps_per_epoch * epochs
    for epoch in range(epochs):
        of_epoch = batches[epoch * plan.steps_per_epoch : (epoch + 1) * plan.steps_per_epoch]
        assert np.concatenate(of_epoch).tolist() == plan.permutation(epoch).tolist()
        assert sorted(np.concatenate(of_epoch).tolist()) == list(range(rows))
        assert all(len(batch) == batch_size for batch in of_epoch[:-1])
        assert len(of_epoch[-1]) == (rows - 1) % batch_size + 1


@given(rows=st.integers(1, 60), batch_size=st.integers(1, 9), start=st.integers(0, 40), most=st.integers(1, 50))
@settings(max_examples=40, deadline=None)
def test_a_resumed_plan_goes_on_where_it_stopped(rows: int, batch_size: int, start: int, most: int) -> None:
    plan = Plan(rows, batch_size, 3, 5, max_steps=most)
    whole = [batch.tolist() for batch in plan.batches()]
    assert len(whole) == plan.steps <= most
    assert [batch.tolist() for batch in plan.batches(start)] == whole[start:]


@given(lengths=st.lists(st.integers(1, 600), max_size=80), budget=st.integers(1, 4000))
@settings(max_examples=150, deadline=None)
def test_micro_batches_are_a_partition_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = micro_batches(np.array(lengths, np.int64), budget)
    flat = [int(position) for group in groups for position in group]
    assert sorted(flat) == list(range(len(lengths)))
    # Longest first, equal lengths in their own order: the one total order (-length, position).
    assert flat == sorted(flat, key=lambda position: (-lengths[position], position))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget


@given(
    lengths=st.lists(st.integers(1, 600), max_size=80), budget=st.integers(1, 4000), lanes=st.integers(2, 5)
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_equal_shares_are_alike_and_leave_no_lane_idle(lengths: list[int], budget: int, lanes: int) -> None:
    groups = equal_shares(np.array(lengths, np.int64), budget, lanes)
    flat = [int(position) for group in groups for position in group]
    assert flat == sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))
    tokens = [sum(lengths[i] for i in group) for group in groups]
    longest = max(lengths, default=0)
    budget = max(1, min(budget, 2 * budget // lanes))
    rounds = -(-sum(lengths) // (lanes * budget))
    share = sum(lengths) / max(1, lanes * rounds)
    assert all(abs(found - share) <= longest for found in tokens) or len(groups) == len(lengths)
    assert all(found <= budget + longest for found in tokens)
    assert len(groups) <= lanes * rounds
    if share >= longest:
        assert len(groups) == lanes * rounds


def test_no_micro_batch_has_more_pairs_than_a_gpu_can_count() -> None:
    groups = micro_batches(np.ones(150_000, np.int64), 10**6)
    assert [len(group) for group in groups] == [65_535, 65_535, 18_930]


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=9), overhead=st.integers(0, 200),
    step=st.sampled_from([SCORING_WIDTH_STEP, TRAINING_WIDTH_STEP]),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_blocks_hold_every_pair_at_the_least_cost(lengths: list[int], overhead: int, step: int) -> None:
    falling = sorted(lengths, reverse=True)
    wide = [-(-length // step) * step for length in falling]

    def cost(cuts: tuple[int, ...]) -> int:
        edges = [0, *cuts, len(wide)]
        return sum((end - start) * wide[start] + overhead for start, end in itertools.pairwise(edges))

    every = (cuts for k in range(len(wide)) for cuts in itertools.combinations(range(1, len(wide)), k))
    found = blocks(np.array(falling), overhead, 10**6, step)
    assert sum(pairs for pairs, _ in found) == len(falling)
    start = 0
    for pairs, width in found:
        assert width == wide[start]
        start += pairs
    assert sum(pairs * width + overhead for pairs, width in found) == min(map(cost, every))


def test_blocks_of_one_width_are_equal_but_for_a_rest() -> None:
    lengths = np.repeat([64, 16, 8], [5, 9, 1])
    assert blocks(lengths, 0, 128, 8) == [(2, 64), (2, 64), (1, 64), (8, 16), (1, 16), (1, 8)]
    assert blocks(np.array([300, 8]), 0, 128, 8) == [(1, 304), (1, 8)], "a single pair may exceed it"
    assert blocks(np.repeat(64, 41), 0, 1200, 8) == [(16, 64), (16, 64), (9, 64)], "18 would fit, but 16 repeats"


def test_blocks_of_one_width_have_few_numbers_of_pairs_when_raised() -> None:
    for width in range(1, 700):
        step, full = pairs_step(width), blocks(np.repeat(width, 5000), 0, BLOCK_TOKENS, 1)[0][0]
        assert full % step == 0 and full // step <= 8
        assert full == max(1, BLOCK_TOKENS // width) or full > 0.75 * (BLOCK_TOKENS // width)


def test_rows_are_raised_to_few_sizes() -> None:
    assert [rounded(rows, 64) for rows in (1, 64, 65, 1024, 1025, 2049, 8192)] == [64, 64, 128, 1024, 1088, 2176, 8192]
    assert all(rows <= rounded(rows, 64) < 1.07 * rows + 64 for rows in range(1, 20_000, 7))
    assert len({rounded(rows, 64) for rows in range(4096, 8192)}) == 17


@pytest.mark.parametrize(("steps", "warmup"), [(283, 29), (50, 5), (7, 0), (1, 1), (4, 4)])
def test_the_schedule_is_transformers_linear_one(steps: int, warmup: int) -> None:
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)
    for step in range(steps):
        assert linear_schedule(step, steps, warmup) == schedule.get_last_lr()[0], step
        optimizer.step()
        schedule.step()


def test_warm_up_is_counted_as_the_reference_trainer_counts_it() -> None:
    from transformers import TrainingArguments

    arguments = TrainingArguments(output_dir="unused", warmup_steps=0.1, use_cpu=True, report_to=[])
    for ratio in (0.1, 0.07):
        arguments.warmup_steps = ratio
        for steps in [*range(1, 400), 9038]:
            assert warmup_steps(steps, ratio) == arguments.get_warmup_steps(steps), steps
    # 100 x 0.07 is 7.000000000000001 in floating point, and the reference rounds that up: so do we.
    assert warmup_steps(100, 0.07) == 8


def test_pairs_without_pads_are_cut_by_their_own_tokens() -> None:
    lengths = np.array([1500, *[70] * 60], np.int64)
    assert [len(group) for group in split_into_micro_batches(lengths, 8192, 1)] == [5, 56], (
        "each as much as the longest beside it"
    )
    (whole,) = split_into_micro_batches(lengths, 8192, 1, is_padded=False)
    assert sorted(whole.tolist()) == list(range(61)) and whole[0] == 0
    assert [
        len(group) for group in split_into_micro_batches(np.ones(150_000, np.int64), 10**6, 1, is_padded=False)
    ] == [65_535, 65_535, 18_930]
    # One long pair among many: what is spread by pair stays within sixteen budgets.
    uneven = np.array([8000, *[40] * 1000], np.int64)
    groups = split_into_micro_batches(uneven, 49_152, 1, is_padded=False)
    assert max(len(group) * int(uneven[group].max()) for group in groups) <= 16 * 49_152
    assert len(groups) == 2 and sorted(np.concatenate(groups).tolist()) == list(range(1001))


@given(
    lengths=st.lists(st.one_of(st.integers(3, 120), st.integers(3000, 8192)), min_size=1, max_size=60),
    budget=st.integers(64, 40_000),
)
@example(lengths=[8192] * 2 + [7000] * 14, budget=8192)
@example(lengths=[3], budget=1)
def test_without_pads_several_pairs_never_exceed_the_budget(lengths: list[int], budget: int) -> None:
    """Else memory could run out on a budget of one longest pair, below which there is nothing to halve."""
    sizes = np.array(lengths, np.int64)
    groups = split_into_micro_batches(sizes, budget, 1, is_padded=False)
    assert all(len(group) == 1 or int(sizes[group].sum()) <= budget for group in groups)
    order = np.concatenate(groups)
    assert order.tolist() == np.argsort(-sizes, kind="stable").tolist()
    if 8 * sizes.max() <= budget:
        assert len(groups) <= -(-int(sizes.sum()) // (budget * 3 // 4)), "nor are they much smaller than it"


def test_memory_that_runs_out_with_long_pairs_is_halved_until_each_is_alone() -> None:
    lengths, budget = np.array([8192] * 2 + [7000] * 14, np.int64), 32_768
    while any(len(group) > 1 for group in split_into_micro_batches(lengths, budget, 1, is_padded=False)):
        budget = halved(budget, int(lengths.max()))
    assert budget == 8192
    with pytest.raises(ResourceError, match="GPU memory must hold one pair of the longest length"):
        halved(budget, int(lengths.max()))
