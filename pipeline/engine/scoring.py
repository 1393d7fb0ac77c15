"""Score pairs with a cross-encoder: each text tokenised once, batches sorted by tokens under a budget.

Used by evaluation, by fixed-step evaluations and by rivals; knows nothing of measures or files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config.learning import Precision
from pipeline.core.errors import NumericsError, must
from pipeline.core.progress import bar
from pipeline.core.reproducibility import reuse_memory
from pipeline.engine import lanes
from pipeline.engine.batching import SCORING_WIDTH_STEP, Indices, cut, halved
from pipeline.engine.modeling import Reranker
from pipeline.engine.tokens import TokenTable, proven

log = logging.getLogger(__name__)


class PairScorer:
    """Logits of (query, passage) pairs under one precision.

    Texts stay tokenised between calls, so that repeated evaluations of one set cost the forward passes alone. Scores
    do not depend on the token budget beyond rounding.
    """

    def __init__(self, reranker: Reranker, *, device: torch.device, precision: Precision, token_budget: int) -> None:
        if device.type == "cpu":
            reuse_memory()
        self.reranker = reranker
        self.device = device
        self.precision = precision
        self.token_budget = token_budget
        self._template = proven(reranker.tokenizer, reranker.max_length)
        self._position: dict[str, int] = {}
        self._table = TokenTable.build([], reranker.tokenizer, reranker.max_length)

    def score(self, pairs: Sequence[tuple[str, str]], what: str = "scoring pairs") -> npt.NDArray[np.float32]:
        """One logit a pair, shape (pairs,), in the pairs' order; equal pairs are scored once.

        Raises:
            NumericsError: when a logit is not finite.
            ResourceError: when a GPU cannot hold one pair.
        """
        if not pairs:
            return np.zeros(0, np.float32)
        distinct: dict[tuple[str, str], int] = {}
        where = np.fromiter((distinct.setdefault(pair, len(distinct)) for pair in pairs), np.int64, len(pairs))
        self._tokenise(text for pair in distinct for text in pair)
        first = np.array([self._position[query] for query, _ in distinct], np.int64)
        second = np.array([self._position[passage] for _, passage in distinct], np.int64)
        scores = self._forward(first, second, what)
        if not torch.isfinite(scores).all():
            query, _ = list(distinct)[int((~torch.isfinite(scores)).nonzero()[0, 0])]
            raise NumericsError(must("a score", "be finite", f"NaN or infinity for query {query[:60]!r}",
                                     "The weights diverged: lower training.learning_rate."))  # fmt: skip
        return scores.numpy()[where]

    def _tokenise(self, texts: Iterable[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._position]
        if not new:
            return
        start = len(self._position)
        self._position.update((text, start + i) for i, text in enumerate(new))
        self._table = self._table.extended(TokenTable.build(new, self.reranker.tokenizer, self.reranker.max_length))

    def _forward(self, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], what: str) -> torch.Tensor:
        """All logits under one budget; when the GPU runs out of memory it is halved, for later calls too.

        Raises:
            ResourceError: when the longest pair is alone in its micro-batch already.
        """
        lengths, side_by_side = self._table.pair_lengths(self._template, first, second), self.reranker.lanes()
        while True:
            try:
                groups = cut(lengths, self.token_budget, side_by_side)
                return self._forward_within(groups, side_by_side, first, second, what)
            except torch.cuda.OutOfMemoryError:
                pass  # the exception holds the activations: nothing can be given back before it is gone
            torch.cuda.empty_cache()
            # From the start: scores of two budgets in one ranking would depend on when memory ran out.
            self.token_budget = halved(self.token_budget, int(lengths.max()))
            log.warning("out of GPU memory: scoring goes on with %d tokens a micro-batch", self.token_budget)

    @torch.inference_mode()
    def _forward_within(
        self, groups: list[Indices], side_by_side: int, first: npt.NDArray[np.int64],
        second: npt.NDArray[np.int64], what: str,
    ) -> torch.Tensor:  # fmt: skip
        model = self.reranker.model
        was_training = model.training
        model.eval()
        found: list[torch.Tensor] = []
        try:
            logits = self.reranker.frozen(self.precision)

            @torch.inference_mode()
            def of(group: Indices) -> torch.Tensor:
                table, template = self._table, self._template
                batch = self.reranker.collate(table, template, first[group], second[group], SCORING_WIDTH_STEP)
                return logits({name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()})

            with bar(what, len(first)) as progress:
                for group, part in zip(groups, lanes.in_order(of, groups, side_by_side), strict=True):
                    found.append(part)
                    progress.advance(len(group))
        finally:
            model.train(was_training)
        scores = torch.empty(len(first), dtype=torch.float32)
        # Fetched once: each fetch from a GPU waits for it.
        scores[torch.from_numpy(np.concatenate(groups))] = torch.cat(found).cpu()
        return scores
