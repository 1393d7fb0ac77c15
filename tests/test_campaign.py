"""The campaign's own bookkeeping, and the document that quotes a record."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from pipeline.config.arguments import parse_arguments
from pipeline.config.asked import Faults
from pipeline.core.errors import ConfigError
from pipeline.faults.campaign import CUTS, arguments, status
from pipeline.faults.kills import Record


def test_only_a_campaign_without_loss_ends_well() -> None:
    assert status(Record()) == 0
    assert status(Record(lost=["run-1: x differs"])) == 2


def test_arguments() -> None:
    assert arguments(parse_arguments(Faults, ["kills=20", "seed=1"])) == ["experiment=smoke", *CUTS["smoke"]]
    assert arguments(Faults(experiment="quickstart")) == ["experiment=quickstart"]
    short = arguments(parse_arguments(Faults, ["experiment=quickstart", "cut=true"]))
    assert short == ["experiment=quickstart", *CUTS["quickstart"]]
    assert arguments(Faults(cut=False)) == ["experiment=smoke"]
    with pytest.raises(
        ConfigError, match="cut=true must go with experiment=smoke or quickstart, got 'gooaq_bert_tiny'"
    ):
        arguments(Faults(experiment="gooaq_bert_tiny", cut=True))
    with pytest.raises(ConfigError, match="chain must be at least 1, got 0"):
        Faults(chain=0)


def test_the_documents_table_is_the_records(root: Path) -> None:
    record = json.loads((root / ".github" / "records" / "reference_faults.json").read_text())
    text = (root / ".github" / "FAULTS.md").read_text()
    outcomes = ("crash", "other weights, silently", "the same weights")
    for fault in ("missing", "truncated", "flipped"):
        counted = Counter(case["outcome"] for case in record["by_fault"] if case["fault"] == fault)
        row = re.search(rf"^\| {fault} \| (\d+) \| (\d+) \| (\d+) \|$", text, re.M)
        assert row is not None and [int(n) for n in row.groups()] == [counted[outcome] for outcome in outcomes]
    total = " | ".join(str(record["outcomes"][outcome]) for outcome in outcomes)
    assert f"| all {record['faults']} | {total} |" in text
    assert record["control"] == "the same weights"
