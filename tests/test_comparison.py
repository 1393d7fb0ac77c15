"""Runs beside the published figures: one that agrees, one that does not, and each band at its edge."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from published_run import build

from pipeline.core.errors import ConfigError
from pipeline.core.markdown import escape
from pipeline.reporting.comparison import FACTS, as_section, as_text, compare, published
from pipeline.reporting.run_figures import Measured, measured_run

EXPERIMENTS = ("gooaq_bert_tiny", "gooaq_modernbert_large")
STATUSES = {"config test", "loopback test", "needs a hub", "needs a GPU"}
KINDS = {"rows": 3, "first_stage": 15, "loss": (15, 46), "log": (75, 50), "final": (15, 18)}


def rows_of(comparison: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in comparison["rows"]}


@pytest.mark.parametrize("column", [0, 1], ids=EXPERIMENTS)
def test_every_fact_has_an_id_of_its_own_and_one_status(column: int) -> None:
    facts = published(EXPERIMENTS[column])["facts"]
    assert len({fact["id"] for fact in facts}) == len(facts)
    assert {fact["status"] for fact in facts} == STATUSES
    for kind, count in KINDS.items():
        expected = count[column] if isinstance(count, tuple) else count
        assert sum(fact["kind"] == kind for fact in facts) == expected, kind


def test_the_facts_agree_with_each_other() -> None:
    for experiment in EXPERIMENTS:
        facts = published(experiment)["facts"]
        first = {(f["set"], f["measure"]): f["value"] for f in facts if f["kind"] == "first_stage"}
        gains = [fact for fact in facts if "gain" in fact]
        assert len(gains) > 60
        for fact in gains:  # each of the three is rounded to four digits
            assert fact["value"] - fact["gain"] == pytest.approx(first[fact["set"], fact["measure"]], abs=1.1e-4)
    rows = {fact["id"]: fact["value"] for fact in facts if fact["kind"] == "rows"}
    assert rows["rows/rows"] == rows["rows/positives"] + rows["rows/negatives"] == 578_402


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_run_that_agrees_is_ok_in_every_row(tmp_path: Path, experiment: str) -> None:
    found = compare(measured_run(build(tmp_path, experiment)))
    others = [row["id"] for row in found["rows"] if row["verdict"] != "OK"]
    assert others == [row["id"] for row in found["rows"] if row["id"].startswith("log/0/")]
    assert found["verdicts"] == {"OK": len(found["rows"]) - len(others), "OKish": len(others), "FAIL": 0}
    assert len(found["rows"]) == sum(
        fact["kind"] in ("rows", "first_stage", "loss", "log", "best_step", "final", "energy")
        for fact in published(experiment)["facts"]
    )


def test_a_run_that_disagrees_fails_where_it_does(tmp_path: Path) -> None:
    def worse(fact: dict[str, Any]) -> float:
        if fact["kind"] == "rows":
            return float(fact["value"] - 1)
        factor = {"loss": 1.1, "energy": 2.0}
        return float(fact["value"] * factor[fact["kind"]] if fact["kind"] in factor else fact["value"] + 0.1)

    found = compare(measured_run(build(tmp_path, "gooaq_bert_tiny", worse)))
    by_id = rows_of(found)
    assert found["verdicts"]["OK"] == 0
    assert {row["verdict"] for name, row in by_id.items() if not name.startswith(("log/0/", "energy"))} == {"FAIL"}
    assert by_id["log/0/gooaq-dev"]["verdict"] == "OKish" and "random" in by_id["log/0/gooaq-dev"]["note"]
    assert by_id["energy/training"]["verdict"] == "OKish" and "machine" in by_id["energy/training"]["note"]


@pytest.mark.parametrize(
    ("name", "ours", "verdict"),
    [
        ("loss/280", 0.8996 * 1.029, "OK"),
        ("loss/280", 0.8996 * 0.971, "OK"),
        ("loss/280", 0.8996 * 1.031, "OKish"),
        ("loss/280", 0.8996 * 1.061, "FAIL"),
        ("log/280/gooaq-dev", 0.6157 + 0.0059, "OK"),
        ("log/280/gooaq-dev", 0.6157 - 0.0061, "OKish"),
        ("log/280/gooaq-dev", 0.6157 + 0.0121, "FAIL"),
        ("log/280/NanoNQ", 0.4859 + 0.039, "OK"),
        ("log/280/NanoNQ", 0.4859 - 0.041, "OKish"),
        ("log/280/NanoNQ", 0.4859 + 0.081, "FAIL"),
        ("final/gooaq-dev/as_retrieved/ndcg@10", 0.6157 - 0.0059, "OK"),
        ("final/NanoBEIR_R100_mean/positives_added/map", 0.3942 + 0.05, "OKish"),
        ("first-stage/gooaq-dev/ndcg@10", 0.5912 + 0.0001, "OK"),
        ("first-stage/gooaq-dev/ndcg@10", 0.5912 + 0.0019, "OKish"),
        ("first-stage/gooaq-dev/ndcg@10", 0.5912 + 0.0021, "FAIL"),
        ("rows/rows", 578_401, "FAIL"),
    ],
)
def test_a_band_ends_where_it_is_said_to(tmp_path: Path, name: str, ours: float, verdict: str) -> None:
    run = build(tmp_path, "gooaq_bert_tiny", lambda fact: ours if fact["id"] == name else fact["value"])
    row = rows_of(compare(measured_run(run)))[name]
    assert (row["verdict"], row["ours"]) == (verdict, pytest.approx(ours))


def test_a_count_off_by_few_fails_with_its_likely_reason() -> None:
    notes = {}
    for rows in (578_402, 578_401, 577_824, 577_823):
        row = rows_of(compare(Measured("gooaq_bert_tiny", counts={"rows": rows})))["rows/rows"]
        notes[rows] = (row["verdict"], "rounding" in row["note"])
    assert notes == {578_402: ("OK", False), 578_401: ("FAIL", True), 577_824: ("FAIL", True), 577_823: ("FAIL", False)}


def test_sets_on_which_the_published_model_is_below_its_first_stage_are_said() -> None:
    tiny = compare(Measured("gooaq_bert_tiny"))
    said = "The published model itself is below its first stage on NanoMSMARCO, NanoNQ, NanoBEIR_R100_mean (nDCG@10)."
    assert as_text(tiny).endswith(f" FAIL. {said}\n") and escape(said) in as_section(tiny)
    for none in (compare(Measured("gooaq_modernbert_large")), compare(Measured("gooaq_bert_tiny"), ("rows",))):
        assert none["below_first_stage"] == [] and "below" not in as_text(none) + as_section(none)


def test_another_best_step_is_okish(tmp_path: Path) -> None:
    run = build(tmp_path, "gooaq_modernbert_large", lambda fact: 9000 if fact["id"] == "best-step" else fact["value"])
    assert rows_of(compare(measured_run(run)))["best-step"]["verdict"] == "OKish"


def test_what_was_not_measured_fails_and_says_so() -> None:
    found = compare(Measured("gooaq_modernbert_large"))
    assert found["verdicts"] == {"OK": 0, "OKish": 0, "FAIL": len(found["rows"])}
    assert all(row["ours"] is None and row["note"] for row in found["rows"])


def test_the_first_stage_alone_has_rows_and_figures_only() -> None:
    found = compare(Measured("gooaq_bert_tiny"), ("rows", "first_stage"))
    assert [row["id"].split("/")[0] for row in found["rows"]] == ["rows"] * 3 + ["first-stage"] * 15


def test_a_map_counted_the_references_way_says_both_figures() -> None:
    measured = Measured("gooaq_bert_tiny")
    measured.first_stage["NanoNFCorpus"] = {"map": 0.2512, "mrr@10": 0.4998, "ndcg@10": 0.3250}
    measured.base_map["NanoNFCorpus"] = 0.2610
    row = rows_of(compare(measured))["first-stage/NanoNFCorpus/map"]
    assert (row["verdict"], row["ours"]) == ("OK", 0.2610)
    assert "0.2512" in row["note"] and "missing positives" in row["note"]


def test_text_and_section_hold_every_row(tmp_path: Path) -> None:
    run = build(tmp_path, "gooaq_bert_tiny", lambda fact: 2.0 if fact["id"] == "loss/20" else fact["value"])
    found = compare(measured_run(run))
    text, section = as_text(found), as_section(found)
    for row in found["rows"]:
        assert row["id"] in text
    untrained = sum(row["id"].startswith("log/0/") for row in found["rows"])
    assert f": {len(found['rows']) - 1 - untrained} OK, {untrained} OKish, 1 FAIL." in text.splitlines()[-1]
    assert section.count("| FAIL | loss/20 | 1.1664 | 2.0000 | ±3% |") == 1
    assert section.count("\n| OK") == len(found["rows"]) - 1, "each row once, the OKish on top"


def test_an_experiment_without_published_figures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"experiment must have published figures, got 'smoke'\. Published .*tiny"):
        compare(Measured("smoke"))
    own = tmp_path / "facts.json"
    own.write_text(json.dumps({"smoke": {"hub_id": "a/b", "facts": []}}))
    assert compare(Measured("smoke"), path=own)["rows"] == []


def test_the_facts_lie_in_the_package() -> None:
    assert FACTS.is_file() and FACTS.parent.name == "reporting"


def test_long_name_widens_its_column() -> None:
    row = {"id": "x" * 60, "published": 1.0, "ours": 0.5, "band": "", "verdict": "OK", "note": "why"}
    text = as_text({"experiment": "e", "published": "p", "verdicts": {"OK": 1}, "rows": [row, {**row, "id": "y"}]})
    head, *rows, _ = text.splitlines()
    assert {line.index("why") for line in rows} == {head.index("note")}


def test_nan_is_shown_as_nan() -> None:
    row = {"id": "x", "published": 1.0, "ours": math.nan, "band": "", "verdict": "FAIL", "note": ""}
    text = as_text({"experiment": "e", "published": "p", "verdicts": {"FAIL": 1}, "rows": [row]})
    assert text.splitlines()[1].split() == ["FAIL", "x", "1.0000", "nan"]
