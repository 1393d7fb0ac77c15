from __future__ import annotations

import math
import random
import re
import unicodedata
from pathlib import Path

import bm25s
import numpy as np
import pytest

from pipeline.mining.bm25 import K1, B, Bm25, bm25_run
from pipeline.mining.imported_run import ImportedRun
from pipeline.mining.stems import Stems
from pipeline.mining.words import UNSEEN, UNSPACED, split_words

PASSAGES = [
    "The cat sat with other cats on the mat",
    "a dog barked",
    "Dogs and CATS, running",
    "",
    "the of and",
    "a dog barked",
]


def lucene(term_counts: list[dict[str, int]], query: list[str]) -> list[float]:
    """BM25 by its formula: idf = ln(1 + (N - n + 0.5) / (n + 0.5)), tf / (tf + k1 (1 - b + b length / mean length))."""
    lengths = [sum(counts.values()) for counts in term_counts]
    mean = sum(lengths) / len(lengths)
    scores = []
    for counts, length in zip(term_counts, lengths, strict=True):
        score = 0.0
        for term in query:
            n = sum(term in other for other in term_counts)
            idf = math.log(1 + (len(term_counts) - n + 0.5) / (n + 0.5))
            tf = counts.get(term, 0)
            score += idf * tf / (tf + K1 * (1 - B + B * length / mean))
        scores.append(score)
    return scores


def test_scores_are_lucenes_formula_over_stems() -> None:
    # "with" is a stop word and "a" too short; "sat", "other" and "run" stay.
    counts = [
        {"cat": 2, "sat": 1, "other": 1, "mat": 1},
        {"dog": 1, "bark": 1},
        {"dog": 1, "cat": 1, "run": 1},
        {},
        {},
        {"dog": 1, "bark": 1},
    ]
    expected = lucene(counts, ["cat", "dog", "cat"])
    searcher = Bm25(PASSAGES)
    queries = ["nothing known here", "Cats and dogs, cat!"]
    scores = searcher.score(queries, np.full(6, 1), np.arange(6))
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert searcher.score(queries, np.zeros(6, np.int64), np.arange(6)).tolist() == [0.0] * 6
    found = searcher.search(queries, 5)
    # Passages 1 and 5 are equal: the first stands first. Passages 3 and 4 share no term and are not found.
    assert found.indices.tolist() == [[-1] * 5, [2, 0, 1, 5, -1]]
    np.testing.assert_allclose(found.scores[1][:4], [expected[index] for index in (2, 0, 1, 5)], rtol=1e-6)


def test_a_run_carries_the_collections_ids() -> None:
    passages = dict(zip("uvwxyz", PASSAGES, strict=True))
    run = bm25_run({"q2": "cats", "q1": "barking", "q3": "?"}, passages, 2)
    assert {query: list(found) for query, found in run.items()} == {"q2": ["u", "w"], "q1": ["v", "z"], "q3": []}
    assert list(run) == ["q2", "q1", "q3"]
    assert run["q1"]["v"] == run["q1"]["z"] > 0


@pytest.mark.parametrize("passages", [[], ["", "the"]], ids=["none", "blank"])
def test_a_corpus_without_terms_finds_nothing(passages: list[str]) -> None:
    assert Bm25(passages).search(["cats"], 2).indices.tolist() == [[-1, -1]]


def test_a_search_in_parts_is_the_search_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    texts = [" ".join(f"word{number}" for number in draw.integers(0, 60, 9)) for _ in range(300)]
    whole = Bm25(texts).search(texts[:40], 20)
    monkeypatch.setattr("pipeline.mining.bm25.QUERIES", 7)
    parts = Bm25(texts).search(texts[:40], 20)
    assert parts.indices.tolist() == whole.indices.tolist()
    assert parts.scores.tolist() == whole.scores.tolist()


def drawn_texts(count: int, vocabulary: int, seed: int) -> list[str]:
    """Texts of stems that are rarer the higher their number, as words are; none in some."""
    draw = np.random.default_rng(seed)
    return [
        " ".join(f"w{int(number)}x" for number in vocabulary * draw.random(draw.integers(0, 12)) ** 3)
        for _ in range(count)
    ]


