"""What is read from a finished run's files, and the reference's way of counting its first stage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from published_run import build, ranks_with_mean

from pipeline.core.errors import ArtifactError
from pipeline.evaluation.measures import per_query
from pipeline.reporting.run_figures import measured_run, reference_map, require_finished


def test_missing_positives_stand_below_the_list_unless_none_was_found() -> None:
    candidates = {"a": ["x", "p"], "b": ["x", "y"], "c": ["p", "x"]}
    qrels = {"a": {"p": 1, "q": 1}, "b": {"p": 1}, "c": {"p": 1, "x": 0}}
    # a: p at rank 2, q appended at rank 3: (1/2 + 2/3) / 2; b: nothing found, 0; c: 1.
    assert reference_map(candidates, qrels) == pytest.approx(((1 / 2 + 2 / 3) / 2 + 0 + 1) / 3)
    ours = per_query(candidates, qrels)["map"]
    assert ours == pytest.approx({"a": 1 / 4, "b": 0.0, "c": 1.0})


def test_the_references_way_is_its_evaluators() -> None:
    """sentence-transformers' own evaluator, on candidates that miss some positives, in a process of its own."""
    program = """
import numpy as np
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
class Model:
    model_card_data = None
    def predict(self, pairs, **_): return np.zeros(len(pairs))
samples = [
    {"query": "a", "positive": ["p", "q", "r"], "documents": ["x", "p", "y", "r", *map(str, range(20))]},
    {"query": "b", "positive": ["p"], "documents": ["x", "y"]},
    {"query": "c", "positive": ["p", "q"], "documents": ["q", "x", "y"]},
]
evaluator = CrossEncoderRerankingEvaluator(samples, write_csv=False, show_progress_bar=False)
evaluator.store_metrics_in_model_card_data = lambda *a, **k: None
print(repr(float(evaluator(Model())["base_map"])))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    candidates = {"a": ["x", "p", "y", "r", *map(str, range(20))], "b": ["x", "y"], "c": ["q", "x", "y"]}
    qrels = {"a": {"p": 1, "q": 1, "r": 1}, "b": {"p": 1}, "c": {"p": 1, "q": 1}}
    assert reference_map(candidates, qrels) == pytest.approx(float(done.stdout.split()[-1]), abs=1e-12)


def test_every_part_of_a_run_is_read(tmp_path: Path) -> None:
    found = measured_run(build(tmp_path, "gooaq_bert_tiny"))
    assert found.experiment == "gooaq_bert_tiny"
    assert found.counts == {"rows": 578_402, "positives": 99_000, "negatives": 479_402}
    assert sorted(found.losses) == [1, *range(20, 281, 20)]
    assert sorted(found.log) == [0, *range(20, 281, 20)]
    assert found.final["gooaq-dev"]["as_retrieved"]["map"] == 0.5677
    assert found.half_width["NanoNQ"]["positives_added"]["map"] == pytest.approx(0.04)
    assert found.base_map["NanoBEIR_R100_mean"] == pytest.approx((0.4896 + 0.2610 + 0.4196) / 3, abs=2e-4)
    assert found.best_step is None
    assert found.energy_kwh == pytest.approx(0.019, abs=1e-4)


def test_a_finished_run_names_its_evaluations(tmp_path: Path) -> None:
    assert require_finished(build(tmp_path, "gooaq_bert_tiny"))["NanoNQ"] == "NanoNQ-000000000003"


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("model/manifest.json", "never completed"),
        ("card/manifest.json", "never completed"),
        ("evaluations/NanoNQ-000000000003/manifest.json", "never completed"),
        ("evaluations/gooaq-dev-000000000000/measures.json", "is missing"),
        ("model/training.json", "altered|bytes"),
        ("model/metrics.jsonl", "altered|bytes"),
        ("card/README.md", "altered|bytes"),
        ("evaluations/NanoNQ-000000000003/qrels.trec", "altered|bytes"),
    ],
)
def test_an_unfinished_or_altered_run_is_refused(tmp_path: Path, part: str, said: str) -> None:
    run = build(tmp_path, "gooaq_bert_tiny")
    if said == "altered|bytes":
        (run / part).write_text("altered")
    else:
        (run / part).unlink()
    with pytest.raises(ArtifactError, match=rf"must be a finished, verified run, got: .*({said}).*Run its command"):
        measured_run(run)


def test_the_crafted_ranks_have_the_mean_asked_for() -> None:
    ranks = ranks_with_mean(0.2610)
    assert sum(1 / rank for rank in ranks if rank) / len(ranks) == pytest.approx(0.2610, abs=1e-4)
