"""Differences of two systems' values over the same queries, with 95 % intervals and p values. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95

ROUNDING = 1e-12
"""A mean of differences in [-1, 1], or its standard error, below this is a rounding error and counts as 0."""

SEED = 12
"""Seed of the bootstrap's draws."""

FEWEST_RESAMPLED = 5
"""Fewest clusters that are resampled: of four, one draw in 64 takes a single cluster, and such draws reach into the
quantile. In simulations, the mean interval was 1.25 wide with four resampled clusters, 0.79 with five."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference over queries, its 95 % interval, and the two-sided p of a paired test against 0."""

    mean: float
    low: float
    high: float
    p: float

    def as_json(self) -> dict[str, float]:
        """Return the four figures by name."""
        return asdict(self)


def _cut(mean: float, low: float, high: float, p: float) -> Difference:
    """Return a difference whose interval ends where differences of values in [0, 1] do, at -1 and 1."""
    return Difference(mean, max(-1.0, float(low)), min(1.0, float(high)), float(p))


def difference(
    a: Mapping[str, float],
    b: Mapping[str, float],
    groups: Mapping[str, str] | None = None,
    *,
    resamples: int,
) -> Difference:
    """Estimate the mean of a - b over queries, both of them values of one measure in [0, 1] for the same queries.

    Without groups, this is the paired t test with its interval. With groups, whole groups are resampled, see
    `_by_cluster`. Intervals are cut to [-1, 1]. Where nothing can be estimated, the result is fixed and never NaN:
    equal values everywhere give 0 within [0, 0] with p 1; the same non-zero difference everywhere gives that difference
    as both ends with p 0; a single query (or group) says nothing about others, so it gives [-1, 1] with p 1.

    Args:
        a: Query id → value.
        b: Query id → value, over the same queries.
        groups: Query id → cluster; a query without an entry is a cluster of its own.
        resamples: Bootstrap draws, if there are groups.

    Raises:
        ValueError: when the queries differ or there are none.
    """
    if a.keys() != b.keys() or not a:
        raise ValueError(f"a paired comparison needs the same queries on both sides, got {len(a)} and {len(b)}")
    queries = sorted(a)
    differences = np.array([a[query] - b[query] for query in queries], dtype=np.float64)
    average = math.fsum(differences) / len(queries)
    if not differences.any():
        return Difference(0.0, 0.0, 0.0, 1.0)
    clusters = queries if groups is None else [groups.get(query, f"\0{query}") for query in queries]
    if len(set(clusters)) == 1:
        return Difference(average, -1.0, 1.0, 1.0)
    if (differences == differences[0]).all():
        return Difference(average, average, average, 0.0)
    if groups is not None:
        return _by_cluster(differences, average, clusters, resamples)
    test = stats.ttest_rel([a[query] for query in queries], [b[query] for query in queries])
    interval = test.confidence_interval(CONFIDENCE)
    return _cut(average, interval.low, interval.high, test.pvalue)


