"""A campaign of faults: its arguments, its refusals and its exit status."""

from __future__ import annotations

import runpy
import sys
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


@pytest.mark.parametrize(("lost", "status"), [([], 0), (["run-1: x differs"], 2)], ids=["nothing", "a result"])
def test_campaign_exits_with_status_2_if_anything_was_lost(
    root: Path, monkeypatch: pytest.MonkeyPatch, lost: list[str], status: int
) -> None:
    monkeypatch.setattr(campaign, "run", lambda arguments: (Record(lost=lost), Path("record.json")))
    monkeypatch.setattr(sys, "argv", ["faults.py"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(root / "scripts" / "faults.py"), run_name="__main__")
    assert (ended.value.code or 0) == status


def test_experiment_is_cut_by_default_only_if_smoke() -> None:
    assert arguments(parse_arguments(Faults, ["kills=20", "seed=1"])) == ["experiment=smoke", *CUTS["smoke"]]
    assert arguments(Faults(experiment="quickstart")) == ["experiment=quickstart"]
    short = arguments(parse_arguments(Faults, ["experiment=quickstart", "cut=true"]))
    assert short == ["experiment=quickstart", *CUTS["quickstart"]]
    assert arguments(Faults(cut=False)) == ["experiment=smoke"]


def test_cut_of_an_experiment_without_one_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="cut=true must go with experiment=smoke or quickstart, got 'gooaq_bert_tiny'"
    ):
        arguments(Faults(experiment="gooaq_bert_tiny", cut=True))


def test_chain_of_no_kills_is_refused() -> None:
    with pytest.raises(ConfigError, match="chain must be at least 1, got 0"):
        Faults(chain=0)


def test_unknown_experiment_is_refused_before_any_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^experiment must be one of .*quickstart.*, got 'nope'\. Pass experiment="):
        run(Faults(experiment="nope", outputs_dir=str(tmp_path)))
    assert not any(tmp_path.iterdir())


def test_refusal_quotes_the_last_line_of_an_undisturbed_run_that_failed(tmp_path: Path) -> None:
    class Failed(Place):
        def finish(self) -> int:
            (self.root / "said").write_text("a line\nerror: x must y, got z. Mend it.\n\n")
            return 2

    server: Any = None
    with pytest.raises(ArtifactError) as refused:
        undisturbed(Failed(tmp_path, [], server))
    assert str(refused.value) == (
        "an undisturbed run must end well, got exit status 2. Its last line was: error: x must y, got z. Mend it."
    )
