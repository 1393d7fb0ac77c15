"""Choice of negatives among ranked passages. Pure: arrays in, arrays out, no model; texts only seed the draws.

Questions are numbered from 0, passages by their position in the corpus. Every draw depends on one question's seed
alone, not on the other questions, their order or how they are batched.
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
"""Most questions whose masks are held at once."""

CELLS = 1 << 21
"""Most ranks whose masks are held at once (some 100 MiB), unless one question alone has more."""

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""Increment of the SplitMix64 sequence."""

Seeds = npt.NDArray[np.uint64]


@dataclass(slots=True)
class Pairs:
    """(question, passage) pairs as one sorted array of integer keys, for membership tests on whole matrices."""

    keys: Positions
    passages: int

    @classmethod
    def of(cls, question: Positions, passage: Positions, passages: int) -> Pairs:
        """Encode the pairs of two arrays of equal length; `passages` is the size of the corpus."""
        return cls(np.unique(question.astype(np.int64) * passages + passage), passages)

    def find(self, question: Positions, passage: Positions) -> tuple[npt.NDArray[np.bool_], Positions]:
        """Return which of the given pairs are present, and the place of each in `keys` (meaningless if absent)."""
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
    """Return a 64-bit seed for each question, from its text, the run's seed and the purpose of the draws."""
    prefix = f"{seed}\n{purpose}\n".encode()
    digests = b"".join(
        hashlib.blake2b(prefix + question.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for question in questions
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def draws(seeds: Seeds, count: int) -> Seeds:
    """Return draws 1 to `count` of SplitMix64 (Steele, Lea and Flood 2014) from each seed: (seeds, count) uint64."""
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
    """Return the hard negatives of each question as (question, passage) arrays, by question, best first.

    From each question's ranking:
    1. drop the positives;
    2. if a margin is configured, drop passages that score above the question's *lowest* positive score less the margin
       (equal scores stay);
    3. of the rest, keep the first `range_max`, and skip the first `range_min` of those;
    4. take `negatives` of them from the top, or draw that many.

    Args:
        ranking: Deep enough to hold `range_max` passages besides the positives.
        positive_scores: Score of each of `positives.keys`; None if the configuration has no margin.
        seeds: One per question, for random sampling.
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
    """Return the highest score (questions,) that a negative may have; with two margins, the lower limit holds."""
    scores, size = scores.copy(), _chunk(ranking)
    for start in range(0, len(ranking), size):
        indices = ranking.indices[start : start + size].astype(np.int64)
        question = np.arange(start, start + len(indices))[:, None]
        found, place = positives.find(question, indices)
        # If the ranking has the positive, take its score there: it is rounded like the candidates' scores, so that
        # equal scores compare as equal.
        scores[place[found]] = ranking.scores[start : start + size][found]
    lowest = np.full(len(ranking), np.inf, np.float32)
    np.minimum.at(lowest, positives.question, scores)
    limits = np.full_like(lowest, np.inf)
    if config.absolute_margin is not None:
        limits = np.minimum(limits, lowest - np.float32(config.absolute_margin))
    if config.relative_margin is not None:
        # A share of the absolute value, so that the limit lies below a negative score too.
        limits = np.minimum(limits, lowest - np.abs(lowest) * np.float32(config.relative_margin))
    return limits


def _sampled(keep: npt.NDArray[np.bool_], drawn: Seeds, count: int) -> npt.NDArray[np.bool_]:
    """Return a mask of `count` kept cells in each row: those with the smallest draws."""
    drawn = np.where(keep, drawn, np.iinfo(np.uint64).max)
    chosen = np.zeros_like(keep)
    np.put_along_axis(chosen, np.argsort(drawn, axis=1, kind="stable")[:, :count], True, axis=1)
    return chosen & keep


def random_negatives(corpus: Positions, excluded: Pairs, count: int, seeds: Seeds) -> tuple[Positions, Positions]:
    """Draw `count` distinct passages of `corpus`, none excluded, for each question: (question, passage), as drawn.

    A question for which fewer passages remain gets all of them.
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
            # The corpus is hardly larger than what is excluded: take the first of a permutation of all of it.
            permuted = corpus[np.argsort(draws(chunk[row : row + 1], len(corpus))[0], kind="stable")]
            permuted = permuted[~excluded.find(np.array(row + start), permuted)[0]][:count]
            found.append((np.full(len(permuted), row + start), permuted))
        parts += found
    return joined(parts)


def joined(parts: list[tuple[Positions, Positions]]) -> tuple[Positions, Positions]:
    """Concatenate the parts and sort by question, keeping the order within a question."""
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    question, passage = (np.concatenate(side) for side in zip(*parts, strict=True))
    order = np.argsort(question, kind="stable")
    return question[order], passage[order]
