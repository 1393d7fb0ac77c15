"""Which pairs make a step, and how a step is cut into micro-batches. Pure; knows no torch, no files.

The first decides the result and depends on rows, batch size, seed and epoch alone. The second is memory and speed:
the loss of a step is a sum over its pairs divided by their number, so any cut gives the same gradient to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ResourceError, must

TRAINING_WIDTH_STEP = 8
"""Widths of a training step's blocks are multiples of this, so that shapes repeat; see `rounded`."""

SCORING_WIDTH_STEP = 4
"""The same of scoring's blocks, fewer of whose tokens are then pads. With one hardly any would be (1 %, not 6), but
hundreds of megabytes more be compiled where attention is made of products; where it is not, in fp32, four costs 3 %."""

BLOCK_TOKENS = 2048
"""Tokens of a block at most, but for a longer pair: attention's intermediate results stay small."""

BLOCK_OVERHEAD = 32
"""Tokens of a linear layer that cost as much as attention over one block more."""

ROWS_STEP = 64
"""What numbers of token rows are raised in steps of, or of more, see `rounded`."""

MOST_PAIRS = 65_535
"""Pairs of a micro-batch: a GPU's attention kernels count them along an axis of so many."""

SPREAD = 16
"""Pairs x longest pair of a micro-batch without pads, in budgets: where a model pools, its last layer's rows alone are
spread by pair, a hundredth of what its layers keep."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a run: `epochs` seeded permutations of `rows` rows, cut into batches, the last one kept."""

    rows: int
    batch_size: int
    epochs: int
    seed: int
    max_steps: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch, the last, smaller one included."""
        return -(-self.rows // self.batch_size)

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        steps = self.steps_per_epoch * self.epochs
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def pairs(self, start: int, end: int) -> int:
        """Rows of steps start..end-1 (counted from 0): each epoch's last batch may be smaller."""

        def until(step: int) -> int:
            epoch, position = divmod(step, self.steps_per_epoch)
            return epoch * self.rows + min(position * self.batch_size, self.rows)

        return until(end) - until(start)

    def permutation(self, epoch: int) -> Indices:
        """The order of the rows in an epoch (counted from 0): a pure function of seed and epoch."""
        return np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self.rows)

    def batches(self, start: int = 0) -> Iterator[Indices]:
        """Row indices of each step from step `start` (counted from 0) to the end."""
        order: Indices | None = None
        order_of = -1
        for step in range(start, self.steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if order is None or order_of != epoch:
                order, order_of = self.permutation(epoch), epoch
            yield order[position * self.batch_size : (position + 1) * self.batch_size]


def cut(lengths: npt.NDArray[np.integer], token_budget: int, lanes: int, *, pads: bool = True) -> list[Indices]:
    """Cut pairs into micro-batches for one lane or for several side by side (`engine.lanes`).

    `pads`: whether a pair takes as much memory as the longest beside it, where there is one lane.
    """
    if lanes > 1:
        return equal_shares(lengths, token_budget, lanes)
    if pads:
        return micro_batches(lengths, token_budget)
    shares = equal_shares(lengths, token_budget, 1)
    return [share[part] for share in shares for part in micro_batches(lengths[share], SPREAD * token_budget)]


def micro_batches(lengths: npt.NDArray[np.integer], token_budget: int) -> list[Indices]:
    """Cut pairs into groups of like length whose padded size stays within a token budget.

    Args:
        lengths: tokens of each pair, shape (pairs,).
        token_budget: pairs x longest pair of a group; a single pair may exceed it, and none has over `MOST_PAIRS`.

    Returns:
        Positions into `lengths`, longest group first so that memory runs out at once or never; equal lengths keep
        their order.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    groups: list[Indices] = []
    start = 0
    while start < order.size:
        longest = int(lengths[order[start]])
        count = min(MOST_PAIRS, max(1, token_budget // max(1, longest)))
        groups.append(order[start : start + count])
        start += count
    return groups


def equal_shares(lengths: npt.NDArray[np.integer], token_budget: int, lanes: int) -> list[Indices]:
    """Cut pairs into groups of like length and about equal tokens, a multiple of `lanes`, so that no lane waits.

    Args:
        lengths: tokens of each pair, shape (pairs,).
        token_budget: tokens of a group without padding, and of all lanes' groups together twice as many; a group may
            exceed its share by a part of its last pair.
        lanes: how many groups are computed at once.

    Returns:
        Positions into `lengths`, longest pairs first, equal lengths in their order; fewer groups where pairs are few.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    ends = np.cumsum(lengths[order], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    count = lanes * -(-total // (lanes * max(1, min(token_budget, 2 * token_budget // lanes))))
    # A pair belongs to the share in which its first token lies.
    cuts = np.searchsorted(ends, [total * k // count for k in range(1, count)], side="left") + 1
    return [group for group in np.split(order, cuts) if group.size]


def rounded(rows: int, least: int) -> int:
    """A number of rows raised to one of sixteen sizes an octave, in steps of `least` or more.

    oneDNN compiles a kernel for every shape it multiplies, which takes longer than most products: shapes must repeat.
    """
    step = max(least, 1 << max(0, rows.bit_length() - 5))
    return -(-rows // step) * step


def pairs_step(width: int, most: int = BLOCK_TOKENS) -> int:
    """What numbers of pairs are raised to a multiple of where shapes must repeat: of one width there are eight at most.

    A power of two, a quarter of the pairs that a block holds or less, or one.
    """
    return 1 << max(0, (most // (4 * width)).bit_length() - 1)


def blocks(lengths: npt.NDArray[np.integer], overhead: int, most: int, step: int) -> list[tuple[int, int]]:
    """Cut pairs in order of falling length into blocks as wide as their longest or a little wider, at the least cost.

    Args:
        lengths: tokens of each pair, shape (pairs,), falling.
        overhead: what a width costs besides its pairs times itself, in tokens.
        most: pairs times width of a block; a single pair may exceed it. Pairs of one width are cut into equal blocks,
            a multiple of `pairs_step`, and a rest.
        step: widths are multiples of it.

    Returns:
        (pairs, width) of each block.
    """
    widths, starts = np.unique(lengths.astype(np.int64) // -step * step, return_index=True)
    widths, ends = -widths, np.append(starts, lengths.size)
    # least[j]: cost of the first j distinct lengths; a block from the i-th to the j-th is as wide as the i-th.
    least, cut = np.zeros(len(widths) + 1, np.int64), np.zeros(len(widths) + 1, np.int64)
    for j in range(1, len(widths) + 1):
        costs = least[:j] + (ends[j] - ends[:j]) * widths[:j] + overhead
        cut[j] = costs.argmin()
        least[j] = costs[cut[j]]
    found: list[tuple[int, int]] = []
    j = len(widths)
    while j:
        i = int(cut[j])
        width, pairs = int(widths[i]), int(ends[j] - ends[i])
        many = pairs_step(width, most)
        full = max(1, most // width // many * many)
        whole, rest = divmod(pairs, full)
        found += [(rest, width)] * (rest > 0) + [(full, width)] * whole
        j = i
    return found[::-1]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Where the tokens of texts or pairs stand that are put in blocks of like length."""

    shapes: list[tuple[int, int]]
    """(texts, width) of each block."""
    starts: Indices
    """(texts,): the row of each one's first token."""
    rows: int
    """All rows, those behind the last block included; a number that repeats."""

    @classmethod
    def of(cls, lengths: npt.NDArray[np.integer], width_step: int) -> Blocks:
        """Blocks of texts whose lengths in tokens, (texts,), fall; their widths are multiples of `width_step`."""
        shapes = blocks(lengths, BLOCK_OVERHEAD, BLOCK_TOKENS, width_step)
        widths = np.repeat([width for _, width in shapes], [texts for texts, _ in shapes])
        return cls(shapes, np.cumsum(widths) - widths, rounded(int(widths.sum()), ROWS_STEP))


def halved(token_budget: int, longest: int) -> int:
    """The budget to go on with after a GPU ran out of memory on pairs of at most `longest` tokens.

    Raises:
        ResourceError: when the longest pair was alone in its micro-batch already.
    """
    if token_budget <= longest:
        remedy = "Use a smaller model or model.max_length."
        raise ResourceError(must("GPU memory", "hold one pair of the longest length", f"{longest} tokens", remedy))
    return token_budget // 2


def warmup_steps(steps: int, ratio: float) -> int:
    """Steps of rising learning rate: the share of all steps, rounded up, as the reference trainer counts them."""
    return int(np.ceil(steps * ratio))


def linear_schedule(step: int, steps: int, warmup: int) -> float:
    """Factor on the learning rate of the step after `step` finished ones: up from 0 over warm-up, then down to 0."""
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (steps - step) / max(1, steps - warmup))
