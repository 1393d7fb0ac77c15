"""Score pairs with a cross-encoder: texts are tokenised once and micro-batches sorted by length, under a token budget.

Used by evaluation, by fixed-step evaluations and by rivals; knows nothing of measures or files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config.learning import Precision
from pipeline.core.allocation import reuse_memory
from pipeline.core.errors import NumericsError, must, out_of_gpu_memory
from pipeline.core.progress import bar
from pipeline.engine import lanes
from pipeline.engine.modeling import Batch, Reranker
from pipeline.inputs import collation
from pipeline.inputs.batching import SCORING_WIDTH_STEP, Indices, halved, split_into_micro_batches
from pipeline.inputs.tokens import TokenTable
from pipeline.networks import shared_rows

log = logging.getLogger(__name__)

KEPT_TOKENS = 2**22
"""Most tokens, padding not counted, of the pairs remembered for later calls. A token takes 8 to 26 bytes; where a GPU
keeps the texts' tokens, a pair takes about 90 bytes instead."""


class PairScorer:
    """Computes the logits of (query, passage) pairs at one precision.

    Texts stay tokenised between calls. When the same pairs are scored again, their micro-batches are kept, up to
    `KEPT_TOKENS`: from the third call on, scoring costs hardly more than the forward passes. The token budget changes
    scores by rounding only.
    """

    def __init__(self, reranker: Reranker, *, device: torch.device, precision: Precision, token_budget: int) -> None:
        """Check how the tokenizer composes pairs; no text to be scored is tokenised yet.

        Args:
            reranker: its model must be on `device`; `score` puts it in evaluation mode while it runs.
            device: where batches go.
            precision: of the forward passes.
            token_budget: tokens of a micro-batch, as `batching.split_into_micro_batches` takes it; halved when a GPU
                runs out of memory.

        Raises:
            ModelError: when the tokenizer does not compose pairs from independent texts, see
                `collation.checked_template`.
        """
        if device.type == "cpu":
            reuse_memory()
        self.reranker = reranker
        self.device = device
        self.precision = precision
        self.token_budget = token_budget
        self._template = collation.checked_template(reranker.tokenizer, reranker.max_length)
        self._position: dict[str, int] = {}
        self._table = TokenTable.build([], reranker.tokenizer, reranker.max_length)
        self._known: dict[tuple[tuple[str, str], ...], _DistinctPairs] = {}  # by the pairs of a call
        self._room = KEPT_TOKENS

    def score(self, pairs: Sequence[tuple[str, str]], what: str = "scoring pairs") -> npt.NDArray[np.float32]:
        """Return one logit per pair, shape (pairs,), in the order of the pairs; equal pairs are scored once.

        Raises:
            NumericsError: when a logit is not finite.
            ResourceError: when a GPU cannot hold one pair.
        """
        if not pairs:
            return np.zeros(0, np.float32)
        distinct = self._remembered(pairs)
        scores = self._forward(distinct, what)[distinct.where]
        if not np.isfinite(scores).all():
            query, _ = pairs[int((~np.isfinite(scores)).argmax())]
            raise NumericsError(must("a score", "be finite", f"NaN or infinity for query {query[:60]!r}",
                                     "If training has begun, the weights diverged: lower training.learning_rate. "
                                     "If not, choose another model.path."))  # fmt: skip
        return scores

    def _remembered(self, pairs: Sequence[tuple[str, str]]) -> _DistinctPairs:
        """Return the distinct pairs among `pairs`; the same object again for a call with the same pairs."""
        key = tuple(pairs)
        if known := self._known.get(key):
            known.again = True
            return known
        numbers: dict[tuple[str, str], int] = {}
        where = np.fromiter((numbers.setdefault(pair, len(numbers)) for pair in pairs), np.int64, len(pairs))
        self._tokenise(text for pair in numbers for text in pair)
        first = np.array([self._position[query] for query, _ in numbers], np.int64)
        second = np.array([self._position[passage] for _, passage in numbers], np.int64)
        lengths = self._table.pair_lengths(self._template, first, second)
        tokens = int(lengths.sum())
        distinct = _DistinctPairs(where, first, second, lengths, self._shared(first, second, lengths, tokens))
        if tokens <= self._room:
            self._known[key], self._room = distinct, self._room - tokens
        return distinct

    def _shared(self, first: Indices, second: Indices, lengths: Indices, tokens: int) -> Indices | None:
        """Return the keys of the rows that many of the pairs share; None if sharing would not save enough."""
        most = self.reranker.most_shared(self.precision)
        if not most:
            return None
        sample = np.argsort(-lengths, kind="stable")[:: -(-tokens // shared_rows.LOOKED_AT)]
        batch = collation.blocks(self._table, self._template, first[sample], second[sample], SCORING_WIDTH_STEP)
        common, share = shared_rows.commonest(shared_rows.keys(batch), most)
        return common if share - len(common) / tokens >= shared_rows.LEAST else None

    def _tokenise(self, texts: Iterable[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._position]
        if not new:
            return
        start = len(self._table)  # not len(self._position): an interrupt may have come between their updates
        self._table = self._table.extended(TokenTable.build(new, self.reranker.tokenizer, self.reranker.max_length))
        self._position.update((text, start + i) for i, text in enumerate(new))
        if self.device.type == "cuda":  # kept micro-batches would keep the shorter table's tokens on the GPU
            for distinct in self._known.values():
                distinct.batches.clear()

    def _forward(self, distinct: _DistinctPairs, what: str) -> npt.NDArray[np.float32]:
        """Return all logits under one budget, which is halved when the GPU runs out of memory, for later calls too.

        Raises:
            ResourceError: when the longest pair is already alone in its micro-batch.
        """
        side_by_side = self.reranker.lanes()
        self.reranker.keep_tokens(self._table, self._template)
        while True:
            distinct.prepare(self.token_budget, side_by_side, is_padded=self.reranker.is_padded(self.precision))
            try:
                return self._forward_within(distinct, side_by_side, what)
            except RuntimeError as error:
                if not out_of_gpu_memory(error):
                    raise
            # Only here, outside `except`: the exception keeps the activations alive.
            torch.cuda.empty_cache()
            # All pairs are scored again: with two budgets in one ranking, scores would depend on when memory ran out.
            self.token_budget = halved(self.token_budget, int(distinct.lengths.max()))
            log.warning("out of GPU memory: scoring continues with %d tokens per micro-batch", self.token_budget)

    @torch.inference_mode()
    def _forward_within(self, distinct: _DistinctPairs, side_by_side: int, what: str) -> npt.NDArray[np.float32]:
        model = self.reranker.model
        was_training = model.training
        model.eval()
        parts: list[torch.Tensor] = []
        try:
            logits = self.reranker.frozen(self.precision, distinct.shared)

            @torch.inference_mode()
            def of(number: int) -> torch.Tensor:
                return logits(self._batch(distinct, number))

            with bar(what, len(distinct.first)) as progress:
                numbers = range(len(distinct.groups))
                for group, part in zip(distinct.groups, lanes.in_order(of, numbers, side_by_side), strict=True):
                    parts.append(part)
                    progress.advance(len(group))
        finally:
            model.train(was_training)
        scores = np.empty(len(distinct.first), np.float32)
        # Fetched once: each fetch waits for the GPU.
        scores[np.concatenate(distinct.groups)] = torch.cat(parts).cpu().numpy()
        return scores

    def _batch(self, distinct: _DistinctPairs, number: int) -> Batch:
        """Return a micro-batch on the device."""
        batch = distinct.batches.get(number)
        if batch is None:
            group = distinct.groups[number]
            first, second = distinct.first[group], distinct.second[group]
            batch = self.reranker.collate(self._table, self._template, first, second, SCORING_WIDTH_STEP)
            if distinct.shared is not None:
                batch = shared_rows.split(batch, distinct.shared)
            if distinct.again:
                distinct.batches[number] = batch
        # Copied each time, except the texts' tokens: GPU memory that stayed in use would be missing in training.
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}


@dataclass(slots=True)
class _DistinctPairs:
    """The distinct pairs of a call, and what later calls with the same pairs need not compute again."""

    where: Indices
    """(pairs,): each pair's index into the distinct pairs."""
    first: Indices
    """(distinct pairs,): the number in the table of each pair's query."""
    second: Indices
    """(distinct pairs,): the number in the table of each pair's passage."""
    lengths: Indices
    """(distinct pairs,): tokens of each pair."""
    shared: Indices | None
    """Keys of the rows that many of the pairs share, see `shared_rows`; None: no row is shared."""
    again: bool = False
    """Whether an earlier call had the same pairs: only then are micro-batches kept."""
    groups: list[Indices] = field(default_factory=list)
    """The distinct pairs of each micro-batch."""
    batches: dict[int, Batch] = field(default_factory=dict)
    """Micro-batches that were kept, by their index in `groups`."""
    limits: tuple[int, int] | None = None
    """The token budget and the number of lanes for which `groups` was made."""

    def prepare(self, token_budget: int, side_by_side: int, *, is_padded: bool) -> None:
        """Split the pairs into micro-batches for a token budget and a number of lanes, unless that is already done."""
        if self.limits != (token_budget, side_by_side):
            self.limits = None  # until the groups are made: an interrupt may come before that
            self.batches.clear()
            self.groups = split_into_micro_batches(self.lengths, token_budget, side_by_side, is_padded=is_padded)
            self.limits = (token_budget, side_by_side)
