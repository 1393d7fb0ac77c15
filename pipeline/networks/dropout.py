"""Random numbers for dropout on a CPU, where torch's own cost more than a layer's matmuls.

A mask is drawn as 16 random bits per element from one numpy stream per micro-batch. The stream is seeded from torch's
generator, whose state alone decides every mask.
"""

from __future__ import annotations

import math

import numpy as np
import torch

STEPS = 2**16
"""A rate is rounded to a multiple of 1 / STEPS."""


def drawn_seed() -> int:
    """Draw a seed for one forward pass from torch's generator."""
    return int(torch.randint(2**62, ()))


class Dropout:
    """The masks of one forward pass."""

    def __init__(self, seed: int) -> None:
        self._stream = np.random.Generator(np.random.SFC64(seed))

    def mask(self, shape: tuple[int, ...], rate: float) -> torch.Tensor:
        """Draw a tensor's dropout mask, int16: all 16 bits set where an element stays, none where it is dropped."""
        count = math.prod(shape)
        # Not `random_raw`: it gives the same words, but holds the GIL, so that other threads would wait.
        words = self._stream.integers(0, 2**64 - 1, size=-(-count // 4), dtype=np.uint64, endpoint=True)
        bits = torch.from_numpy(words.view(np.int16))[:count].view(shape)
        return bits.ge_(round(rate * STEPS) - STEPS // 2).neg_()


def drop_(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Set the elements that a mask drops to zero, in place; the elements that stay are not scaled."""
    if values.element_size() == 2:
        values.view(torch.int16).bitwise_and_(mask)
        return values
    return values.mul_(mask.neg())


def scale(rate: float) -> float:
    """Return the factor on the elements that stay: the inverse of the share that stays."""
    return STEPS / (STEPS - round(rate * STEPS))
