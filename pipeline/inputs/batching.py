"""The pairs of each step, and the split of a step into micro-batches. Pure; knows no torch, no files.

The choice of pairs decides the result; it depends only on rows, batch size, seed and epoch. The split decides memory
and speed: a step's loss is a sum over its pairs divided by their number, so any split gives the same gradient to
rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ResourceError, must

TRAINING_WIDTH_STEP = 8
"""Widths of a training step's blocks are multiples of this, so that few shapes occur; see `rounded`."""

SCORING_WIDTH_STEP = 4
"""The same for blocks in scoring; smaller, for less padding. A step of 1 would leave 1 % of padding instead of 6 %. But
where attention is computed by separate matmuls, hundreds of megabytes more of kernels would be compiled. Where it is
not, in fp32, a step of 4 costs 3 %."""

BLOCK_TOKENS = 2048
"""Most tokens of a block, so that attention's intermediate results stay small; a single pair may be longer."""

BLOCK_OVERHEAD = 32
"""Cost of attention over one more block, as a number of tokens in a linear layer."""

ROWS_STEP = 64
"""Numbers of token rows are rounded up to multiples of this or of a larger step; see `rounded`."""

MOST_PAIRS = 65_535
"""Most pairs of a micro-batch: a GPU's attention kernels place pairs along a grid axis of at most this length."""

