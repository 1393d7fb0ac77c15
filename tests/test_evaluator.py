"""A whole evaluation worked out by hand: every system under both protocols, and the files that are written."""

from __future__ import annotations

import functools
import json
import logging
import math
from pathlib import Path

import ir_measures
import pytest

from pipeline.core.errors import DataError
from pipeline.core.records import (
    AS_RETRIEVED,
    FIRST_STAGE,
    MEASURES,
    POSITIVES_ADDED,
    PROTOCOLS,
    TRAINED,
    UNTRAINED,
    RerankingSet,
    fold,
)
from pipeline.data.trec import read_qrels, read_run, unescape
from pipeline.evaluation import evaluator
from pipeline.evaluation.differences import difference
from pipeline.evaluation.evaluator import Evaluation, write
from pipeline.evaluation.figures import mean_of, mean_of_means, read
from pipeline.evaluation.reranking import SystemRankings

evaluate = functools.partial(evaluator.evaluate, resamples=500)

QUERIES = ("q 1", "q\t2", "../../q3", "q4")
LIBRARY = {"map": ir_measures.AP, "mrr@10": ir_measures.RR @ 10, "ndcg@10": ir_measures.nDCG @ 10}


def made(groups: dict[str, str] | None = None, name: str = "dev") -> RerankingSet:
    """Four queries over candidates a, b, c, one positive each: at rank 1, 2, 3 and not found."""
    positives = dict(zip(QUERIES, ("a", "b", "c", "lost one"), strict=True))
    return RerankingSet(
        name=name,
        queries={query: query for query in QUERIES},
        passages={passage: passage for passage in ("a", "b", "c", "lost one")},
        candidates={query: ["a", "b", "c"] for query in QUERIES},
        qrels={query: {passage: 1, "d": 0} for query, passage in positives.items()},
        groups=groups,
    )


def system(order: str) -> SystemRankings:
    """A system that ranks every query alike; under `positives_added` the last query's positive comes second."""
    ranked = {query: list(order) for query in QUERIES}
    return {
        AS_RETRIEVED: ranked,
        POSITIVES_ADDED: {**ranked, "q4": [order[0], "lost one", *order[1:]]},
    }


def evaluation(groups: dict[str, str] | None = None, name: str = "dev") -> Evaluation:
    """Trained puts b first, the untrained model c, a rival a; given out of order."""
    systems = {TRAINED: system("bac"), "my/rival": system("abc"), UNTRAINED: system("cab")}
    return evaluate(made(groups, name), systems)


def test_measures_json_equals_figures_worked_out_by_hand() -> None:
    figures = evaluation().measures_json()
    retrieved, added = figures[AS_RETRIEVED], figures[POSITIVES_ADDED]
    assert list(evaluation().systems) == [FIRST_STAGE, UNTRAINED, "my/rival", TRAINED]
    assert figures["queries"] == 4
    assert figures["groups"] is None
    assert figures["positives_found"] == 3 / 4
    assert "paired t" in figures["interval"]
    assert set(figures["notes"]) == set(PROTOCOLS)
    ndcg = (1 + 1 / math.log2(3) + 1 / math.log2(4)) / 4
    for name in (FIRST_STAGE, UNTRAINED, "my/rival", TRAINED):  # each puts one positive first, one second, one third
        expected = {"map": (1 + 1 / 2 + 1 / 3) / 4, "mrr@10": (1 + 1 / 2 + 1 / 3) / 4, "ndcg@10": ndcg}
        assert retrieved[name] == pytest.approx(expected, abs=1e-12)
    assert added[FIRST_STAGE] == retrieved[FIRST_STAGE]
    assert added[TRAINED]["map"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 2) / 4, abs=1e-12)
    assert added[TRAINED]["ndcg@10"] == pytest.approx(ndcg + 1 / math.log2(3) / 4, abs=1e-12)


def test_differences_are_paired_by_query() -> None:
    done = evaluation()
    figures = done.measures_json()
    values = done.values[POSITIVES_ADDED]
    expected = difference(values[TRAINED]["map"], values[FIRST_STAGE]["map"], resamples=500).as_json()
    assert figures[POSITIVES_ADDED]["differences"][TRAINED]["map"] == expected
    assert expected["mean"] == pytest.approx(1 / 8)
    assert expected["low"] < 0 < expected["high"]
    # By query, rival minus trained: 1 - 1/2, 1/2 - 1, 0, 0.
    assert values["my/rival"]["map"] == pytest.approx({"q 1": 1, "q\t2": 1 / 2, "../../q3": 1 / 3, "q4": 1 / 2})
    assert values[TRAINED]["map"] == pytest.approx({"q 1": 1 / 2, "q\t2": 1, "../../q3": 1 / 3, "q4": 1 / 2})
    assert set(figures[AS_RETRIEVED]["differences"]) == {UNTRAINED, "my/rival", TRAINED}
    assert figures[AS_RETRIEVED]["differences"]["my/rival"]["map"] == {"mean": 0, "low": 0, "high": 0, "p": 1}
    assert set(figures[AS_RETRIEVED]["trained_minus"]) == {UNTRAINED, "my/rival"}
    assert list(figures[AS_RETRIEVED]["differences"][TRAINED]) == list(MEASURES)
    assert list(figures[AS_RETRIEVED]["differences"][TRAINED]["map"]) == ["mean", "low", "high", "p"]


