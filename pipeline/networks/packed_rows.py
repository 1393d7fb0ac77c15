"""A packed batch composed on its device: rows of token ids, types and positions.

The host sends only where runs of tokens lie, a few numbers per pair. The tokens of a whole training set stay on the GPU
if they fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline.networks.packed_attention import Layout


@dataclass(slots=True)
class Rows:
    """One row per token, one pair after another."""

    ids: torch.Tensor
    """(tokens,) int64 or int32."""
    token_type_ids: torch.Tensor
    """(tokens,) int64."""
    layout: Layout

    @classmethod
    def of(cls, batch: dict[str, torch.Tensor]) -> Rows:
        """Return the rows of a batch made by `collation.pack`, without waiting for the device."""
        widths, offsets, parts = batch["widths"], batch["offsets"], len(batch["token_types"])
        _, tokens, longest = batch["extent"].shape
        place = torch.arange(tokens, device=widths.device)
        run = torch.repeat_interleave(widths, output_size=tokens)
        pair = torch.div(run, parts, rounding_mode="floor")
        position = place - batch["starts"].long().index_select(0, pair)
        ids = batch["ids"].index_select(0, offsets.index_select(0, run).add_(place))
        token_type_ids = batch["token_types"].index_select(0, run - pair * parts)
        return cls(ids, token_type_ids, Layout(batch["starts"], pair, position, longest))
