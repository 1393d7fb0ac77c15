"""A packed batch from what the host says of it: rows of token ids, types and positions, put together on their device.

The host sends where runs of tokens lie, a few numbers a pair; the tokens of a whole training set stay on a GPU where
they fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline.engine.packed_attention import Layout


@dataclass(slots=True)
class Rows:
    """One row a token, pairs one after another."""

    ids: torch.Tensor
    """(tokens,) int64 or int32."""
    kinds: torch.Tensor
    """(tokens,) int64: token types."""
    layout: Layout

    @classmethod
    def of(cls, batch: dict[str, torch.Tensor]) -> Rows:
        """The rows of a batch made by `collation.pack`; waits for no device."""
        widths, offsets, parts = batch["widths"], batch["offsets"], len(batch["kinds"])
        _, tokens, longest = batch["extent"].shape
        place = torch.arange(tokens, device=widths.device)
        run = torch.repeat_interleave(widths, output_size=tokens)
        pair = torch.div(run, parts, rounding_mode="floor")
        position = place - batch["starts"].long().index_select(0, pair)
        ids = batch["ids"].index_select(0, offsets.index_select(0, run).add_(place))
        kinds = batch["kinds"].index_select(0, run - pair * parts)
        return cls(ids, kinds, Layout(batch["starts"], pair, position, longest))