def test_trained_minus_a_worse_rival_is_positive() -> None:
    rival = {protocol: system("bac")[AS_RETRIEVED] for protocol in PROTOCOLS}  # never ranks the added passage
    figures = evaluate(made(), {TRAINED: system("bac"), "rival": rival}).measures_json()[POSITIVES_ADDED]
    assert figures["trained_minus"]["rival"]["map"]["mean"] == pytest.approx(1 / 8)
    assert figures["differences"]["rival"]["map"]["mean"] == pytest.approx(0)


def test_groups_of_queries_are_resampled_and_reported() -> None:
    groups = {"q 1": "one", "q\t2": "one", "../../q3": "two", "q4": "three"}
    figures = evaluation(groups).measures_json()
    assert figures["groups"] == 3
    assert figures["interval"] == "95 %, Student's t over 3 groups of queries"
    values = evaluation().values[POSITIVES_ADDED]
    expected = difference(values[TRAINED]["ndcg@10"], values[FIRST_STAGE]["ndcg@10"], groups, resamples=500)
    found = figures[POSITIVES_ADDED]["differences"][TRAINED]["ndcg@10"]
    assert found == expected.as_json()
    plain = evaluation().measures_json()
    assert found != plain[POSITIVES_ADDED]["differences"][TRAINED]["ndcg@10"]


def test_query_outside_all_groups_is_a_group_of_its_own() -> None:
    assert evaluation({"q 1": "one", "q\t2": "one"}).measures_json()["groups"] == 3


def test_written_files_give_the_same_figures_in_ir_measures(tmp_path: Path) -> None:
    done = evaluation()
    write(done, tmp_path)
    figures = json.loads((tmp_path / "measures.json").read_text())
    assert figures == done.measures_json()
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    names = ["first_stage", "my-rival", "trained", "untrained"]
    runs = [f"runs/{name}.{protocol}.trec" for name in names for protocol in PROTOCOLS]
    assert files == ["measures.json", "per_query.tsv", "qrels.trec", "run.trec", *runs]
    # The library reads the files itself, ids escaped, ties and scores as any tool would see them.
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.trec")))
    for name, file in [(TRAINED, "trained"), ("my/rival", "my-rival"), (FIRST_STAGE, "first_stage")]:
        for protocol in PROTOCOLS:
            run = list(ir_measures.read_trec_run(str(tmp_path / "runs" / f"{file}.{protocol}.trec")))
            again = ir_measures.calc_aggregate(list(LIBRARY.values()), qrels, run)
            for measure in MEASURES:
                assert again[LIBRARY[measure]] == pytest.approx(figures[protocol][name][measure], abs=1e-12)
    assert (tmp_path / "run.trec").read_bytes() == (tmp_path / "runs" / "trained.as_retrieved.trec").read_bytes()
    assert (tmp_path / "run.trec").read_text().splitlines()[0] == "q%201 Q0 b 1 3 trained"
    assert list(read_run(tmp_path / "run.trec")["q\t2"]) == ["b", "a", "c"]
    assert read_qrels(tmp_path / "qrels.trec") == made().qrels


def test_per_query_values_are_written_for_every_system(tmp_path: Path) -> None:
    done = evaluation()
    write(done, tmp_path)
    header, *rows = (tmp_path / "per_query.tsv").read_text().rstrip("\n").split("\n")
    assert header.split("\t") == ["query", "protocol", "system", "measure", "value"]
    assert len(rows) == len(QUERIES) * 2 * 4 * 3
    for row in rows:
        query, protocol, name, measure, value = row.split("\t")
        assert done.values[protocol][unescape(name)][measure][unescape(query)] == float(value)


def test_without_a_trained_system_no_run_or_comparison_with_it_is_written(tmp_path: Path) -> None:
    done = evaluate(made(), {UNTRAINED: system("cab")})
    write(done, tmp_path)
    figures = done.measures_json()[AS_RETRIEVED]
    assert list(figures) == [FIRST_STAGE, UNTRAINED, "differences"]
    assert not (tmp_path / "run.trec").exists()


def with_a_query_without_a_positive() -> RerankingSet:
    reranking_set = made()
    reranking_set.queries["q5"] = "No Positive"
    reranking_set.candidates["q5"] = ["a"]
    reranking_set.qrels["q5"] = {"a": 0}
    return reranking_set


def test_queries_without_a_positive_are_left_out_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    done = evaluate(with_a_query_without_a_positive(), {TRAINED: system("bac")})
    assert done.queries == list(QUERIES)
    assert done.measures_json()["queries"] == 4
    assert "dev: 1 queries without a positive are left out" in caplog.text
    write(done, tmp_path)
    assert list(read_qrels(tmp_path / "qrels.trec")) == list(QUERIES)


