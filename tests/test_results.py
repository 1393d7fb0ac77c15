"""A side-by-side result's figures: ratios pair by pair, medians, agreement, and the table."""

from __future__ import annotations

import pytest

from pipeline.benchmark.results import Found, agreement, ratio, reckoned, side, table


def test_ratios_are_pair_by_pair() -> None:
    ours = [{"seconds": 2.0}, {"seconds": 1.0}, {"seconds": 4.0}]
    other = [{"seconds": 6.0}, {"seconds": 5.0}, {"seconds": 4.0}]
    assert ratio(ours, other) == {"median": 3.0, "min": 1.0, "max": 5.0, "pairs": [3.0, 5.0, 1.0]}
    assert ratio([{"cpu_seconds": 1.0}], [{"cpu_seconds": 4.0}], "cpu_seconds")["median"] == 4.0


def test_a_sides_figures_are_medians_with_the_spread_of_its_speed() -> None:
    runs = [
        {"seconds": s, "pairs_per_second": 12 / s, "peak_rss_gib": s / 4, "same": {"rows": 3}} for s in (1.0, 2.0, 4.0)
    ]
    found = side(runs, {"watt_hours_per_1000_pairs": 0.5, "energy_method": "estimated"})
    assert (found["seconds"], found["pairs_per_second"], found["peak_rss_gib"]) == (2.0, 6.0, 0.5)
    assert (found["pairs_per_second_min"], found["pairs_per_second_max"]) == (3.0, 12.0)
    assert found["watt_hours_per_1000_pairs"] == 0.5
    assert side(runs, None)["watt_hours_per_1000_pairs"] is None


def test_a_trial_of_few_evaluations_tells_of_many() -> None:
    assert reckoned({"seconds": 12.0}, 1) == 12.0
    assert reckoned({"seconds": 12.0, "first_seconds": 6.0, "later_seconds": 2.5}, 14) == 6.0 + 13 * 2.5


def test_agreement_is_the_largest_difference() -> None:
    assert agreement({"losses": [1.0, 2.0]}, {"losses": [1.5, 2.25]}) == {"losses_largest_difference": 0.5}
    assert agreement({"measures": {"map": 0.5}}, {"measures": {"map": 0.25, "x": 1}}) == {
        "measures_largest_difference": 0.25
    }
    with pytest.raises(ValueError, match="shorter"):
        agreement({"losses": [1.0, 2.0]}, {"losses": [1.0]})


def result_of_quickstart() -> Found:
    phases = {"mine_seconds": 1.0, "train_seconds": 6.0, "evaluate_seconds": 3.0, "others_cpu_share_max": 0.25}
    kept = {f"upkeep_{kind}_seconds": spent for kind, spent in (("hash", 0.1), ("sync", 0.02), ("verify", 0.08))}
    ours = {"pairs_per_second": 8.0, "peak_rss_gib": 1.0, **phases, **kept, "upkeep_share": 0.02}
    reference = {"pairs_per_second": 4.0, "peak_rss_gib": 2.0, **phases, "mine_seconds": 0.0}
    reference["others_cpu_share_max"] = 0.5
    one = {"median": 2.0, "min": 2.0, "max": 2.0}
    ratios = dict.fromkeys(("ratio", "ratio_recipe", "ratio_cpu"), one)
    return {"ours": ours, "reference": reference, "recipe": reference, **ratios}


def test_a_case_with_phases_shows_them_and_what_upkeep_cost() -> None:
    lines = table(result_of_quickstart()).splitlines()
    assert "ours: mine 1.0 s, train 6.0 s, evaluate 3.0 s" in lines
    assert "reference: mine 0.0 s, train 6.0 s, evaluate 3.0 s" in lines
    assert "upkeep: 2.00% of our run (hash 0.10 s, sync 0.02 s, verify 0.08 s)" in lines
    assert lines[-1] == "other processes took up to 50% of the processors during a run"


def test_a_gpus_peak_has_a_column() -> None:
    found = result_of_quickstart()
    assert "GPU GiB" not in table(found)
    for name, peak in (("ours", 1.5), ("reference", 3.25)):
        found[name] = {**found[name], "peak_gpu_gib": peak}
    header, ours, reference = table(found).splitlines()[:3]
    assert (header.split()[-2:], ours.split()[-1], reference.split()[-1]) == (["GPU", "GiB"], "1.50", "3.25")
