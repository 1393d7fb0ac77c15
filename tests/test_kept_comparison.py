"""The comparison that a run's folder keeps: when the run's card shows it, and where."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import ModelCard
from published_run import build

from pipeline.core import artifacts
from pipeline.core.atomic import write_json
from pipeline.reporting.comparison import compare
from pipeline.reporting.kept_comparison import card_of, keep, kept
from pipeline.reporting.run_figures import measured_run


def test_card_with_a_comparison_can_be_parsed(tmp_path: Path) -> None:
    run = build(tmp_path, "gooaq_bert_tiny", lambda fact: 2.0 if fact["id"] == "loss/20" else fact["value"])
    assert card_of(run) == (run / "card" / "README.md").read_text()
    keep(run, compare(measured_run(run)))
    card = card_of(run)
    assert card.index("## Usage") < card.index("## Reproduction") < card.index("## Limitations")
    assert card.count("## Limitations") == 1 and card.endswith("- some\n")
    assert ModelCard(card, ignore_metadata_errors=True).text


def test_comparison_altered_or_of_other_figures_is_in_no_card(tmp_path: Path) -> None:
    run = build(tmp_path, "gooaq_bert_tiny")
    path = keep(run, compare(measured_run(run)))
    assert kept(run) is not None and "## Reproduction" in card_of(run)
    good = path.read_text()
    path.write_text(good.replace("OKish", "OK", 1))
    assert kept(run) is None and card_of(run) == (run / "card" / "README.md").read_text()
    for strange in ("{", json.dumps(artifacts.sealed({"files": {}})), "[]"):
        path.write_text(strange)
        assert kept(run) is None and "## Reproduction" not in card_of(run)
    path.write_text(good)
    manifest = artifacts.manifest_of(run / "card") or {}
    other = {**manifest, "key": {"evaluations": {"dev": "dev-0123"}}}
    write_json(run / "card" / artifacts.MANIFEST, artifacts.sealed(other))
    assert kept(run) is None and "## Reproduction" not in card_of(run)


def test_comparison_kept_by_an_earlier_version_is_still_shown(tmp_path: Path) -> None:
    run = build(tmp_path, "gooaq_bert_tiny")
    earlier = compare(measured_run(run))
    del earlier["below_first_stage"]
    keep(run, earlier)
    assert "## Reproduction" in card_of(run) and "below its first stage" not in card_of(run)