def test_set_without_any_positive_is_refused() -> None:
    reranking_set = with_a_query_without_a_positive()
    reranking_set.qrels = {"q5": {"a": 0}}
    with pytest.raises(DataError, match="have a query with a positive"):
        evaluate(reranking_set, {})


def test_queries_trained_on_are_counted_unless_they_have_no_positive() -> None:
    questions = {fold(f" {made().queries['q4'].upper()} "), fold("no positive"), "other"}
    done = evaluate(with_a_query_without_a_positive(), {TRAINED: system("bac")}, questions=questions)
    assert done.measures_json()["queries_trained_on"] == 1
    assert evaluate(made(), {TRAINED: system("bac")}).measures_json()["queries_trained_on"] == 0


@pytest.mark.parametrize("identifier", ["q1", "a b", "50%", "", "\t", "%41", "\u2028"], ids=ascii)
def test_values_read_back_bit_identical_for_any_query_id(identifier: str, tmp_path: Path) -> None:
    passages = {"a": "a", "b": "b", "c": "c"}
    candidates, qrels = {identifier: ["a", "b", "c"], "r": ["b"]}, {identifier: {"c": 1}, "r": {"a": 1}}
    reranking_set = RerankingSet("one", {identifier: "q", "r": "r"}, passages, candidates, qrels)
    rankings = {protocol: {identifier: ["b", "c", "a"], "r": ["b"]} for protocol in PROTOCOLS}
    done = evaluate(reranking_set, {"a rival": rankings, TRAINED: rankings})
    write(done, tmp_path)
    assert read(tmp_path, "one") == done.scored()
    assert json.dumps(read(tmp_path, "one").values) == json.dumps(done.values)  # the order too


def test_mean_over_sets_weighs_each_set_equally() -> None:
    first = evaluation(name="one")
    second = evaluate(
        RerankingSet("two", {"q": "q", "r": "r"}, {"a": "a", "b": "b"}, {"q": ["a", "b"], "r": ["b", "a"]},
                     {"q": {"b": 1}, "r": {"b": 1}}),
        {TRAINED: {protocol: {"q": ["b", "a"], "r": ["b", "a"]} for protocol in PROTOCOLS}},
    )  # fmt: skip
    figures = mean_of([first.scored(), second.scored()], "NanoBEIR_R100_mean")
    assert figures["sets"] == ["one", "two"]
    assert figures["queries"] == 6
    assert figures["positives_found"] == (3 / 4 + 1) / 2
    retrieved = figures[AS_RETRIEVED]
    assert [key for key in retrieved if key in (FIRST_STAGE, UNTRAINED, TRAINED)] == [FIRST_STAGE, TRAINED]
    assert retrieved[FIRST_STAGE]["map"] == pytest.approx(((1 + 1 / 2 + 1 / 3) / 4 + 3 / 4) / 2)
    assert retrieved[TRAINED]["map"] == pytest.approx(((1 + 1 / 2 + 1 / 3) / 4 + 1) / 2)
    # Set one: differences -1/2, 1/2, 0, 0; set two: 1/2, 0.
    found = retrieved["differences"][TRAINED]["map"]
    assert found["mean"] == pytest.approx((0 + 1 / 4) / 2)
    assert found["low"] < 0 < found["high"] < 1
    assert "stratified" in figures["interval"]
    json.dumps(figures, allow_nan=False)
    assert mean_of_means(
        [{"map": 0.1, "mrr@10": 0.2, "ndcg@10": 0.3}, {"map": 0.3, "mrr@10": 0.4, "ndcg@10": 0.5}]
    ) == {
        "map": pytest.approx(0.2),
        "mrr@10": pytest.approx(0.3),
        "ndcg@10": pytest.approx(0.4),
    }
    with pytest.raises(ValueError, match="at least one set"):
        mean_of([], "NanoBEIR_R100_mean")


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (1, "not estimated: all queries are of one group"),
        (4, "95 %, Student's t over 4 groups of queries"),
        (5, "95 %, studentised bootstrap over 5 groups of queries, 500 draws; Student's t where hardly any group"),
    ],
    ids=["1 group", "4 groups", "5 groups"],
)
def test_interval_of_few_groups_names_its_method(groups: int, expected: str) -> None:
    queries = [f"q{number}" for number in range(6)]
    reranking_set = RerankingSet(
        "dev",
        {query: query for query in queries},
        {passage: passage for passage in "abc"},
        {query: ["c", "b", "a"] for query in queries},
        {query: {"a": 1} for query in queries},
        {query: str(number % groups) for number, query in enumerate(queries)},
    )
    rankings = {protocol: {query: ["a", "b", "c"] for query in queries} for protocol in PROTOCOLS}
    assert evaluate(reranking_set, {TRAINED: rankings}).measures_json()["interval"].startswith(expected)
