"""The quickstart beside sentence-transformers: equal rows and figures, and what upkeep costs in the real stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.benchmark import quickstart
from pipeline.benchmark.cases import CASES, Case
from pipeline.benchmark.measured_run import run
from pipeline.benchmark.results import agreement

SMALL = ["data.packages=[networkx]", "model=random_tiny", "training.precision=fp32", "evaluation.precision=fp32"]


def test_fewer_rows_shorten_data_sets_and_steps_in_proportion(tmp_path: Path) -> None:
    whole = quickstart.configuration([], tmp_path)
    assert CASES[Case.quickstart].rows == (whole.training.max_steps or 0) * whole.training.batch_size
    assert CASES[Case.quickstart].batch_size == whole.training.batch_size
    steps, evaluations, rows, dev, validation = quickstart.scaled(whole, 2_304, 18_745)
    assert (steps, evaluations) == ("training.max_steps=72", "training.eval_steps=36")
    assert rows == f"data.limit={round(18_745 / 10)}"
    assert dev == f"data.dev_queries={whole.data.dev_queries // 10}"
    assert validation == f"data.validation_queries={whole.data.validation_queries // 10}"
    same = quickstart.configuration(quickstart.scaled(whole, 23_040, 18_745), tmp_path)
    assert (same.training, same.mining, same.evaluation) == (whole.training, whole.mining, whole.evaluation)
    assert (same.data.dev_queries, same.data.validation_queries) == (
        whole.data.dev_queries,
        whole.data.validation_queries,
    )


@pytest.mark.slow
def test_both_sides_do_the_same_work_and_upkeep_is_measured(tmp_path: Path) -> None:
    quickstart.prepare(64, tmp_path, SMALL)
    ours = run(Case.quickstart, None, tmp_path, energy=False)
    reference = run(Case.quickstart, {"attention": "sdpa", "batch_size": 32}, tmp_path, energy=False)
    assert ours["pairs"] == reference["pairs"] == 64
    assert ours["same"]["rows"] == len(json.loads((tmp_path / "rows.json").read_text())["train"]["label"])
    differences = agreement(ours["same"], reference["same"])
    assert set(differences) == {
        "rows_largest_difference",
        "measures_untrained_largest_difference",
        "measures_trained_largest_difference",
        "measures_bi_encoder_largest_difference",
    }
    # One swap of neighbours in one of 20 queries moves a mean by up to 0.025.
    assert differences["rows_largest_difference"] == 0
    assert max(differences.values()) < 0.03
    assert ours["same"]["measures_bi_encoder"]["ndcg@10"] > 0.5
    for side in (ours, reference):
        phases = [side[f"{phase}_seconds"] for phase in ("mine", "train", "evaluate")]
        assert sum(phases) == pytest.approx(side["seconds"], rel=0.2)
    assert reference["mine_seconds"] == 0 < ours["mine_seconds"]
    kinds = [ours[f"upkeep_{kind}_seconds"] for kind in ("hash", "sync", "verify")]
    assert min(kinds) > 0
    assert ours["upkeep_seconds"] == pytest.approx(sum(kinds))
    assert 0 < ours["upkeep_share"] < 1
