"""What reports say of figures that cannot be compared, rows that were left out and intervals of few queries."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from composed_config import composed
from script_process import script_process

from pipeline.commands import verification
from pipeline.config.command_arguments import Verification
from pipeline.core import progress
from pipeline.core.records import AS_RETRIEVED, POSITIVES_ADDED, RerankingSet
from pipeline.evaluation.evaluator import Evaluation, evaluate
from pipeline.evaluation.figures import mean_of
from pipeline.reporting.verdicts import verdict
from pipeline.stages.run import run

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
