"""Messages about settings without effect, and about texts that the tokenizer does not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_fixtures import sentences
from small_models import training_config
from tiny_run import run_tiny

from pipeline.inputs.batching import Plan
from pipeline.stages.notices import say_steps

ROWS = 160


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"max_steps": 3}, ["train     48 of 160 rows are used, because training.max_steps=3 (null: all)"]),
        ({"max_steps": 0, "keep_best": True, "eval_steps": 4}, []),
        (
            {"max_steps": 1},
            [
                "train     16 of 160 rows are used, because training.max_steps=1 (null: all)",
                "training.warmup_ratio=0.1 makes all 1 steps warm-up, the first at a learning rate of 0",
            ],
        ),
        (
            {"max_steps": 21, "epochs": 2},
            ["training.max_steps=21 is not reached: training.epochs=2 gives 20 steps. Raise training.epochs for more"],
        ),
        (
            {"eval_steps": 11, "keep_best": True},
            [
                "training.keep_best has nothing to choose from: the run's 10 steps end before the first evaluation at "
                "training.eval_steps=11, and the last step's weights are kept"
            ],
        ),
    ],
    ids=["none", "max_steps below the rows", "no step", "warm-up only", "max_steps not reached", "no evaluated step"],
)
def test_settings_without_effect_are_logged(
    values: dict[str, Any], expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = training_config(**values)
    say_steps(config, Plan(ROWS, config.batch_size, config.epochs, 12, config.max_steps))
    assert caplog.messages == expected


def test_texts_unknown_to_the_tokenizer_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, script = tmp_path / "pairs.jsonl", str.maketrans("abcdefghijklmnopqrstuvwxyz", "กขฃคฅฆงจฉชซฌญฎฏฐฑฒณดตถทธนบ")
    rows = [{"question": q.translate(script), "answer": a.translate(script)} for q, a in sentences(130)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = run_tiny(tmp_path / "outputs", "data=local", f"data.path={path}", "data.limit=null")
    (message,) = [message for message in caplog.messages if "are unknown to its tokenizer" in message]
    assert message.startswith("model.path: ") and "Pass a model for the texts' language" in message
    assert "**Unknown Tokens:** " in (run / "README.md").read_text()
