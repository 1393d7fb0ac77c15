"""Dropout's random numbers on a CPU, where torch's own cost more than a layer's products.

A mask is drawn as 15 random bits an element from one numpy stream, seeded from torch's generator: its state alone
decides every mask. Drawing on several threads takes longer: torch's own wait for their next work without sleeping.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch

STEPS = 2**15
"""A rate is rounded to a multiple of one part in so many."""


class Dropout:
    """The masks of one forward pass; torch's generator is asked for their seed with the first of them."""

    @cached_property
    def _stream(self) -> np.random.SFC64:
        return np.random.SFC64(int(torch.randint(2**62, ())))

    def mask(self, shape: tuple[int, ...], rate: float) -> torch.Tensor:
        """Words of 16 set bits where an element stays and of none where it is dropped, int16."""
        count = math.prod(shape)
        words = self._stream.random_raw(-(-count // 4))
        bits = torch.from_numpy(words.view(np.int16))[:count].view(shape)
        # -1 where the 15 bits make at least the threshold: their difference's sign, spread over the word.
        return bits.bitwise_and_(STEPS - 1).neg_().add_(round(rate * STEPS) - 1).bitwise_right_shift_(15)


def drop_(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Set to zero what a mask drops, in place; what is left is not scaled."""
    if values.element_size() == 2:
        values.view(torch.int16).bitwise_and_(mask)
        return values
    return values.mul_(mask.neg())


def scale(rate: float) -> float:
    """By what the elements that stay are multiplied: the inverse of the share that does."""
    return STEPS / (STEPS - round(rate * STEPS))
