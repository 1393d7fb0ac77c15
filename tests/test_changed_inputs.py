"""Local inputs that change after a run has hashed them: nothing is published under the old content's name."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_fixtures import sentences
from tiny_run import local_pairs, tiny_config, write_grades

from pipeline.core import artifacts
from pipeline.core.errors import DataError
from pipeline.stages.run import run


@pytest.mark.parametrize(
    ("key", "reader", "published"),
    [
        ("data.path", "mine.mine_pairs", "mined/*"),
        ("data.dev_path", "mine.mine_pairs", "mined/*"),
        ("model.path", "train.load", "runs/*/model"),
        ("model.path", "evaluate.evaluation_set", "runs/*/evaluations/*"),
        ("evaluation.rivals", "evaluate.evaluation_set", "runs/*/evaluations/*"),
        ("evaluation.collections", "evaluate.evaluation_set", "runs/*/evaluations/beir*"),
    ],
)
def test_input_changed_after_hashing_publishes_nothing(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, reader: str, published: str
) -> None:
    pairs, dev, base, rival, beir = (tmp_path / name for name in ("pairs.jsonl", "dev.jsonl", "base", "rival", "beir"))
    words = [*local_pairs(pairs), f"data.dev_path={dev}", "model=custom", f"model.path={base}", "model.max_length=128"]
    words += ["training.max_steps=1", f"evaluation.rivals=[{rival}]", f"evaluation.collections=[{beir}]"]
    lines = [json.dumps({"question": q, "answer": a}) + "\n" for q, a in sentences(150)]
    dev.write_text("".join(lines[130:]))
    for folder in (base, rival):
        shutil.copytree(finished_run / "model", folder)
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl").write_text('{"_id": "a", "text": "apples"}\n{"_id": "b", "text": "houses"}\n')
    (beir / "queries.jsonl").write_text('{"_id": "1", "text": "apples"}\n')
    write_grades(beir, "1\ta\t1\n")
    changing = {
        "data.path": (pairs, pairs), "data.dev_path": (dev, dev), "model.path": (base, base / "config.json"),
        "evaluation.rivals": (rival, rival / "config.json"), "evaluation.collections": (beir, beir / "corpus.jsonl"),
    }  # fmt: skip
    given, file = changing[key]
    stage, name = reader.split(".")
    module = sys.modules[f"pipeline.stages.{stage}"]
    read, outputs = getattr(module, name), tmp_path / "outputs"

    def read_after_a_change(*arguments: Any, **others: Any) -> Any:
        with file.open("a") as stream:
            stream.write("\n")
        return read(*arguments, **others)

    config = tiny_config(outputs, *words, f"stop_after={stage}")
    with monkeypatch.context() as patch, pytest.raises(DataError) as error:
        patch.setattr(module, name, read_after_a_change)
        run(config)
    assert str(error.value) == (
        f"{key}={given} must stay unchanged while a run reads it, got new content. Run the same command again."
    )
    assert not list(outputs.glob(f"{published}/{artifacts.MANIFEST}"))
    assert not list(outputs.glob("runs/*/checkpoints/*")) or stage == "evaluate"
    run(config)
    assert list(outputs.glob(f"{published}/{artifacts.MANIFEST}"))