def _by_cluster(
    differences: npt.NDArray[np.float64], average: float, clusters: list[str], resamples: int
) -> Difference:
    """Resample whole clusters in a studentised bootstrap (Efron and Tibshirani 1993, 12.5; Cameron et al. 2008).

    Each draw takes as many clusters as there are, with replacement, and yields t* = |mean* - mean| / se*, where se is
    the cluster-robust standard error of a mean over queries. The interval is mean ± q·se, where q is the 95 % quantile
    of t*. p is the share of draws with t* at least |mean| / se, so interval and p agree. In simulations with skewed
    cluster sizes, coverage was 93 to 96 % from 5 to 150 clusters, while percentile and BCa intervals fell to 82 % and
    90 % at 5 and 20. Where the difference itself grows with a cluster's size, coverage was 91 % at 20 clusters and 92 %
    at 60.

    With fewer than `FEWEST_RESAMPLED` clusters, the interval is Student's, see `_by_few_clusters`. It is as well if
    hardly any cluster differs, so that draws without spread, whose t* is infinite, decide the quantile.
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    index = np.array([names[name] for name in clusters])
    sums, counts = np.bincount(index, weights=differences), np.bincount(index).astype(np.float64)
    size = len(names)

    def estimate(weights: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return mean and standard error for each row of cluster weights; einsum's sums do not depend on threads."""
        totals = np.einsum("rg,g->r", weights, counts)
        means = np.einsum("rg,g->r", weights, sums) / totals
        residuals = sums - means[:, None] * counts
        squares = np.einsum("rg,rg,rg->r", weights, residuals, residuals)
        return means, np.sqrt(squares) / totals  # the correction for few clusters cancels between se* and se

    error = float(estimate(np.ones((1, size)))[1][0])
    if error < ROUNDING:  # every group has the same mean difference
        average = 0.0 if abs(average) < ROUNDING else average
        return Difference(average, average, average, 1.0 if average == 0 else 0.0)
    shifts = (sums - average * counts) / (counts.sum() - counts)
    if size < FEWEST_RESAMPLED:
        return _by_few_clusters(shifts, average)
    draws = np.random.default_rng(SEED).multinomial(size, np.full(size, 1 / size), size=resamples).astype(np.float64)
    drawn, drawn_errors = estimate(draws)
    degenerate = drawn_errors <= 1e-12 * error
    t = np.abs(drawn - average) / np.where(degenerate, 1.0, drawn_errors)
    t = np.sort(np.where(degenerate, np.inf, t))
    quantile = float(t[min(math.ceil(CONFIDENCE * (resamples + 1)), resamples) - 1])
    if math.isinf(quantile):
        return _by_few_clusters(shifts, average)
    reached = int(np.count_nonzero(t >= abs(average) / error))
    half, p = quantile * error, (1 + reached) / (1 + resamples)
    return _cut(average, average - half, average + half, p)


def _by_few_clusters(shifts: npt.NDArray[np.float64], average: float) -> Difference:
    """Return Student's interval from the shifts of the mean that leaving out each cluster causes (the jackknife).

    The degrees of freedom are the number of clusters that carry the variance, (sum s²)² / sum s⁴ over the shifts s, at
    most the number of clusters less one. In simulations with skewed cluster sizes, coverage was 96, 95 and 96 % with 2,
    3 and 4 clusters (95, 94 and 93 % if the clusters' differences are skewed too); with the cluster-robust error of
    `_by_cluster` in place of the jackknife's it was 92, 90 and 92 %. With 100 and 267 clusters of which 0.4 to 1 %
    differ, it was 94 to 99 %.
    """
    size, squares = len(shifts), shifts**2
    error = math.sqrt((size - 1) / size * math.fsum(squares))
    freedom = max(1.0, min(size - 1.0, math.fsum(squares) ** 2 / math.fsum(squares**2)))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return _cut(average, average - half, average + half, 2 * stats.t.sf(abs(average) / error, freedom))


def stratified_difference(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> Difference:
    """Estimate the mean over sets of each set's mean a - b, with a t interval over queries within sets.

    The sets are fixed (strata), so the interval is about other queries to the same sets, not about other sets. The
    variance is the sum of s²/n over sets, divided by the square of their number; the degrees of freedom are those of
    Welch and Satterthwaite. For one set, this is the paired t interval. Cuts and degenerate cases are as in
    `difference`; if any set has a single query, the interval is [-1, 1] with p 1.

    Raises:
        ValueError: when there is no set, or a set's two sides differ in their queries or have none.
    """
    if not pairs or any(a.keys() != b.keys() or not a for a, b in pairs):
        raise ValueError("a stratified comparison needs sets with the same queries on both sides")
    samples = [np.array([a[query] - b[query] for query in sorted(a)], dtype=np.float64) for a, b in pairs]
    average = math.fsum(math.fsum(sample) / len(sample) for sample in samples) / len(samples)
    if not any(sample.any() for sample in samples):
        return Difference(0.0, 0.0, 0.0, 1.0)
    if min(len(sample) for sample in samples) == 1:
        return Difference(average, -1.0, 1.0, 1.0)
    variances = [float(sample.var(ddof=1)) / len(sample) for sample in samples]
    total = math.fsum(variances)
    if total == 0:
        return Difference(average, average, average, 1.0 if average == 0 else 0.0)
    freedom = total**2 / math.fsum(v**2 / (len(sample) - 1) for v, sample in zip(variances, samples, strict=True))
    error = math.sqrt(total) / len(samples)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return _cut(average, average - half, average + half, 2 * stats.t.sf(abs(average) / error, freedom))
