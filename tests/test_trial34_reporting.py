"""The table with which `make evaluate` ends, and the progress of `make verify`, for one small run."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from composed_config import composed
from script_process import script_process

from pipeline.commands import verification
from pipeline.config.command_arguments import Verification
from pipeline.core import progress
from pipeline.stages.run import run

# --- scripts/evaluate, stages/card ---

TINY = [
    *["experiment=smoke", "data.limit=150", "data.dev_queries=20", "data.validation_queries=0", "runtime=cpu"],
    *["training.eval_sets=[]", "training.max_steps=6", "training.eval_steps=3", "mining.dev_depth=5"],
    *["runtime.workers=1", "runtime.threads=1", "emissions=off"],
    *["evaluation.bi_encoder=false", "evaluation.fusion=false"],
]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return the outputs of one run that was evaluated twice, and what both commands printed."""
    root = tmp_path_factory.mktemp("evaluated")
    with script_process(root) as process:
        done = [process.run("scripts/evaluate.py", *TINY, f"outputs_dir={root / 'outputs'}") for _ in range(2)]
    assert [one.status for one in done] == [0, 0], done
    return root / "outputs", [one.out for one in done]


def test_evaluate_ends_with_the_table_of_the_card_also_when_nothing_was_left_to_do(
    evaluated: tuple[Path, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    outputs, said = evaluated
    assert "evaluate  nothing to do" not in said[0] and "evaluate  nothing to do" in said[1]
    assert not (outputs / "latest" / "README.md").exists()
    tables = [text[text.index("\n\n") :] for text in said]
    assert tables[0] == tables[1] and re.search(r"^trained +\d\.\d{4}", tables[0], re.MULTILINE)
    with caplog.at_level(logging.INFO):
        run(composed(*TINY, f"outputs_dir={outputs}"))
    lines = caplog.messages[-1].strip().splitlines()
    without_card = [line for line in lines if not line.startswith("card ")]
    assert tables[0].strip().splitlines() == without_card != lines


# --- commands/verification ---


def test_verify_tokenises_towards_a_total(
    evaluated: tuple[Path, list[str]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, _ = evaluated
    run(composed(*TINY, f"outputs_dir={outputs}"))
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        found = verification.verify(Verification(outputs_dir=str(outputs)))
    assert found.verified, str(found)
    assert "steps 4 to 6 repeated" in str(found)
    (line,) = (line for line in caplog.messages if line.startswith("tokenising texts:"))
    assert re.search(r": 130 of 260, about \d", line)
