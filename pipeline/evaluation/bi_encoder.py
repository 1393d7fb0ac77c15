"""A bi-encoder as a scorer of pairs: the rival that needs no training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config.learning import Precision
from pipeline.mining.embeddings import Embedder


class BiEncoderScorer:
    """Scorer of pairs by the cosine of a sentence-transformers model's embeddings of query and passage.

    The embeddings are computed in the precision of all other scores of an evaluation.
    """

    def __init__(self, folder: Path, cache: Path, *, device: torch.device, precision: Precision) -> None:
        self._embedder = Embedder(folder, cache, device=device.type, bf16=precision is Precision.bf16)

    def score(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """Return the cosine of each pair, shape (pairs,); each distinct query and passage is embedded once."""
        queries = {text: i for i, text in enumerate(dict.fromkeys(query for query, _ in pairs))}
        passages = {text: i for i, text in enumerate(dict.fromkeys(passage for _, passage in pairs))}
        first = self._embedder.vectors(list(queries), "query").take(slice(None))
        second = self._embedder.vectors(list(passages), "passage").take(slice(None))
        a = np.fromiter((queries[query] for query, _ in pairs), np.int64, len(pairs))
        b = np.fromiter((passages[passage] for _, passage in pairs), np.int64, len(pairs))
        return np.asarray(np.einsum("ij,ij->i", first[a], second[b]), np.float32)

    def release(self) -> None:
        """Free the model's memory until the next pairs are scored."""
        self._embedder.release()
