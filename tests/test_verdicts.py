"""The sentences that follow from a run's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import run_facts

from pipeline.core.records import AS_RETRIEVED, POSITIVES_ADDED, TRAINED, RerankingSet
from pipeline.evaluation.evaluator import Evaluation, evaluate
from pipeline.evaluation.figures import mean_of
from pipeline.reporting.verdicts import below_first_stage, not_trained, selection, selection_sentence, verdict


def _set(low: float, mean: float, high: float, *, rival: float | None = None, queries: int = 800) -> dict[str, Any]:
    difference = {"ndcg@10": {"mean": mean, "low": low, "high": high, "p": 0.01}}
    protocol: dict[str, Any] = {
        "first_stage": {"ndcg@10": 0.4},
        "untrained": {"ndcg@10": 0.1},
        "trained": {"ndcg@10": 0.4 + mean},
        "differences": {"trained": difference},
        "trained_minus": {},
    }
    if rival is not None:
        protocol["fusion"] = {"ndcg@10": rival}
        protocol["trained_minus"]["fusion"] = {"ndcg@10": {"mean": -0.02, "low": -0.03, "high": -0.01, "p": 0.01}}
    return {"queries": queries, "as_retrieved": protocol}


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        (
            (0.012, 0.031, 0.05),
            "dev: trained beats the first stage by +0.031 nDCG@10 (95 % 0.012 to 0.050, 800 queries).",
        ),
        (
            (-0.05, -0.031, -0.012),
            "dev: trained is below the first stage by 0.031 nDCG@10 (95 % -0.050 to -0.012, 800 queries).",
        ),
        (
            (-0.01, 0.002, 0.02),
            "dev: trained does not beat the first stage: it is 0.002 nDCG@10 above, within chance "
            "(95 % -0.010 to 0.020, 800 queries).",
        ),
        (
            (-0.02, -0.002, 0.01),
            "dev: trained does not beat the first stage: it is 0.002 nDCG@10 below, within chance "
            "(95 % -0.020 to 0.010, 800 queries).",
        ),
        (
            (0.0, 0.0, 0.0),
            "dev: trained does not beat the first stage: it is 0.000 nDCG@10 above, within chance "
            "(95 % 0.000 to 0.000, 800 queries).",
        ),
    ],
    ids=["beats", "below", "above within chance", "below within chance", "equal"],
)
def test_the_verdict_follows_the_interval(figures: tuple[float, float, float], sentence: str) -> None:
    assert verdict("dev", _set(*figures))[0] == sentence


def test_queries_that_were_trained_on_are_said() -> None:
    sentences = verdict("dev", {**_set(0.012, 0.031, 0.05), "queries_trained_on": 3})
    assert sentences[1:] == ["dev: 3 of its 800 queries are training questions too, which favours trained."]
    assert len(verdict("dev", {**_set(0.012, 0.031, 0.05), "queries_trained_on": 0})) == 1


@pytest.mark.parametrize(
    ("seen", "words"),
    [(1, "1 of its 50 queries is a training question too"), (2, "2 of its 50 queries are training")],
    ids=["one", "two"],
)
def test_queries_trained_on_agree_with_their_number(seen: int, words: str) -> None:
    measures = {**_set(0.012, 0.031, 0.05, queries=50), "queries_trained_on": seen}
    assert words in " ".join(verdict("dev", measures))


def test_a_rival_that_wins_is_said() -> None:
    sentences = verdict("dev", _set(0.012, 0.031, 0.05, rival=0.451))
    assert sentences[1] == (
        "dev: the best ranking is fusion, 0.451 nDCG@10, 0.020 above trained; "
        "trained minus it: 95 % -0.030 to -0.010, 800 queries."
    )
    assert len(verdict("dev", _set(0.012, 0.031, 0.05, rival=0.43))) == 1


def test_an_equal_rival_does_not_win_and_an_untrained_evaluation_has_no_verdict() -> None:
    measures = _set(0.0, 0.0, 0.0)
    assert len(verdict("dev", measures)) == 1
    del measures["as_retrieved"]["trained"]
    assert verdict("dev", measures) == []


def test_sets_below_their_first_stage_are_listed(tmp_path: Path) -> None:
    assert below_first_stage(run_facts.write(tmp_path).measures) == ["NanoNQ"]


def test_below_within_chance_is_not_called_worse() -> None:
    found = {"chance": _set(-0.02, -0.001, 0.018), "equal": _set(0.0, 0.0, 0.0), "worse": _set(-0.02, -0.01, -0.001)}
    assert below_first_stage(found) == ["worse"]


def _selected(tmp_path: Path, name: str) -> dict[str, Any]:
    training = {**run_facts.TRAINING, "best_step": 20, "saved_step": 20, "selection_set": name}
    chosen = selection(run_facts.write(tmp_path, training=training))
    assert chosen is not None
    return chosen


def test_a_reported_selection_set_is_said_with_the_last_step_s_figure(tmp_path: Path) -> None:
    chosen = _selected(tmp_path, "gooaq-dev")
    assert (chosen["best_figure"], chosen["last_figure"]) == (0.51, 0.5)
    assert selection_sentence(chosen) == (
        "gooaq-dev: selected on this set (the checkpoint of step 20 had the best nDCG@10 of the fixed-step "
        "evaluations, 0.5100), which favours its figure; the last step's (283) is 0.5000."
    )


def test_a_selection_set_within_a_reported_mean_is_a_reported_one(tmp_path: Path) -> None:
    facts = run_facts.write(tmp_path, training={**run_facts.TRAINING, "best_step": 20, "selection_set": "NanoNQ"})
    facts.measures = {"NanoBEIR_R100_mean": facts.measures["NanoBEIR_R100_mean"]}
    chosen = selection(facts)
    assert chosen is not None and chosen["is_reported"]


def test_a_separate_selection_set_favours_no_figure(tmp_path: Path) -> None:
    chosen = _selected(tmp_path, "validation")
    assert not chosen["is_reported"]
    assert "not a reported set" in selection_sentence(chosen)
    assert "not evaluated" in selection_sentence(chosen)
    said = selection_sentence({**chosen, "best_figure": 0.41, "last_figure": 0.42})
    assert said == (
        "The checkpoint of step 20 was kept: it had the best nDCG@10 of the fixed-step evaluations on "
        "validation (0.4100), "
        "which is not a reported set; the last step's (283) is 0.4200."
    ), "the last step is no fixed one and does not compete"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "gooaq-dev",
            "gooaq-dev: selected on this set (the checkpoint of step {last}, the last one, had the best nDCG@10 of the "
            "fixed-step evaluations, 0.5000), which favours its figure.",
        ),
        (
            "validation",
            "The checkpoint of step {last}, the last one, was kept: it had the best nDCG@10 of the fixed-step "
            "evaluations on validation (not evaluated), which is not a reported set.",
        ),
    ],
    ids=["reported set", "separate set"],
)
def test_selected_last_step_is_not_compared_with_itself(tmp_path: Path, name: str, sentence: str) -> None:
    last = run_facts.TRAINING["steps"]
    training = {**run_facts.TRAINING, "best_step": last, "saved_step": last, "selection_set": name}
    chosen = selection(run_facts.write(tmp_path, training=training))
    assert chosen is not None and selection_sentence(chosen) == sentence.format(last=last)


@pytest.mark.parametrize(
    ("facts", "model"),
    [
        ({"head_was_saved": True}, "the model is the base model as it is"),
        ({}, "the model is the base model as it is"),
        ({"head_was_saved": False}, "its scoring head was drawn at random (name a trained cross-encoder as model.path"),
    ],
)
def test_a_model_that_took_no_step_is_told_from_one_whose_head_is_random(facts: dict[str, bool], model: str) -> None:
    assert not_trained(facts).startswith(f"No training step was taken (training.max_steps=0): {model}")


def test_without_selection_nothing_is_said(tmp_path: Path) -> None:
    assert selection(run_facts.write(tmp_path)) is None


# Sets whose first stage finds no positive


def reversed_set(name: str, *, is_found: bool) -> Evaluation:
    """Evaluate a trained model that reverses the first stage's ranking of six queries.

    Their positive is the last candidate (`is_found`), or a passage that the first stage does not find.
    """
    queries = [f"q{number}" for number in range(6)]
    positive = "a" if is_found else "lost"
    reranking_set = RerankingSet(
        name,
        {query: f"text of {query}" for query in queries},
        {passage: f"text {passage}" for passage in ("a", "b", "c", "lost")},
        {query: ["c", "b", "a"] for query in queries},
        {query: {positive: 1} for query in queries},
    )
    as_retrieved = {query: ["a", "b", "c"] for query in queries}
    added = as_retrieved if is_found else {query: ["lost", "a", "b", "c"] for query in queries}
    return evaluate(reranking_set, {TRAINED: {AS_RETRIEVED: as_retrieved, POSITIVES_ADDED: added}}, resamples=100)


NO_POSITIVE = "the first stage found no positive for any of"


def test_set_without_a_positive_among_its_candidates_compares_nothing() -> None:
    measures = reversed_set("dev", is_found=False).measures_json()
    sentence = f"dev: {NO_POSITIVE} 6 queries, so there is nothing to compare as retrieved."
    assert verdict("dev", measures) == [sentence]
    assert verdict("dev", {**measures, "queries_trained_on": 2}) == [
        sentence,
        "dev: 2 of its 6 queries are training questions too, which favours trained.",
    ]


def test_mean_compares_systems_if_one_set_has_a_positive() -> None:
    lost, found = (reversed_set(name, is_found=name == "found").scored() for name in ("lost", "found"))
    assert verdict("mean", mean_of([lost, lost], "mean"))[0].startswith(f"mean: {NO_POSITIVE} 12 queries")
    assert NO_POSITIVE not in " ".join(verdict("mean", mean_of([lost, found], "mean")))


def test_queries_of_one_group_get_no_comparison() -> None:
    figures = {**_set(-1.0, 0.438, 1.0, queries=60), "groups": 1}
    assert verdict("dev", figures) == ["dev: all queries (60) are of one group, which says nothing about others."]
