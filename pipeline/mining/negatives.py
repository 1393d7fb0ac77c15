"""Which ranked passages become negatives. Pure: integer arrays in, integer arrays out, no text and no model.

Questions are numbered from 0, passages by their position in the corpus. Every draw is a function of one question's
seed alone, so it does not depend on the other questions, their order or how they are batched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.config.data import MiningConfig, Sampling
from pipeline.mining.topk import Positions, Ranking

CHUNK = 8_192
"""Questions whose masks are held at once, at most."""

CELLS = 1 << 21
"""Ranks whose masks are held at once (some 100 MiB), unless one question has more."""

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""Step of the SplitMix64 sequence."""

Seeds = npt.NDArray[np.uint64]


@dataclass(slots=True)
class Pairs:
    """(question, passage) pairs as one sorted array of keys, for membership tests on whole matrices."""

    keys: Positions
    passages: int

    @classmethod
    def of(cls, question: Positions, passage: Positions, passages: int) -> Pairs:
        """Pairs of equally long arrays; `passages` is the size of the corpus."""
        return cls(np.unique(question.astype(np.int64) * passages + passage), passages)

    def find(self, question: Positions, passage: Positions) -> tuple[npt.NDArray[np.bool_], Positions]:
        """Which pairs are among these, and the place of each in `keys` (meaningless where it is not)."""
        wanted = question.astype(np.int64) * self.passages + passage
        if not len(self.keys):
            return np.zeros(wanted.shape, np.bool_), np.zeros(wanted.shape, np.int64)
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return (self.keys[place] == wanted) & (passage >= 0), place

    @property
    def question(self) -> Positions:
        """Question of each key."""
        return self.keys // max(1, self.passages)

    @property
    def passage(self) -> Positions:
        """Passage of each key."""
        return self.keys % max(1, self.passages)


def question_seeds(questions: Sequence[str], seed: int, purpose: str) -> Seeds:
    """A 64-bit seed for each question, from its text, the run's seed and what is drawn."""
    prefix = f"{seed}\n{purpose}\n".encode()
    digests = b"".join(
        hashlib.blake2b(prefix + question.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for question in questions
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def draws(seeds: Seeds, count: int) -> Seeds:
    """Draws 1 to `count` of SplitMix64 (Steele, Lea and Flood 2014) from each seed: (seeds, count) uint64."""
    state: Seeds = seeds[:, None] + GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return state


def hard_negatives(
    ranking: Ranking,
    positives: Pairs,
    positive_scores: npt.NDArray[np.float32] | None,
    config: MiningConfig,
    seeds: Seeds,
) -> tuple[Positions, Positions]:
    """Hard negatives of each question: (question, passage) arrays, by question, best first.

    Of the ranking, in this order: positives are dropped; then whatever scores above the question's *lowest* positive
    score less the margins (equal stays); `range_max` of the rest are kept, `range_min` of those skipped, and
    `negatives` taken from the top or drawn.

    Args:
        ranking: Deep enough to hold `range_max` passages besides the positives.
        positive_scores: Score of each of `positives.keys`; None where the configuration has no margin.
        seeds: One a question, for random sampling.
    """
    size = _chunk(ranking)
    limits = None if positive_scores is None else _limits(ranking, positives, positive_scores, config)
    parts = []
    for start in range(0, len(ranking), size):
        part = slice(start, start + size)
        indices = ranking.indices[part].astype(np.int64)
        question = np.arange(start, start + len(indices))[:, None]
        keep = (indices >= 0) & ~positives.find(question, indices)[0]
        if limits is not None:
            keep &= ranking.scores[part] <= limits[part, None]
        rank = keep.cumsum(axis=1)
        keep &= (rank > config.range_min) & (rank <= config.range_max)
        match config.sampling:
            case Sampling.top:
                keep &= rank <= config.range_min + config.negatives
            case Sampling.random:
                keep = _sampled(keep, draws(seeds[part], keep.shape[1]), config.negatives)
        row, column = keep.nonzero()
        parts.append((row + start, indices[row, column]))
    return joined(parts)


def _chunk(ranking: Ranking) -> int:
    width: int = ranking.indices.shape[1]
    return max(1, min(CHUNK, CELLS // max(1, width)))


def _limits(
    ranking: Ranking, positives: Pairs, scores: npt.NDArray[np.float32], config: MiningConfig
) -> npt.NDArray[np.float32]:
    """The highest score (questions,) a negative may have."""
    scores, size = scores.copy(), _chunk(ranking)
    for start in range(0, len(ranking), size):
        indices = ranking.indices[start : start + size].astype(np.int64)
        question = np.arange(start, start + len(indices))[:, None]
        found, place = positives.find(question, indices)
        # Where the ranking has the positive, its score there was rounded as the candidates' were: "equal" means equal.
        scores[place[found]] = ranking.scores[start : start + size][found]
    lowest = np.full(len(ranking), np.inf, np.float32)
    np.minimum.at(lowest, positives.question, scores)
    limits = lowest
    if config.absolute_margin is not None:
        limits = lowest - np.float32(config.absolute_margin)
    if config.relative_margin is not None:
        # The share of the magnitude, so that a negative score's limit also lies below it.
        limits = np.minimum(limits, lowest - np.abs(lowest) * np.float32(config.relative_margin))
    return limits


def _sampled(keep: npt.NDArray[np.bool_], drawn: Seeds, count: int) -> npt.NDArray[np.bool_]:
    """`count` of the kept cells of each row, those with the smallest draws."""
    drawn = np.where(keep, drawn, np.iinfo(np.uint64).max)
    chosen = np.zeros_like(keep)
    np.put_along_axis(chosen, np.argsort(drawn, axis=1, kind="stable")[:, :count], True, axis=1)
    return chosen & keep


def random_negatives(corpus: Positions, excluded: Pairs, count: int, seeds: Seeds) -> tuple[Positions, Positions]:
    """`count` distinct passages of `corpus` for each question, none excluded: (question, passage), as drawn.

    A question for which the corpus has fewer gets those there are.
    """
    parts = []
    tries = 2 * count + 8
    for start in range(0, len(seeds) if count and len(corpus) else 0, CHUNK):
        chunk = seeds[start : start + CHUNK]
        question = np.arange(start, start + len(chunk))[:, None]
        drawn = corpus[(draws(chunk, tries) % np.uint64(len(corpus))).astype(np.int64)]
        fresh = ~excluded.find(question, drawn)[0]
        for column in range(1, tries):
            fresh[:, column] &= (drawn[:, :column] != drawn[:, column : column + 1]).all(axis=1)
        fresh &= fresh.cumsum(axis=1) <= count
        enough = fresh.sum(axis=1) == count
        row, column = (fresh & enough[:, None]).nonzero()
        found = [(row + start, drawn[row, column])]
        for row in np.flatnonzero(~enough):
            # A corpus hardly larger than what is excluded: the first of a permutation of all of it.
            permuted = corpus[np.argsort(draws(chunk[row : row + 1], len(corpus))[0], kind="stable")]
            permuted = permuted[~excluded.find(np.array(row + start), permuted)[0]][:count]
            found.append((np.full(len(permuted), row + start), permuted))
        parts += found
    return joined(parts)


def joined(parts: list[tuple[Positions, Positions]]) -> tuple[Positions, Positions]:
    """Parts as one, by question, the order within a question kept."""
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    question, passage = (np.concatenate(side) for side in zip(*parts, strict=True))
    order = np.argsort(question, kind="stable")
    return question[order], passage[order]
