"""Mined rows equal those of sentence-transformers' `mine_hard_negatives`, from searches no deeper than they need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mining_data import WORDS, config, random_pairs, rows, split, triples
from static_model import static_model

from pipeline.config.data import Match, MiningConfig, Retriever, Sampling
from pipeline.core.records import fold
from pipeline.mining import dense_search
from pipeline.mining.bm25 import Bm25
from pipeline.mining.dense_search import Nearest
from pipeline.mining.exact_search import Plain, Rounded
from pipeline.mining.miner import mine
from pipeline.mining.topk import Positions, Ranking


def recipe_config(folder: Path) -> MiningConfig:
    return MiningConfig(
        retriever=Retriever.embedding,
        path=str(folder),
        negatives=5,
        range_min=0,
        range_max=100,
        absolute_margin=0.0,
        sampling=Sampling.top,
        positive_match=Match.exact,
        drop_leaks=False,
        dev_depth=30,
    )


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"absolute_margin": 0.05, "range_min": 3, "negatives": 4, "range_max": 20},
        {"absolute_margin": None, "relative_margin": 0.1},
        {"absolute_margin": None, "range_min": 2},
    ],
    ids=["recipe", "absolute", "relative", "no-margin"],
)
@pytest.mark.parametrize("search", [Plain, Rounded])
def test_mined_rows_equal_mine_hard_negatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, object], search: type[Plain] | type[Rounded]
) -> None:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    monkeypatch.setattr(dense_search, "prepared", search)
    folder = static_model(tmp_path / "model", WORDS)
    pairs = random_pairs(12, 400)
    recipe = recipe_config(folder)
    for key, value in keys.items():
        setattr(recipe, key, value)
    if recipe.absolute_margin is not None or recipe.relative_margin is not None:
        # Questions that are passages too: a margin takes these out of every ranking, and no ranking grows by it.
        pairs += [(pairs[number][1], pairs[number + 1][1]) for number in range(0, 60, 6)]
    train = rows(pairs)
    mined = mine(split(train, rows(random_pairs(3, 5))), recipe, tmp_path / "cache")
    reference = mine_hard_negatives(
        Dataset.from_dict({"question": train.questions, "answer": train.answers}),
        SentenceTransformer(str(folder), device="cpu"),
        range_min=recipe.range_min,
        range_max=recipe.range_max,
        absolute_margin=recipe.absolute_margin,
        relative_margin=recipe.relative_margin,
        num_negatives=recipe.negatives,
        sampling_strategy="top",
        output_format="labeled-pair",
        verbose=False,
    )
    expected = list(zip(reference["question"], reference["answer"], map(float, reference["label"]), strict=True))
    assert len(expected) > len(pairs)
    assert triples(mined.train) == expected
    assert mined.statistics["rows"] == len(expected)


@pytest.mark.parametrize("margin", [None, 0.0], ids=["free", "margin"])
@pytest.mark.parametrize("retriever", [Retriever.bm25, Retriever.embedding])
def test_many_positives_of_one_question_do_not_deepen_other_searches(
    retriever: Retriever, margin: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Questions with many positives are searched apart from the others; the rows are those of one search over all."""
    pairs = random_pairs(5, 400)
    train = rows([("n/a" if number % 4 == 0 else q, a) for number, (q, a) in enumerate(pairs)])
    whole = split(train, rows(random_pairs(6, 4)))
    path = str(static_model(tmp_path / "model", WORDS)) if retriever is Retriever.embedding else None
    keys = {"negatives": 3, "random_negatives": 1, "range_max": 8, "sampling": Sampling.random, "dev_depth": 4}
    mining = config(**keys, retriever=retriever, path=path, absolute_margin=margin)
    searcher: Any = Nearest if retriever is Retriever.embedding else Bm25
    search, searches = searcher.search, list[tuple[int, int]]()

    def recorded(self: Any, queries: Sequence[str], depth: int, rows: Positions | None = None) -> Ranking:
        if rows is not None:  # without rows it is the search for the dev set
            searches.append((len(rows), depth))
        return search(self, queries, depth, rows)

    def at_once(self: Any, queries: Sequence[str], depth: int, rows: Positions | None = None) -> Ranking:
        if rows is None:
            return search(self, queries, depth)
        whole = search(self, queries, max(depth for _, depth in searches))
        return Ranking(whole.indices[rows], whole.scores[rows])

    monkeypatch.setattr(searcher, "search", recorded)
    monkeypatch.setattr("pipeline.mining.training_rows.CELLS", 6_000)
    monkeypatch.setattr("pipeline.mining.training_rows.BLOCK", 16)
    apart = mine(whole, mining, tmp_path / "cache")
    questions = len({fold(question) for question in train.questions})
    assert sum(count for count, _ in searches) == questions
    assert all(count * depth <= 6_000 for count, depth in searches)
    if margin is None:
        (alone, deep), (_, ordinary) = sorted(searches)[:2]
        assert alone == 1 and deep > 100 and ordinary <= 16
    monkeypatch.setattr(searcher, "search", at_once)
    assert triples(mine(whole, mining, tmp_path / "cache").train) == triples(apart.train)


@pytest.mark.parametrize("margin", [None, 0.0], ids=["free", "margin"])
def test_excluded_passages_do_not_use_up_range_max(margin: float | None) -> None:
    """Positives, the question itself and its positives in unused rows rank first; five negatives are still found.

    With a margin the question itself uses up a rank, as in `mine_hard_negatives`: it scores above the positive.
    """
    others = [f"{' '.join(WORDS[i : i + 5])} {name}" for name in ("ant", "cow", "elk") for i in range(9)]
    trained = {
        "ant bee": rows([("ant bee", f"ant bee {WORDS[i]}") for i in range(4)] + [("elk", f"elk {others[20]}")]),
        "cow dog": rows([("cow dog", "cow dog c"), ("elk", "cow dog f")]),
        "elk fox": rows([("elk fox", "elk fox i")]),
    }
    for question, train in trained.items():
        given = split(train, rows([("w298", "w298 w299")]), extra=["elk fox", *others])
        given.unused = rows([("cow dog", "cow dog f")])
        keys = {"negatives": 5, "range_max": 5, "random_negatives": 0, "absolute_margin": margin}
        found = triples(mine(given, config(**keys), Path("unused")).train)
        negatives = {p for q, p, label in found if q == question and not label}
        expected = 4 if question == "elk fox" and margin is not None else 5
        assert len(negatives) == expected and negatives <= set(others)
