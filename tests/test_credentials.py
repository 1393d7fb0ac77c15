"""Credentials are masked, and words that only look like them are not."""

from __future__ import annotations

import pytest

from pipeline.core.credentials import MASK, masked, masked_command


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("hub.token=abc", f"hub.token={MASK}"),
        ("+api_key=abc", f"+api_key={MASK}"),
        ("WANDB_API_KEY=abc", f"WANDB_API_KEY={MASK}"),
        ("password=123456", f"password={MASK}"),
        ("model.path=hf_abcdefghijklmnop", f"model.path={MASK}"),
        ("data.path=https://me:pw@example.org/x", f"data.path=https://{MASK}@example.org/x"),
        ("runtime.micro_batch_tokens=4096", "runtime.micro_batch_tokens=4096"),
        ("data.path=keyboards.jsonl", "data.path=keyboards.jsonl"),
        ("training.learning_rate=1e-4", "training.learning_rate=1e-4"),
        ("model.tokenizer=x", "model.tokenizer=x"),
    ],
)
def test_credentials_on_the_command_line_are_masked_and_other_words_are_not(word: str, shown: str) -> None:
    assert masked_command(["scripts/train.py", word]) == ["scripts/train.py", shown]


def test_an_option_s_value_is_masked_as_well() -> None:
    assert masked_command(["x", "--token", "abc", "seed=1"]) == ["x", "--token", MASK, "seed=1"]


def test_only_texts_are_masked_in_a_configuration() -> None:
    config = {
        "hub": {"token": "abc", "names": ["hf_abcdefghijkl"]},
        "runtime": {"micro_batch_tokens": 4096, "key": None},
    }
    assert masked(config) == {
        "hub": {"token": MASK, "names": [MASK]},
        "runtime": {"micro_batch_tokens": 4096, "key": None},
    }
