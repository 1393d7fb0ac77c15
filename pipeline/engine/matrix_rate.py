"""The measured speed at which this machine multiplies large matrices, with which other rates are compared."""

from __future__ import annotations

import time

import torch

from pipeline.config.learning import Precision


def matrix_rate(rows: int, inner: int, columns: int, device: torch.device, precision: Precision) -> float:
    """Return the floating-point operations per second of a linear layer's product: the best trial within a second.

    On a GPU a trial is up to 50 products, as many as fit into a fifth of a second: waiting for a single product may
    take longer than the product itself.
    """
    kind = torch.bfloat16 if precision is Precision.bf16 else torch.float32
    left = torch.randn(rows, inner, dtype=kind, device=device)
    right = torch.randn(columns, inner, dtype=kind, device=device)

    def seconds(products: int) -> float:
        began = time.perf_counter()
        for _ in range(products):
            torch.nn.functional.linear(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - began) / products

    best, products, until = float("inf"), 1, time.perf_counter() + 1.0
    if device.type == "cuda":
        seconds(1)  # the first call loads libraries
        products = max(1, min(50, int(0.2 / seconds(1))))
    while time.perf_counter() < until:
        best = min(best, seconds(products))
    return 2.0 * rows * inner * columns / best
