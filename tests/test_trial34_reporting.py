"""What reports say of figures that cannot be compared, rows that were left out and intervals of few queries."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_facts
from composed_config import composed
from scipy import stats
from script_process import script_process

from pipeline.commands import verification
from pipeline.commands.prediction import read_passages
from pipeline.config.command_arguments import Verification
from pipeline.config.data import DataConfig, Format, MiningConfig, Retriever, Source
from pipeline.core import progress
from pipeline.core.records import AS_RETRIEVED, POSITIVES_ADDED, RerankingSet
from pipeline.data.source import load
from pipeline.evaluation.evaluator import Evaluation, evaluate
from pipeline.evaluation.figures import mean_of
from pipeline.evaluation.measures import difference, stratified_difference
from pipeline.mining.miner import mine
from pipeline.reporting.model_card import render
from pipeline.reporting.verdicts import verdict
from pipeline.stages.run import run

# --- evaluation/measures ---


def test_no_interval_leaves_what_differences_can_be() -> None:
    a, b = {"q1": 1.0, "q2": 0.0}, {"q1": 0.0, "q2": 0.1}
    free = stats.ttest_rel(list(a.values()), list(b.values())).confidence_interval(0.95)
    assert free.low < -1 and free.high > 1
    for found in (difference(a, b, resamples=100), stratified_difference([(a, b), (a, b)])):
        assert found.mean == pytest.approx(0.45)
        assert (found.low, found.high) == (-1.0, 1.0)


def skewed(groups: int, rng: np.random.Generator) -> tuple[dict[str, float], dict[str, str]]:
    """Differences of queries in groups of log-normal sizes, about 0, and the queries' groups."""
    sizes = np.maximum(1, rng.lognormal(1.5, 1.0, groups).astype(int))
    of = np.repeat(np.arange(groups), sizes)
    values = rng.normal(0, 0.1, groups)[of] + rng.normal(0, 0.3, len(of))
    queries = [f"q{number}" for number in range(len(of))]
    return dict(zip(queries, values.tolist(), strict=True)), dict(zip(queries, map(str, of), strict=True))


def test_the_interval_of_four_groups_is_student_s_with_the_jackknife_s_error() -> None:
    values, groups = skewed(4, np.random.default_rng(1))
    found = difference(values, dict.fromkeys(values, 0.0), groups, resamples=1000)
    without = [np.mean([values[q] for q in values if groups[q] != group]) for group in "0123"]
    squares = (np.array(without) - found.mean) ** 2
    half = stats.t.ppf(0.975, max(1, squares.sum() ** 2 / (squares**2).sum())) * math.sqrt(3 / 4 * squares.sum())
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))


def test_few_groups_cover_the_truth_and_more_groups_are_narrower() -> None:
    widths = []
    for groups in (2, 3, 4, 5):
        rng = np.random.default_rng(groups)
        cases = [skewed(groups, rng) for _ in range(1000)]
        found = [difference(values, dict.fromkeys(values, 0.0), of, resamples=200) for values, of in cases]
        assert 0.925 <= np.mean([of.low <= 0 <= of.high for of in found]) <= 0.975
        widths.append(np.mean([of.high - of.low for of in found]))
    assert widths == sorted(widths, reverse=True)


# --- evaluation/evaluator ---


def two_systems(name: str, *, groups: int | None = None, found: bool = True) -> Evaluation:
    """Evaluate the first stage and a trained model that reverses it, on six queries."""
    queries = [f"q{number}" for number in range(6)]
    positive = "a" if found else "lost"
    made = RerankingSet(
        name,
        {query: f"text of {query}" for query in queries},
        {passage: f"text {passage}" for passage in ("a", "b", "c", "lost")},
        {query: ["c", "b", "a"] for query in queries},
        {query: {positive: 1} for query in queries},
        None if groups is None else {query: str(number % groups) for number, query in enumerate(queries)},
    )
    trained = {query: ["a", "b", "c"] for query in queries}
    added = trained if found else {query: ["lost", "a", "b", "c"] for query in queries}
    return evaluate(made, {"trained": {AS_RETRIEVED: trained, POSITIVES_ADDED: added}}, resamples=100)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (4, "95 %, Student's t over 4 groups of queries"),
        (5, "95 %, studentised bootstrap over 5 groups of queries, 100 draws; Student's t where hardly any group"),
    ],
)
def test_the_interval_of_few_groups_is_named_for_what_it_is(groups: int, said: str) -> None:
    assert two_systems("dev", groups=groups).measures_json()["interval"].startswith(said)


# --- reporting/verdicts ---


def test_without_a_positive_among_the_candidates_nothing_is_compared() -> None:
    lost = two_systems("dev", found=False)
    said = "the first stage found no positive for any of"
    assert verdict("dev", lost.measures_json()) == [
        f"dev: {said} 6 queries, so there is nothing to compare as retrieved."
    ]
    trained_on = verdict("dev", {**lost.measures_json(), "queries_trained_on": 2})
    assert trained_on[1:] == ["dev: 2 of its 6 queries are training questions too, which favours trained."]
    found = two_systems("other")
    assert verdict("mean", mean_of([lost.scored(), lost.scored()], "mean"))[0].startswith(f"mean: {said} 12 queries")
    assert said not in " ".join(verdict("mean", mean_of([lost.scored(), found.scored()], "mean")))


# --- reporting/model_card ---


