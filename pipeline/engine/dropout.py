"""Dropout's random numbers on a CPU, where torch's own cost more than a layer's products.

A mask is drawn as 15 random bits an element from several numpy streams at once, all seeded from torch's generator: its
state alone decides every mask, and their number is fixed, so that a mask does not depend on the number of threads.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property

import numpy as np
import torch

STREAMS = 4
"""Parts of a mask that are drawn at once."""

STEPS = 2**15
"""A rate is rounded to a multiple of one part in so many."""


class Dropout:
    """The masks of one forward pass; torch's generator is asked for their seed with the first of them."""

    @cached_property
    def _streams(self) -> list[np.random.Generator]:
        seed = int(torch.randint(2**62, ()))
        return [np.random.Generator(np.random.SFC64([seed, stream])) for stream in range(STREAMS)]

    def mask(self, shape: tuple[int, ...], rate: float) -> torch.Tensor:
        """Words of 16 set bits where an element stays and of none where it is dropped, int16."""
        count = math.prod(shape)
        part = -(-count // (4 * STREAMS))
        words, streams = np.empty((STREAMS, part), np.uint64), self._streams

        def draw(place: int) -> None:
            words[place] = streams[place].integers(0, 2**64, part, np.uint64)

        list(_pool(min(STREAMS, torch.get_num_threads())).map(draw, range(STREAMS)))
        bits = torch.from_numpy(words.reshape(-1).view(np.int16))[:count].view(shape)
        # -1 where the 15 bits make at least the threshold: their difference's sign, spread over the word.
        return bits.bitwise_and_(STEPS - 1).neg_().add_(round(rate * STEPS) - 1).bitwise_right_shift_(15)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="dropout")


def drop_(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Set to zero what a mask drops, in place; what is left is not scaled."""
    if values.element_size() == 2:
        values.view(torch.int16).bitwise_and_(mask)
        return values
    return values.mul_(mask.neg())


def scale(rate: float) -> float:
    """By what the elements that stay are multiplied: the inverse of the share that does."""
    return STEPS / (STEPS - round(rate * STEPS))
