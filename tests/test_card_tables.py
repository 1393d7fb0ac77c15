"""The card's tables: the published log row by row, and what an evaluation's parameters say was used."""

from __future__ import annotations

import json
from pathlib import Path

import run_facts

from pipeline.reporting.card_tables import evaluations, log_table


def test_the_published_log_is_a_table_of_its_rows_with_the_best_in_bold(tmp_path: Path) -> None:
    log = log_table(run_facts.write_recipe(tmp_path, run_facts.LARGE))
    names = ["gooaq-dev", "NanoMSMARCO", "NanoNFCorpus", "NanoNQ", "NanoBEIR_R100_mean"]
    assert log["heads"] == ["Epoch", "Step", "Training Loss", *(f"{name}_ndcg@10" for name in names)]
    # 46 losses, the untrained model, the last step, the saved model.
    assert len(log["rows"]) == 46 + 3 and log["rows"][-1][1] == "saved model"
    bold = [row for row in log["rows"] if any("**" in cell for cell in row)]
    assert len(bold) == 1 and bold[0][:2] == ["**0.8852**", "**8000**"] and log["has_kept"]
    evaluated = [row for row in log["rows"] if row[3].strip("*") != "-"]
    assert len(evaluated) == 10 + 2, "the published ten, the last step's, the saved model's"


def test_a_list_is_as_deep_as_its_set_s_own(tmp_path: Path) -> None:
    found = evaluations(run_facts.write(tmp_path))
    depths = {of["name"]: json.loads(of["parameters"])["rerank_k"] for of in found}
    assert depths == {"gooaq-dev": 30, "NanoMSMARCO": 100, "NanoNQ": 100, "NanoBEIR_R100_mean": 100}
    stages = {of["name"]: of["first_stage"] for of in found}
    assert stages["NanoNQ"] == "BM25, from the lists that come with NanoBEIR"
    assert stages["NanoBEIR_R100_mean"] == "each set's own"
    added = {of["protocol"]: json.loads(of["parameters"])["always_rerank_positives"] for of in found}
    assert added == {"as_retrieved": False, "positives_added": True}