def test_every_reason_why_a_source_row_is_no_training_row_is_in_the_card(tmp_path: Path) -> None:
    """Their counts, the training rows and the held-out rows add up to the rows that were read."""
    rows: list[dict[str, Any]] = []
    for number in range(300):
        group = f"g{number // 10}"
        own = {"question": f"what is thing {number}", "group": group}
        rows.append({**own, "answer": f"Thing {number} is number {number}.", "label": 1})
        rows.append({**own, "answer": f"Thing {number + 1} is a stone.", "label": 0})
        if number % 10 == 0:
            rows.append({**own, "answer": f"THING {number} is number {number}. ", "label": 1})  # the same, folded
            rows.append(dict(rows[-2]))
            rows.append({**own, "question": f"what else is {number}", "answer": "No answer to this.", "label": 0})
            rows.append({**own, "question": " ", "answer": "An answer without a question.", "label": 1})
            rows.append({**own, "question": f"what is missing {number}", "answer": None, "label": 1})
            rows.append({**own, "question": f"what is all {number}", "answer": "Everything is a thing.", "label": 1})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(
        source=Source.local, name="x", path=str(path), format=Format.labelled, group_column="group",
        dev_queries=25, validation_queries=25, queries_per_group=5,
    )  # fmt: skip
    split = load(data, source=None, cache=tmp_path / "cache")
    split.train.questions[0] = split.dev.questions[0]  # as a dev file of its own may repeat a training question
    mined = mine(split, MiningConfig(retriever=Retriever.bm25, negatives=1), tmp_path / "cache")
    assert split.validation is not None
    facts = run_facts.write(tmp_path)
    facts.statistics = {**split.statistics, **mined.statistics}
    (line,) = re.findall(r"^- Left out: (.*)$", render(facts), re.MULTILINE)
    total, _, reasons = line.partition(" rows of the source: ")
    counts = {words: int(count) for count, words in re.findall(r"(\d+) ([^,]+)", reasons)}
    assert sum(counts.values()) == int(total)
    held = [part["rows_loaded"] for name, part in split.statistics["parts"].items() if name != "train"]  # type: ignore[attr-defined]
    own = mined.statistics["positives"] + mined.statistics["given_negatives"]
    assert int(total) == len(rows) - sum(held) - own
    assert list(counts) == [
        "without a question", "without an answer", "that repeat an earlier row", "of questions without a positive",
        "of held-out groups beyond the questions chosen from them", "that share a question with a held-out part",
        "that share a positive with a held-out part", "that repeat an earlier pair",
    ]  # fmt: skip
    facts.statistics["leaks"]["dropped"] = False
    assert "held-out part" not in render(facts).partition("- Left out: ")[2].partition("\n")[0]


def test_the_card_says_how_the_first_stage_s_map_differs_from_published_ones(tmp_path: Path) -> None:
    said = "ranks the positives that the first stage missed below its list: its MAP of the first stage can be higher"
    assert render(run_facts.write(tmp_path / "nano")).count(said) == 1
    own = {**run_facts.CONFIG, "evaluation": {**run_facts.CONFIG["evaluation"], "nano_beir": []}}
    assert said not in render(run_facts.write(tmp_path / "own", config=own))


# --- commands/prediction ---


def test_a_passage_without_an_id_beside_others_goes_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "passages.jsonl"
    path.write_text('{"text": "a", "id": "x"}\n\n{"text": "b"}\n{"text": "c", "_id": null, "id": 7}\n')
    assert read_passages(path) == (["a", "b", "c"], ["x", "line 3", "7"])
    path.write_text('{"text": "a"}\n{"text": "b", "id": null}\n')
    assert read_passages(path) == (["a", "b"], None)


# --- scripts/evaluate, stages/card ---

TINY = [
    *["experiment=smoke", "data.limit=150", "data.dev_queries=20", "data.validation_queries=0", "runtime=cpu"],
    *["training.eval_sets=[]", "training.max_steps=6", "training.eval_steps=3", "mining.dev_depth=5"],
    *["runtime.workers=1", "runtime.threads=1", "emissions=off"],
    *["evaluation.bi_encoder=false", "evaluation.fusion=false"],
]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return the outputs of one run that was evaluated twice, and what both commands printed."""
    root = tmp_path_factory.mktemp("evaluated")
    with script_process(root) as process:
        done = [process.run("scripts/evaluate.py", *TINY, f"outputs_dir={root / 'outputs'}") for _ in range(2)]
    assert [one.status for one in done] == [0, 0], done
    return root / "outputs", [one.out for one in done]


def test_evaluate_ends_with_the_table_of_the_card_also_when_nothing_was_left_to_do(
    evaluated: tuple[Path, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    outputs, said = evaluated
    assert "evaluate  nothing to do" not in said[0] and "evaluate  nothing to do" in said[1]
    assert not (outputs / "latest" / "README.md").exists()
    tables = [text[text.index("\n\n") :] for text in said]
    assert tables[0] == tables[1] and re.search(r"^trained +\d\.\d{4}", tables[0], re.MULTILINE)
    with caplog.at_level(logging.INFO):
        run(composed(*TINY, f"outputs_dir={outputs}"))
    lines = caplog.messages[-1].strip().splitlines()
    without_card = [line for line in lines if not line.startswith("card ")]
    assert tables[0].strip().splitlines() == without_card != lines


# --- commands/verification ---


def test_verify_tokenises_towards_a_total(
    evaluated: tuple[Path, list[str]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, _ = evaluated
    run(composed(*TINY, f"outputs_dir={outputs}"))
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        found = verification.verify(Verification(outputs_dir=str(outputs)))
    assert found.verified, str(found)
    assert "steps 4 to 6 repeated" in str(found)
    (line,) = (line for line in caplog.messages if line.startswith("tokenising texts:"))
    assert re.search(r": 130 of 260, about \d", line)
