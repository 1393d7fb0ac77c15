"""The rule for hard negatives, and draws that depend on each question's seed alone."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config.data import MiningConfig, Retriever, Sampling
from pipeline.mining import negatives
from pipeline.mining.negatives import Pairs, draws, hard_negatives, question_seeds, random_negatives
from pipeline.mining.topk import Ranking

RANKING = Ranking(
    np.array([[1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, -1, -1]], np.int32),
    np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], [0.5, 0.5, 0.5, -0.2, -0.4, -np.inf, -np.inf]], np.float32),
)


def config(**keys: object) -> MiningConfig:
    return MiningConfig(**{"retriever": Retriever.bm25, "negatives": 2, "range_max": 4, **keys})  # type: ignore[arg-type]


def pairs(listed: list[tuple[int, int]]) -> Pairs:
    return Pairs.of(np.array([q for q, _ in listed], np.int64), np.array([p for _, p in listed], np.int64), 100)


def chosen(positives: list[tuple[int, int]], scores: list[float] | None, **keys: object) -> list[list[int]]:
    own = None if scores is None else np.array(scores, np.float32)
    seeds = question_seeds(["one", "two"], 12, "hard")
    question, passage = hard_negatives(RANKING, pairs(positives), own, config(**keys), seeds)
    return [passage[question == row].tolist() for row in range(2)]


@pytest.mark.parametrize(
    ("positives", "scores", "keys", "expected"),
    [
        ([(0, 1), (1, 9)], None, {}, [[2, 3], [7, 6]]),
        ([(0, 1), (1, 9)], None, {"range_min": 1, "range_max": 3}, [[3, 4], [6, 5]]),
        # Two of three ranks are positives or skipped: the range counts what remains.
        ([(0, 1), (0, 3), (1, 9)], None, {"range_min": 2, "range_max": 4}, [[5, 6], [5, 4]]),
        # The lowest positive (0.6, then 0.5) decides, and a score equal to it stays.
        ([(0, 2), (0, 4), (1, 6)], [0.8, 0.6, 0.5], {"absolute_margin": 0.0}, [[5, 6], [7, 5]]),
        ([(0, 4), (1, 6)], [0.6, 0.5], {"absolute_margin": 0.15}, [[6, 7], [4, 3]]),
        # 10 % of the magnitude below: 0.54 for 0.6; with -0.2 a negative scores at most -0.22.
        ([(0, 4), (1, 4)], [0.6, -0.2], {"relative_margin": 0.1}, [[5, 6], [3]]),
        ([(0, 4), (1, 4)], [0.6, -0.2], {"relative_margin": 0.0}, [[5, 6], [3]]),
        # A positive that was not ranked counts with its own score; an imported run that lacks it gives -inf.
        ([(0, 50), (1, 51)], [0.45, -np.inf], {"absolute_margin": 0.0}, [[6, 7], []]),
        ([(0, 50), (1, 51)], [0.45, -np.inf], {"relative_margin": 0.1}, [[6, 7], []]),
        # 10 % of the magnitude below -0.38 lies below -0.4.
        ([(0, 4), (1, 51)], [0.6, -0.38], {"relative_margin": 0.1}, [[5, 6], []]),
        # Of two margins the wider one decides.
        ([(0, 4), (1, 6)], [0.6, 0.5], {"absolute_margin": 0.3, "relative_margin": 0.1}, [[7], [4, 3]]),
        ([(0, 4), (1, 6)], [0.6, 0.5], {"absolute_margin": 0.0, "relative_margin": 0.3}, [[6, 7], [4, 3]]),
        # Empty ranks (-1) are not taken for the last passage of the corpus, positive of the question before.
        ([(0, 99), (1, 6)], [0.45, 0.5], {"absolute_margin": 0.0}, [[6, 7], [7, 5]]),
    ],
    ids=[
        "top",
        "range",
        "range-of-the-rest",
        "lowest",
        "absolute",
        "relative",
        "relative-0",
        "unranked",
        "unranked-2",
        "below-zero",
        "absolute-of-both",
        "relative-of-both",
        "last-passage",
    ],
)
def test_hard_negatives_follow_the_rule(
    positives: list[tuple[int, int]], scores: list[float] | None, keys: dict[str, object], expected: list[list[int]]
) -> None:
    assert chosen(positives, scores, **keys) == expected


@pytest.mark.parametrize(
    ("margins", "limit"),
    [
        ({"absolute_margin": -0.5}, 1.5),
        ({"relative_margin": -0.5}, 1.5),
        ({"relative_margin": -0.5, "absolute_margin": -0.25}, 1.25),
    ],
)
def test_negative_margins_allow_passages_above_the_positive(margins: dict[str, float], limit: float) -> None:
    scores = np.array([[2.0, 1.4, 1.2, 1.0]], np.float32)
    ranking = Ranking(np.array([[1, 2, 3, 0]], np.int32), scores)
    positives = Pairs.of(np.array([0]), np.array([0]), 4)
    found = hard_negatives(
        ranking, positives, np.array([1.0], np.float32), MiningConfig(retriever=Retriever.bm25, negatives=3, **margins),
        question_seeds(["q"], 1, "hard"),
    )  # fmt: skip
    assert found[1].tolist() == [p for p, score in zip([1, 2, 3], scores[0], strict=False) if score <= limit]


def test_ties_with_a_positive_are_judged_by_the_rankings_scores() -> None:
    # The same pair scored apart may differ in the last bit; passage 7 ties with positive 6 in the ranking.
    assert chosen([(0, 1), (1, 6)], [0.9, np.nextafter(np.float32(0.5), 0)], absolute_margin=0.0)[1] == [7, 5]


def test_hard_negatives_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = chosen([(0, 2), (1, 6)], [0.8, 0.5], absolute_margin=0.0, sampling=Sampling.random)
    monkeypatch.setattr(negatives, "CHUNK", 1)
    assert chosen([(0, 2), (1, 6)], [0.8, 0.5], absolute_margin=0.0, sampling=Sampling.random) == whole


def test_random_sampling_is_uniform_over_the_range() -> None:
    count = 4000
    ranking = Ranking(
        np.tile(np.arange(10, dtype=np.int32), (count, 1)), np.tile(-np.arange(10, dtype=np.float32), (count, 1))
    )
    sampled = config(sampling=Sampling.random, range_min=2, range_max=8, negatives=2)
    seeds = question_seeds([f"q{n}" for n in range(count)], 12, "hard")
    question, passage = hard_negatives(ranking, pairs([]), None, sampled, seeds)
    drawn = np.bincount(passage, minlength=10)
    # Each of 6 ranks is drawn with probability 1/3: 1333 of 4000, standard deviation 30.
    assert drawn[:2].sum() == drawn[8:].sum() == 0
    assert np.abs(drawn[2:8] - count / 3).max() < 150
    assert (np.diff(passage.reshape(-1, 2), axis=1) > 0).all(), "best first"
    assert question.tolist() == np.repeat(np.arange(count), 2).tolist()


def test_random_sampling_takes_all_if_fewer_remain() -> None:
    ranking = Ranking(np.arange(10, dtype=np.int32)[None], -np.arange(10, dtype=np.float32)[None])
    sampled = config(sampling=Sampling.random, range_min=8, range_max=11, negatives=3)
    seeds = question_seeds(["one"], 12, "hard")
    assert hard_negatives(ranking, pairs([]), None, sampled, seeds)[1].tolist() == [8, 9]


def test_draws_are_splitmix64() -> None:
    # The first outputs for seed 1234567, as published with the generator.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert draws(np.array([1234567], np.uint64), 3)[0].tolist() == expected


def test_seeds_depend_on_text_seed_and_purpose() -> None:
    seeds = {
        int(question_seeds([text], seed, purpose)[0])
        for text in ("a", "b")
        for seed in (1, 2)
        for purpose in ("hard", "random")
    }
    assert len(seeds) == 8


def test_random_negatives_are_distinct_and_never_excluded() -> None:
    corpus = np.array([3, 5, 7, 11, 13])
    excluded = pairs([(0, 3), (0, 5), (1, 3), (1, 5), (1, 7), (1, 11), (2, 99)])
    seeds = question_seeds(["a", "b", "c"], 12, "random")
    question, passage = random_negatives(corpus, excluded, 3, seeds)
    assert sorted(passage[question == 0]) == [7, 11, 13]
    assert passage[question == 1].tolist() == [13]
    assert len(set(passage[question == 2])) == 3
    assert question.tolist() == sorted(question)
    assert random_negatives(corpus, excluded, 0, seeds)[0].size == 0
    assert random_negatives(corpus[:0], excluded, 2, seeds)[0].size == 0


def test_random_negatives_are_the_first_draws_not_excluded() -> None:
    corpus, seeds = np.arange(0, 60, 2), question_seeds(["a", "b", "c"], 12, "random")
    question, passage = random_negatives(corpus, pairs([(1, p) for p in range(30)]), 2, seeds)
    for row in range(3):
        drawn = corpus[(draws(seeds[row : row + 1], 12)[0] % np.uint64(30)).astype(np.int64)].tolist()
        fresh = [p for p in dict.fromkeys(drawn) if row != 1 or p >= 30]
        assert len(fresh) > 2 and passage[question == row].tolist() == fresh[:2]


def test_random_negatives_are_uniform_over_the_corpus() -> None:
    seeds = question_seeds([f"q{n}" for n in range(5000)], 12, "random")
    _, passage = random_negatives(np.arange(50), pairs([]), 2, seeds)
    # 10,000 draws over 50 passages: 200 each, standard deviation 14.
    assert np.abs(np.bincount(passage, minlength=50) - 200).max() < 70
