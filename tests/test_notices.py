"""What is said of settings that do not do what one might think."""

from __future__ import annotations

from typing import Any

import pytest
from small_models import training_config

from pipeline.inputs.batching import Plan
from pipeline.stages.notices import say_steps

ROWS = 160


@pytest.mark.parametrize(
    ("values", "said"),
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
    ids=["nothing to say", "some rows", "no step", "warm-up alone", "more steps than there are", "nothing to choose"],
)
def test_settings_that_come_to_nothing_are_told(
    values: dict[str, Any], said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = training_config(**values)
    say_steps(config, Plan(ROWS, config.batch_size, config.epochs, 12, config.max_steps))
    assert caplog.messages == said