@pytest.mark.parametrize("vocabulary", [3, 40, 2000])
def test_weights_are_those_of_the_library_to_the_last_bit(vocabulary: int) -> None:
    texts = drawn_texts(500, vocabulary, seed=3)
    searcher = Bm25(texts)
    vocab: dict[str, int] = {}
    ids = [[vocab.setdefault(word, len(vocab)) for word in text.split()] for text in texts]
    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    index.index((ids, vocab), create_empty_token=False, show_progress=False)
    for name in ("data", "indices", "indptr"):
        assert np.array_equal(getattr(searcher._postings, name), index.scores[name]), name


@pytest.mark.parametrize("depth", [1, 3, 30, 400])
@pytest.mark.parametrize("vocabulary", [3, 40, 2000])
def test_a_search_is_a_full_sort_of_all_scores(vocabulary: int, depth: int) -> None:
    # Few words make many passages that tie, also at the last rank.
    texts, queries = drawn_texts(400, vocabulary, seed=4), drawn_texts(60, vocabulary, seed=5)
    searcher = Bm25(texts)
    scores = (searcher._counts(queries) @ searcher._postings).toarray()
    found = searcher.search(queries, depth)
    for row, of in enumerate(scores):
        best = [place for place in np.argsort(-of, kind="stable") if of[place] > 0][:depth]
        assert found.indices[row].tolist() == best + [-1] * (depth - len(best))
        assert found.scores[row].tolist() == of[best].tolist() + [-math.inf] * (depth - len(best))


def test_a_part_is_searched_as_if_nothing_stood_beside_it() -> None:
    texts, queries = drawn_texts(300, 50, seed=6), [*drawn_texts(40, 80, seed=7), "of the"]
    stems, part = Stems(texts), np.array([7, 3, *range(20, 290, 2)])
    alone, beside = Bm25([texts[place] for place in part]), Bm25(stems, part)
    one, other = alone.search(queries, 20), beside.search(queries, 20)
    assert one.indices.tolist() == other.indices.tolist()
    assert one.scores.tobytes() == other.scores.tobytes()
    pairs = np.arange(40), np.arange(40)
    assert alone.score(queries, *pairs).tobytes() == beside.score(queries, *pairs).tobytes()
    assert Bm25(stems, np.empty(0, np.int64)).search(queries, 2).indices.tolist() == [[-1, -1]] * len(queries)


def test_an_imported_run_ranks_by_score_then_passage() -> None:
    run = ImportedRun({"a": {4: 1.0, 2: 3.0, 1: 1.0}})
    found = run.search(["a", "b"], 2)
    assert found.indices.tolist() == [[2, 1], [-1, -1]]
    assert found.scores.tolist() == [[3.0, 1.0], [-math.inf, -math.inf]]
    assert run.score(["a", "b"], np.array([0, 0, 1]), np.array([4, 3, 4])).tolist() == [1.0, -math.inf, -math.inf]


@pytest.mark.parametrize(("name", "expected"), [("scifact", 0.676), ("nfcorpus-stopped", 0.328)])
def test_ndcg_is_the_published_one(name: str, expected: float) -> None:
    import ir_measures

    from pipeline.data.beir import read_beir
    from pipeline.evaluation.reranking import run_candidates

    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "collections" / name
    if not folder.is_dir():
        pytest.skip("the shared collections are not beside this checkout")
    collection = read_beir(folder)
    candidates = run_candidates(bm25_run(collection.queries, collection.passages, 100), 100)
    run = {query: {p: -float(rank) for rank, p in enumerate(ranked)} for query, ranked in candidates.items()}
    measured = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], collection.qrels, run)
    assert measured[ir_measures.nDCG @ 10] == pytest.approx(expected, abs=0.0006)


def test_scripts_without_spaces_are_searched_by_pairs_of_characters() -> None:
    passages = ["北京是中国的首都", "我喜欢编程 Python语言", "ภาษาไทยไม่มีช่องว่าง", "東京タワーの高さ", "猫"]
    found = Bm25(passages).search(["中国首都", "python编程", "ช่องว่าง", "タワー", "猫", "the cat"], 2)
    assert found.indices[:, 0].tolist() == [0, 1, 2, 3, 4, -1]


