"""Differences of two systems: intervals and p values against scipy, by hand, and by simulation."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation import differences
from pipeline.evaluation.differences import stratified_difference

difference = functools.partial(differences.difference, resamples=2000)


def paired(count: int, shift: float, seed: int = 0) -> tuple[dict[str, float], dict[str, float]]:
    """Per-query values of two systems, the first better by about `shift`."""
    rng = np.random.default_rng(seed)
    b = np.clip(rng.normal(0.4, 0.3, count), 0, 1)
    a = np.clip(b + rng.normal(shift, 0.2, count), 0, 1)
    return {f"q{i}": float(x) for i, x in enumerate(a)}, {f"q{i}": float(x) for i, x in enumerate(b)}


def test_without_groups_the_interval_is_scipys_paired_t() -> None:
    a, b = paired(50, 0.03)
    found = difference(a, dict(reversed(b.items())))
    test = stats.ttest_rel([a[query] for query in a], [b[query] for query in a])
    interval = test.confidence_interval(0.95)
    assert found.as_json() == pytest.approx(
        {
            "mean": float(np.mean(list(a.values())) - np.mean(list(b.values()))),
            "low": interval.low,
            "high": interval.high,
            "p": test.pvalue,
        },
        rel=1e-9,
    )
    assert stratified_difference([(a, b)]).as_json() == pytest.approx(found.as_json(), rel=1e-9)


def test_clusters_of_one_query_give_about_the_t_interval() -> None:
    a, b = paired(400, 0.02)
    alone = {query: query for query in a}
    t, clustered = difference(a, b), difference(a, b, alone, resamples=4000)
    assert clustered.mean == t.mean
    assert clustered.low == pytest.approx(t.low, abs=0.05 * (t.high - t.low))
    assert clustered.high == pytest.approx(t.high, abs=0.05 * (t.high - t.low))
    assert clustered.p == pytest.approx(t.p, abs=0.02)
    assert difference(a, b, {}, resamples=4000) == clustered  # a query without a group is its own


def test_clusters_that_move_together_widen_the_interval_as_their_number_asks() -> None:
    """Copies of a query within a cluster add nothing: the interval is that of the clusters, not of the queries."""
    a, b = paired(40, 0.03)
    copies = [{f"{query}-{copy}": value for query, value in side.items() for copy in range(9)} for side in (a, b)]
    groups = {name: name.split("-")[0] for name in copies[0]}
    honest, clustered = difference(a, b), difference(copies[0], copies[1], groups, resamples=4000)
    naive = difference(copies[0], copies[1])
    assert clustered.mean == pytest.approx(honest.mean, abs=1e-12)
    width = honest.high - honest.low
    assert clustered.high - clustered.low == pytest.approx(width, rel=0.1)
    assert naive.high - naive.low == pytest.approx(width / 3, rel=0.1)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.11])
def test_the_cluster_interval_excludes_zero_exactly_when_p_is_below_five_percent(shift: float) -> None:
    for seed in range(8):
        a, b = paired(60, shift, seed)
        found = difference(a, b, {query: str(int(query[1:]) % 12) for query in a}, resamples=500)
        assert (found.low > 0 or found.high < 0) == (found.p < 0.05)


def test_a_cluster_p_is_never_zero_and_its_interval_is_known_for_a_strong_difference() -> None:
    rng = np.random.default_rng(5)
    a = {f"q{i}": 0.5 + float(x) for i, x in enumerate(rng.normal(0, 0.02, 40))}
    found = difference(a, dict.fromkeys(a, 0.0), {query: query for query in a}, resamples=999)
    assert found.p == 1 / 1000
    standard_error = np.std(list(a.values()), ddof=1) / math.sqrt(40)
    assert (found.high - found.low) / 2 == pytest.approx(stats.t.ppf(0.975, 39) * standard_error, rel=0.1)


def test_the_cluster_bootstrap_repeats_and_its_seed_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = paired(60, 0.05)
    groups = {query: str(int(query[1:]) % 12) for query in a}
    assert difference(a, b, groups) == difference(dict(reversed(a.items())), b, groups)
    found = difference(a, b, groups)
    monkeypatch.setattr(differences, "SEED", 13)
    assert difference(a, b, groups) != found


def test_a_cluster_interval_is_that_of_its_draws() -> None:
    """By hand: the quantile is the 191st of 200 values of t*, as many as 95 % of 201, rounded up."""
    a = {f"q{i:02}": i * 37 % 101 / 101 for i in range(36)}
    b = {query: value * 0.8 + i * 53 % 97 / 970 for i, (query, value) in enumerate(a.items())}
    found = difference(a, b, {query: str(int(query[1:]) % 12) for query in a}, resamples=200)
    sums = np.zeros(12)
    for i, query in enumerate(a):
        sums[i % 12] += a[query] - b[query]
    draws = np.random.default_rng(differences.SEED).multinomial(12, np.full(12, 1 / 12), size=200)
    means = [float(weights @ sums) / 36 for weights in draws]
    errors = [math.sqrt(weights @ (sums - 3 * at) ** 2) / 36 for weights, at in zip(draws, means, strict=True)]
    middle = sums.sum() / 36
    t = sorted(abs(at - middle) / error for at, error in zip(means, errors, strict=True))
    half = t[190] * math.sqrt(((sums - 3 * middle) ** 2).sum()) / 36
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), rel=1e-9)
    assert t[189] < t[190] * 0.999


def test_clusters_that_all_cancel_do_not_differ() -> None:
    """Two systems that win and lose alike within every cluster: what summing leaves of 0.1 - 0.1 is no difference."""
    a, b = {"q1": 0.1, "q2": 0.7, "q3": 0.3, "q4": 0.6}, {"q1": 0.2, "q2": 0.6, "q3": 0.4, "q4": 0.5}
    assert math.fsum(a[query] - b[query] for query in a) != 0
    found = difference(a, b, {"q1": "x", "q2": "x", "q3": "y", "q4": "y"})
    assert found.as_json() == {"mean": 0, "low": 0, "high": 0, "p": 1}


def test_sets_whose_queries_all_differ_by_the_same_have_that_as_both_ends() -> None:
    up = ({"a": 0.5, "b": 0.75}, {"a": 0.25, "b": 0.5})
    more = ({"c": 1.0, "d": 0.75}, {"c": 0.25, "d": 0.0})
    down = ({"a": 0.25, "b": 0.5}, {"a": 0.5, "b": 0.75})
    assert stratified_difference([up, more]).as_json() == {"mean": 0.5, "low": 0.5, "high": 0.5, "p": 0}
    assert stratified_difference([up, down]).as_json() == {"mean": 0, "low": 0, "high": 0, "p": 1}


@pytest.mark.slow
@pytest.mark.parametrize("size", [8, 40])
def test_the_cluster_interval_covers_the_truth(size: int) -> None:
    rng = np.random.default_rng(size)
    covered = 0
    for _ in range(400):
        effects, counts = rng.normal(0, 0.1, size), np.maximum(1, rng.lognormal(1.5, 1.0, size).astype(int))
        values = {f"{g}-{i}": float(rng.normal(effects[g], 0.3)) for g in range(size) for i in range(counts[g])}
        zero = dict.fromkeys(values, 0.0)
        found = difference(values, zero, {query: query.split("-")[0] for query in values}, resamples=1000)
        covered += found.low <= 0 <= found.high
    assert 0.915 <= covered / 400 <= 0.985


GROUPED = {"q1": "g1", "q2": "g1", "q3": "g2"}


@pytest.mark.parametrize("groups", [None, GROUPED])
def test_where_nothing_can_be_estimated_the_answer_is_stated(groups: dict[str, str] | None) -> None:
    b = {"q1": 0.25, "q2": 0.5, "q3": 0.0}
    up = {query: value + 0.25 for query, value in b.items()}
    assert difference(b, b, groups).as_json() == {"mean": 0, "low": 0, "high": 0, "p": 1}
    assert difference(up, b, groups).as_json() == {"mean": 0.25, "low": 0.25, "high": 0.25, "p": 0}
    one = difference({"q1": 0.75}, {"q1": 0.5}, groups)
    assert one.as_json() == {"mean": 0.25, "low": -1, "high": 1, "p": 1}
    with pytest.raises(ValueError, match="same queries"):
        difference(b, {"q1": 0.0}, groups)
    with pytest.raises(ValueError, match="same queries"):
        difference({}, {}, groups)


@pytest.mark.parametrize("differ", [1, 2])
def test_systems_that_differ_in_hardly_any_cluster_have_a_finite_interval(differ: int) -> None:
    b = {f"q{number:03}": 0.5 for number in range(800)}
    a = {
        query: value + 0.08 * (number < 3 * differ and number % 3 == 0)
        for number, (query, value) in enumerate(b.items())
    }
    found = difference(a, b, {query: str(number // 3) for number, query in enumerate(b)})
    # Each of the `differ` clusters carries 0.08 of the sum; Student's t with as many degrees of freedom (12.7 and 4.3).
    half = stats.t.ppf(0.975, differ) * 0.08 * math.sqrt(differ) / 800
    assert found.mean == pytest.approx(differ * 0.08 / 800)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), rel=0.03)
    assert found.p == pytest.approx(2 * stats.t.sf(math.sqrt(differ), differ), rel=0.02)


def test_a_cluster_interval_ends_where_differences_do() -> None:
    rng = np.random.default_rng(0)
    sizes = [60, 5, 5, 5, 5]
    groups = {f"q{number}": str(group) for number, group in enumerate(np.repeat(range(5), sizes))}
    b = {query: float(groups[query] == "0") * 0.97 + 0.02 * rng.random() for query in groups}
    found = difference(dict.fromkeys(b, 0.0), b, groups)
    assert found.low == -1.0 < found.mean


def test_few_or_equal_clusters_give_finite_figures() -> None:
    a, b = {"q1": 0.9, "q2": 0.1, "q3": 0.4}, {"q1": 0.1, "q2": 0.2, "q3": 0.4}
    together = difference(a, b, dict.fromkeys(a, "one"))
    assert together.as_json() == pytest.approx({"mean": 0.7 / 3, "low": -1, "high": 1, "p": 1})
    two = difference(a, b, GROUPED)
    # q1 and q2 differ by 0.8 and -0.1, q3 not: without either cluster the mean is the other's, 0 or 0.35. Student's t
    # with one degree of freedom is Cauchy's.
    assert (two.low, two.high) == (-1.0, 1.0)
    t = two.mean / math.sqrt((two.mean**2 + (0.35 - two.mean) ** 2) / 2)
    assert two.p == pytest.approx(1 - 2 * math.atan(t) / math.pi)
    # Each cluster's mean is the same while its queries differ: no spread between clusters at all.
    level = difference(
        {"q1": 0.5, "q2": 0.0, "q3": 0.5, "q4": 0.0},
        dict.fromkeys(("q1", "q2", "q3", "q4"), 0.0),
        {"q1": "g", "q2": "g", "q3": "h", "q4": "h"},
    )
    assert level.as_json() == {"mean": 0.25, "low": 0.25, "high": 0.25, "p": 0}
    # One group's queries move apart and every group's mean is 0: nothing speaks against 0.
    apart = difference(
        {"q1": 1.0, "q2": 0.0, "q3": 0.5},
        dict.fromkeys(("q1", "q2", "q3"), 0.5),
        {"q1": "g", "q2": "g", "q3": "h"},
    )
    assert apart.as_json() == {"mean": 0, "low": 0, "high": 0, "p": 1}
    # Means that are equal but for rounding.
    values = [0.1, 0.2, 0.3, 0.3, 0.2, 0.1, 0.05, 0.25, 0.3, 0.6, 0.0, 0.0]
    a = {f"q{i:02}": value for i, value in enumerate(values)}
    rounded = difference(a, dict.fromkeys(a, 0.0), {query: str(i // 3) for i, query in enumerate(a)})
    assert (rounded.low, rounded.high, rounded.p) == (rounded.mean, rounded.mean, 0.0)
    assert rounded.mean == pytest.approx(0.2)


def test_the_stratified_difference_by_hand() -> None:
    zero = dict.fromkeys(("q1", "q2", "q3", "q4"), 0.0)
    first = dict(zip(zero, (0.1, 0.3, 0.2, 0.4), strict=True))
    second = dict(zip(zero, (0.0, 0.0, 0.5, 0.1), strict=True))
    found = stratified_difference([(first, zero), (second, zero)])
    variances = [np.var(list(x.values()), ddof=1) / 4 for x in (first, second)]
    freedom = sum(variances) ** 2 / sum(v**2 / 3 for v in variances)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(sum(variances)) / 2
    assert found.mean == pytest.approx((0.25 + 0.15) / 2)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))
    assert 0 < found.p < 0.05
    same = stratified_difference([(first, first), (second, second)])
    assert same.as_json() == {"mean": 0, "low": 0, "high": 0, "p": 1}
    assert stratified_difference([(first, zero), ({"q": 0.5}, {"q": 0.0})]).low == -1
    with pytest.raises(ValueError, match="same queries"):
        stratified_difference([])


def test_no_interval_leaves_what_differences_can_be() -> None:
    a, b = {"q1": 1.0, "q2": 0.0}, {"q1": 0.0, "q2": 0.1}
    free = stats.ttest_rel(list(a.values()), list(b.values())).confidence_interval(0.95)
    assert free.low < -1 and free.high > 1
    for found in (difference(a, b), stratified_difference([(a, b), (a, b)])):
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
