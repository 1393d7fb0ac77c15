"""What reports say of figures that cannot be compared, rows that were left out and intervals of few queries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.core.records import AS_RETRIEVED, POSITIVES_ADDED, RerankingSet
from pipeline.evaluation.evaluator import Evaluation, evaluate
from pipeline.evaluation.measures import difference, stratified_difference

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