def test_pairs_of_characters_stand_between_words_as_they_were() -> None:
    assert split_words("a big cat's 7 x-rays") == ["big", "cat", "rays"]
    assert split_words("naïve café größe über") == ["naïve", "café", "größe", "über"]
    assert split_words("人々の暮らし、カラオケ・バー")[:2] == ["人々", "々の"] and "ケ・" not in split_words(
        "カラオケ・バー"
    )
    assert split_words("gpt4是模型 ok 我") == ["gpt4", "是模", "模型", "ok", "我"]


def reciprocal_rank(questions: list[str], passages: list[str]) -> float:
    """The mean over questions of one over the rank of their own passage, the one in their place."""
    found = Bm25(passages).search(questions, len(passages)).indices
    ranks = [np.flatnonzero(row == own) for own, row in enumerate(found)]
    return sum(1 / (int(rank[0]) + 1) for rank in ranks if len(rank)) / len(ranks)


@pytest.mark.parametrize(
    ("letters", "signs"),
    [
        ("कखगघचजटडतदनपबमयरलवसह", "\u093e\u093f\u0940\u0941\u0947\u094b\u0902"),  # Hindi, every letter with a sign
        ("கசடதபறயரலவ", "\u0bbe\u0bbf\u0bc0\u0bc1\u0bc6\u0bca\u0bcd"),  # Tamil
        ("بتثجحدرسصطعفقكلمن", "\u064e\u064f\u0650\u0651\u0652"),  # vocalised Arabic
        ("aeiou", "\u0301\u0300\u0308\u0302"),  # Latin, decomposed
    ],
    ids=["hindi", "tamil", "arabic", "nfd"],
)
def test_words_with_combining_marks_are_found(letters: str, signs: str) -> None:
    draw = random.Random(7)
    words = ["".join(draw.choice(letters) + draw.choice(signs) for _ in range(4)) for _ in range(600)]
    passages = [draw.sample(words, 12) for _ in range(200)]
    questions = [" ".join(draw.sample(passage, 4)) for passage in passages]
    texts = [" ".join(passage) for passage in passages]
    assert reciprocal_rank(questions, texts) > 0.98
    # In whichever of the two forms the texts are.
    assert reciprocal_rank(questions, [unicodedata.normalize("NFC", text) for text in texts]) > 0.98


def test_a_word_keeps_its_marks_and_a_joiner_is_none_of_it() -> None:
    assert split_words("हिन्दी में किताब") == ["हिन्दी", "में", "किताब"]
    assert split_words("ශ්\u200dරී லங்கா") == ["ශ්රී", "லங்கா"]
    assert split_words("the infor\u00admation\ufeff desk") == ["the", "information", "desk"]
    assert split_words("cafe\u0301 \u0301\u0302 x") == ["café"]


MARKLESS = "".join(c for c in map(chr, range(33, 0x3100)) if unicodedata.category(c)[0] != "M" and ord(c) not in UNSEEN)


def test_words_without_marks_are_those_that_were_found_before() -> None:
    draw = random.Random(3)
    for alphabet in (MARKLESS[:94], MARKLESS[:600] + " " * 60, MARKLESS + "人々の暮らしภาษาไทยตั้งชื่อမြန်မာខ្មែរ" * 40):
        for _ in range(300):
            text = unicodedata.normalize("NFC", "".join(draw.choices(alphabet, k=30))).lower()
            words = []
            for run in re.findall(f"[{UNSPACED}]+|[^{UNSPACED}]+", text):
                pairs = [run[at : at + 2] for at in range(max(1, len(run) - 1))]
                words += pairs if re.match(f"[{UNSPACED}]", run) else re.findall(r"\b\w\w+\b", run)
            marked = any(unicodedata.category(c)[0] == "M" and not re.match(f"[{UNSPACED}]", c) for c in text)
            assert marked or split_words(text) == words
