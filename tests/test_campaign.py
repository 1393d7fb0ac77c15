"""The campaign's own bookkeeping, and the document that quotes a record."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.argument_parser import parse_arguments
from pipeline.config.command_arguments import Faults
from pipeline.core.errors import ArtifactError, ConfigError
from pipeline.faults import campaign
from pipeline.faults.campaign import CUTS, arguments, run
from pipeline.faults.kills import Record, undisturbed
from pipeline.faults.victim import Place


@pytest.mark.parametrize(("lost", "status"), [([], 0), (["run-1: x differs"], 2)])
def test_only_a_campaign_without_loss_ends_well(
    root: Path, monkeypatch: pytest.MonkeyPatch, lost: list[str], status: int
) -> None:
    monkeypatch.setattr(campaign, "run", lambda asked: (Record(lost=lost), Path("record.json")))
    monkeypatch.setattr(sys, "argv", ["faults.py"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(root / "scripts" / "faults.py"), run_name="__main__")
    assert (ended.value.code or 0) == status


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


def test_an_experiment_that_there_is_not_is_refused_before_any_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^experiment must be one of .*quickstart.*, got 'nope'\. Pass experiment="):
        run(Faults(experiment="nope", outputs_dir=str(tmp_path)))
    assert not any(tmp_path.iterdir())


def test_a_run_that_fails_without_a_fault_is_told_by_its_last_words(tmp_path: Path) -> None:
    class Failed(Place):
        def finish(self) -> int:
            (self.root / "said").write_text("a line\nerror: x must y, got z. Mend it.\n\n")
            return 2

    server: Any = None
    with pytest.raises(ArtifactError) as refused:
        undisturbed(Failed(tmp_path, [], server))
    said = "an undisturbed run must end well, got exit status 2. Its last line was: error: x must y, got z. Mend it."
    assert str(refused.value) == said


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
