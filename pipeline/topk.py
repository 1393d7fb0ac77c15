"""What a first stage is, and the best of many scores block by block. Pure: knows nothing of texts or models.

The result is what a full sort would give (score descending, index ascending), in memory that depends on the depth and
on one block, never on how many columns there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

Positions = npt.NDArray[np.int64]
"""Indices into a list of texts."""

GROUP = 64
"""Columns whose maximum is looked at first: most groups hold nothing good enough and cost one comparison."""


@dataclass(slots=True)
class Ranking:
    """The best passages of each query.

    `indices` (queries, depth) int32 into the corpus searched, -1 where fewer were found; `scores` the same shape,
    float32, -inf there. Order: score descending, corpus index ascending on ties.
    """

    indices: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return int(self.indices.shape[0])


class Searcher(Protocol):
    """A first stage over one list of passages."""

    def search(self, queries: Sequence[str], depth: int) -> Ranking:
        """The best `depth` passages of each query, by index into the passages."""

    def score(self, queries: Sequence[str], query: Positions, passage: Positions) -> npt.NDArray[np.float32]:
        """Scores (pairs,) of `queries[query[i]]` against passage `passage[i]`."""


class RunningTop:
    """The `depth` best columns of `rows` rows, over blocks of columns handed in from left to right."""

    def __init__(self, rows: int, depth: int, device: str | torch.device = "cpu") -> None:
        self._scores = torch.full((rows, depth), -math.inf, dtype=torch.float32, device=device)
        self._indices = torch.full((rows, depth), -1, dtype=torch.int32, device=device)

    def add(self, block: torch.Tensor, offset: int, above: float = -math.inf) -> None:
        """Take in columns `offset`… .

        Args:
            block: (rows, columns) float32 scores, none NaN; -inf is not found.
            offset: Index of the first column, larger than every earlier one.
            above: Only scores greater than this are found.
        """
        rows, depth = self._scores.shape
        if block.shape[1] % GROUP:
            block = torch.nn.functional.pad(block, (0, -block.shape[1] % GROUP), value=-math.inf)
        grouped = block.view(rows, -1, GROUP)
        peaks = grouped.amax(dim=2)
        bound = self._scores[:, -1]
        if peaks.shape[1] >= depth:
            # `depth` groups reach this maximum or more, so at least `depth` columns do.
            bound = torch.maximum(bound, peaks.topk(depth, dim=1).values[:, -1])
        row, group = ((peaks >= bound[:, None]) & (peaks > above)).nonzero(as_tuple=True)
        cells = grouped[row, group]
        cell, column = ((cells >= bound[row, None]) & (cells > above)).nonzero(as_tuple=True)
        self._merge(row[cell], group[cell] * GROUP + column + offset, cells[cell, column])

    def _merge(self, row: torch.Tensor, index: torch.Tensor, score: torch.Tensor) -> None:
        """Sort new hits, given by ascending row and index, in behind what is held."""
        if not row.numel():
            return
        rows, depth = self._scores.shape
        counts = torch.bincount(row, minlength=rows)
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        width = int(counts.max())
        scores = self._scores.new_full((rows, width), -math.inf)
        indices = self._indices.new_full((rows, width), -1)
        scores[row, place] = score
        indices[row, place] = index.to(torch.int32)
        scores = torch.cat([self._scores, scores], dim=1)
        indices = torch.cat([self._indices, indices], dim=1)
        # Stable, and earlier columns stand first: equal scores stay in ascending index. Padding (-inf) sorts last.
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :depth]
        self._scores, self._indices = scores.gather(1, order), indices.gather(1, order)

    def ranking(self) -> Ranking:
        """What was found so far."""
        return Ranking(self._indices.cpu().numpy(), self._scores.cpu().numpy())


def stacked(parts: list[Ranking], depth: int) -> Ranking:
    """Rankings of consecutive queries as one."""
    if not parts:
        return Ranking(np.empty((0, depth), np.int32), np.empty((0, depth), np.float32))
    return Ranking(np.concatenate([p.indices for p in parts]), np.concatenate([p.scores for p in parts]))