SPREAD = 16
"""Upper bound on pairs x longest pair of a micro-batch without padding, as a multiple of the token budget. It can be
this high because only the last layer's output is padded, for pooling: a hundredth of what the layers keep."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a run: `epochs` seeded permutations of `rows` rows, cut into batches; each last batch is kept."""

    rows: int
    batch_size: int
    epochs: int
    seed: int
    max_steps: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch, the last, smaller one included."""
        return -(-self.rows // self.batch_size)

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        steps = self.steps_per_epoch * self.epochs
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def pairs(self, start: int, end: int) -> int:
        """Return the number of rows in steps start..end-1 (counted from 0); each epoch's last batch may be smaller."""

        def until(step: int) -> int:
            epoch, position = divmod(step, self.steps_per_epoch)
            return epoch * self.rows + position * self.batch_size

        return until(end) - until(start)

    def permutation(self, epoch: int) -> Indices:
        """Return the order of the rows in an epoch (counted from 0): a pure function of seed and epoch."""
        return np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self.rows)

    def batches(self, start: int = 0) -> Iterator[Indices]:
        """Yield the row indices of each step from step `start` (counted from 0) to the end."""
        order: Indices | None = None
        order_of = -1
        for step in range(start, self.steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if order is None or order_of != epoch:
                order, order_of = self.permutation(epoch), epoch
            yield order[position * self.batch_size : (position + 1) * self.batch_size]


def split_into_micro_batches(
    lengths: npt.NDArray[np.integer], token_budget: int, lanes: int, *, is_padded: bool = True
) -> list[Indices]:
    """Split pairs into micro-batches for one lane or for several side by side (`engine.lanes`).

    Args:
        lengths: tokens of each pair, shape (pairs,).
        token_budget: see `micro_batches` or, with several lanes, `equal_shares`; without padding, the most tokens of a
            micro-batch, which only a single pair may exceed.
        lanes: how many micro-batches are computed at once.
        is_padded: whether a pair takes as much memory as the longest of its micro-batch; used with one lane only.

    Returns:
        Positions into `lengths`, longest pairs first, equal lengths in their original order.
    """
    if lanes > 1:
        return equal_shares(lengths, token_budget, lanes)
    if is_padded:
        return micro_batches(lengths, token_budget)
    shares, share_budget = equal_shares(lengths, token_budget, 1), token_budget
    # A share may exceed its budget by part of its last pair, which for long pairs is a large part of the budget.
    while any(len(share) > 1 and int(lengths[share].sum()) > token_budget for share in shares):
        share_budget -= 1 + share_budget // 16
        shares = equal_shares(lengths, share_budget, 1)
    return [share[part] for share in shares for part in micro_batches(lengths[share], SPREAD * token_budget)]


def micro_batches(lengths: npt.NDArray[np.integer], token_budget: int) -> list[Indices]:
    """Split pairs into groups of similar length whose padded size stays within a token budget.

    Args:
        lengths: tokens of each pair, shape (pairs,).
        token_budget: most pairs x longest pair of a group; a single pair may exceed it. No group exceeds `MOST_PAIRS`.

    Returns:
        Positions into `lengths`, longest group first, so that memory runs out at once or never; equal lengths keep
        their original order.
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
    """Split pairs by length into groups of about equally many tokens, a multiple of `lanes`, so that no lane waits.

    Args:
        lengths: tokens of each pair, shape (pairs,).
        token_budget: most tokens of a group, padding not counted; all lanes' groups together have at most twice as
            many. A group may exceed its share by part of its last pair.
        lanes: how many groups are computed at once.

    Returns:
        Positions into `lengths`, longest pairs first, equal lengths in original order; fewer groups if pairs are few.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    ends = np.cumsum(lengths[order], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    count = lanes * -(-total // (lanes * max(1, min(token_budget, 2 * token_budget // lanes))))
    # A pair belongs to the share in which its first token lies.
    cuts = np.searchsorted(ends, [total * k // count for k in range(1, count)], side="left") + 1
    return [group for group in np.split(order, cuts) if group.size]


def rounded(rows: int, least: int) -> int:
    """Round a number of rows up to one of sixteen sizes per octave, in steps of `least` or more.

    oneDNN compiles a kernel for every shape it multiplies, which takes longer than most matmuls: shapes must repeat.
    """
    step = max(least, 1 << max(0, rows.bit_length() - 5))
    return -(-rows // step) * step


def pairs_step(width: int, most: int = BLOCK_TOKENS) -> int:
    """Return the step to whose multiples a number of pairs is rounded up where shapes must repeat.

    The step is a power of two and at most a quarter of the pairs that a block holds, or one: at most eight numbers of
    pairs occur per width.
    """
    return 1 << max(0, (most // (4 * width)).bit_length() - 1)


def blocks(lengths: npt.NDArray[np.integer], overhead: int, most: int, step: int) -> list[tuple[int, int]]:
    """Split pairs of decreasing length into blocks as wide as their longest pair or slightly wider, at the least cost.

    Args:
        lengths: tokens of each pair, shape (pairs,), decreasing.
        overhead: cost of one more width, in tokens, on top of pairs times width.
        most: most pairs times width of a block; a single pair may exceed it. Pairs of one width are split into blocks
            of equally many pairs, a multiple of `pairs_step`, and a block of the remaining pairs.
        step: widths are multiples of this.

    Returns:
        (pairs, width) of each block.
    """
    widths, starts = np.unique(lengths.astype(np.int64) // -step * step, return_index=True)
    widths, ends = -widths, np.append(starts, lengths.size)
    # least[j]: least cost of the first j distinct widths; a block of the i-th to the j-th is as wide as the i-th.
    least, cut = np.zeros(len(widths) + 1, np.int64), np.zeros(len(widths) + 1, np.int64)
    for j in range(1, len(widths) + 1):
        costs = least[:j] + (ends[j] - ends[:j]) * widths[:j] + overhead
        cut[j] = costs.argmin()
        least[j] = costs[cut[j]]
    shapes: list[tuple[int, int]] = []
    j = len(widths)
    while j:
        i = int(cut[j])
        width, pairs = int(widths[i]), int(ends[j] - ends[i])
        many = pairs_step(width, most)
        full = max(1, most // width // many * many)
        whole, rest = divmod(pairs, full)
        shapes += [(rest, width)] * (rest > 0) + [(full, width)] * whole
        j = i
    return shapes[::-1]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Layout of texts or pairs in blocks of similar length."""

    shapes: list[tuple[int, int]]
    """(texts, width) of each block."""
    starts: Indices
    """(texts,): the row of each text's first token."""
    rows: int
    """Number of rows, including padding after the last block; see `rounded`."""

    @classmethod
    def of(cls, lengths: npt.NDArray[np.integer], width_step: int) -> Blocks:
        """Lay out texts of decreasing `lengths`, (texts,), in blocks whose widths are multiples of `width_step`."""
        shapes = blocks(lengths, BLOCK_OVERHEAD, BLOCK_TOKENS, width_step)
        widths = np.repeat([width for _, width in shapes], [texts for texts, _ in shapes])
        return cls(shapes, np.cumsum(widths) - widths, rounded(int(widths.sum()), ROWS_STEP))


def halved(token_budget: int, longest: int) -> int:
    """Return the token budget to go on with after a GPU ran out of memory on pairs of at most `longest` tokens.

    Raises:
        ResourceError: when the longest pair already was alone in its micro-batch.
    """
    if token_budget <= longest:
        remedy = "Use a smaller model or model.max_length."
        raise ResourceError(must("GPU memory", "hold one pair of the longest length", f"{longest} tokens", remedy))
    return token_budget // 2


def warmup_steps(steps: int, ratio: float) -> int:
    """Return the number of warm-up steps: `ratio` of all steps, rounded up, as in the reference trainer."""
    return int(np.ceil(steps * ratio))


def linear_schedule(step: int, steps: int, warmup: int) -> float:
    """Return the learning rate's factor after `step` finished steps: up from 0 during warm-up, then down to 0."""
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (steps - step) / max(1, steps - warmup))
