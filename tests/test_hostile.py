"""Nasty rows: each is handled or refused in one sentence that names file and line; nothing is written elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from composed_config import composed
from hub_fixtures import sentences
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from injected_faults import MaliciousPickle
from refusals import one_line_refusal

from pipeline.commands.prediction import read_passages
from pipeline.config.data import DataConfig, Source
from pipeline.config.schema import Config
from pipeline.core.artifacts import MANIFEST, problems
from pipeline.core.errors import DataError, PipelineError
from pipeline.core.records import AS_RETRIEVED, PROTOCOLS, TRAINED, RerankingSet, Split
from pipeline.data import storage
from pipeline.data.beir import read_beir
from pipeline.data.source import load as load_pairs
from pipeline.data.trec import read_qrels, read_run
from pipeline.evaluation import evaluator
from pipeline.stages.mine import mine
from pipeline.stages.plan import RunPlan
from pipeline.stages.run import run

TEXTS = {
    "empty": "",
    "white space": " \t\n\u00a0\u2003\u3000 ",
    "long": "passage " * 125_000,
    "NUL": "a\0b \0 answer",
    "control": "".join(map(chr, range(1, 32))) + "\x7f\x85 answer",
    "lone surrogates": "\ud83d cut \udc00 emoji",
    "line separators": "one\u2028two\u2029three",
    "right to left": "\u202eشرح الدالة\u202c עברית",
    "combining": "Z\u0351\u036b\u0343a\u0329\u0317l" * 50,
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 20,
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(2)> <b>bold</b>",
    "Markdown": "| a | b |\n|---|---|\n```\n# heading\n---\nlicense: evil\n[x](javascript:alert(3))",
    "template": "{{ 7*7 }} {% raw %} ${oc.env:HOME} %(x)s {0}",
    "path": "../../../etc/passwd",
    "unassigned": "\U000e0001\ufffe\uffff \U0010fffd",
    "one character": "?",
}
CONFIGURATION = [
    *["experiment=smoke", "data=local", "data.dev_queries=20", "data.validation_queries=0", "mining.dev_depth=5"],
    *["runtime=cpu", "runtime.workers=1", "runtime.threads=1", "emissions=off", "evaluation.bi_encoder=false"],
    *["evaluation.fusion=false", "training.eval_sets=[]", "training.max_steps=2", "training.eval_steps=0"],
    "data.limit=null",
]
GENERATED = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)  # the same rows in every run of the tests
ANY_TEXT = st.text(st.characters(), max_size=40) | st.sampled_from([t for t in TEXTS.values() if len(t) < 10_000])
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=5,
)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def plain_rows(count: int = 120) -> list[dict[str, Any]]:
    return [{"question": question, "answer": answer} for question, answer in sentences(count, seed=5)]


def nasty_rows() -> list[dict[str, Any]]:
    """Each text as a question and as an answer, and a pair of both."""
    rows = [{"question": f"what about number {i}", "answer": text} for i, text in enumerate(TEXTS.values())]
    rows += [{"question": text[:2000], "answer": f"an answer for number {i}"} for i, text in enumerate(TEXTS.values())]
    return [*rows, *({"question": text[:2000], "answer": text[::-1]} for text in TEXTS.values())]


def configured(data: Path, outputs: Path, *overrides: str) -> Config:
    return composed(*CONFIGURATION, f"data.path={data}", f"outputs_dir={outputs}", *overrides)


def load(path: Path, **keys: Any) -> Split:
    config = DataConfig(name="t", source=Source.local, path=str(path), dev_queries=20, **keys)
    return load_pairs(config, source=None, cache=path.parent / "cache")


def mined_rows(root: Path, rows: list[dict[str, Any]]) -> storage.LabelledPairs:
    """MINE over the rows, every text of it usable, and nothing written but `outputs/`."""
    data = write(root / "rows.jsonl", rows)
    folder = mine(RunPlan(configured(data, root / "outputs")))
    assert problems(folder) == []
    found = storage.read_rows(folder)
    for text in (*found.questions, *found.passages):
        assert text.strip() and "\0" not in text
        text.encode()  # no half of a surrogate pair is left
    assert np.isfinite(found.label).all()
    nothing_outside(root, data)
    return found


def nothing_outside(root: Path, data: Path) -> None:
    assert {path.name for path in root.iterdir()} == {"outputs", data.name}


# --- Rows -------------------------------------------------------------------------------------------------------------


def test_a_thousand_generated_rows_are_mined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    row = st.fixed_dictionaries({"question": ANY_TEXT, "answer": ANY_TEXT})

    @settings(GENERATED, max_examples=25)
    @given(st.lists(row, min_size=50, max_size=60))
    def every(rows: list[dict[str, Any]]) -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path) as root:
            monkeypatch.chdir(root)
            mined_rows(Path(root), [*plain_rows(), *rows])
            monkeypatch.chdir(tmp_path)
        tried.append(len(rows))

    every()
    assert sum(tried) >= 1000


def test_the_listed_rows_go_through_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = [{"question": f"<script>alert({i})</script> how", "answer": TEXTS["HTML"] + str(i)} for i in range(60)]
    data = write(tmp_path / "rows.jsonl", [*hostile, *plain_rows(60), *nasty_rows()])
    folder = run(configured(data, tmp_path / "outputs", "data.title='<img src=x onerror=alert(9)>'"))
    assert folder is not None
    for found in (path.parent for path in (tmp_path / "outputs").rglob(MANIFEST)):
        assert problems(found) == []
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.count("\n---\n") == 1, "a row cannot end the card's own front matter"
    front, _, body = card.partition("\n---\n")
    assert "alert(" in body, "the examples show the rows"
    assert not re.search(r"<(script|img)\b", body, re.I)
    assert "alert(1" not in front and "license" not in yaml.safe_load(front)
    reading = json.loads(next((tmp_path / "outputs" / "mined").glob("*/statistics.json")).read_text())["reading"]
    assert {name for name, count in reading.items() if count} >= {"texts_with_nul", "texts_with_lone_surrogate"}
    nothing_outside(tmp_path, data)


def test_halves_of_surrogate_pairs_are_mended_wherever_texts_and_ids_are_read(tmp_path: Path) -> None:
    cut = TEXTS["lone surrogates"]
    folder = tmp_path / "beir"
    folder.mkdir()
    write(folder / "queries.jsonl", [{"_id": "q", "text": cut}, {"_id": cut, "text": "b"}])
    write(folder / "corpus.jsonl", [{"_id": "p", "text": "passage", "title": cut}, {"_id": f"p{cut}", "text": cut}])
    (folder / "qrels.tsv").write_text("q\tp\t1\n")
    found = read_beir(folder, "beir")
    rows = [{**row, "doc": cut + str(i)} for i, row in enumerate(plain_rows())]
    corpus = write(tmp_path / "corpus.jsonl", [{"_id": cut + str(i), "text": f"{cut} {i}"} for i in range(3)])
    split = load(write(tmp_path / "rows.jsonl", rows), group_column="doc", corpus_path=str(corpus))
    assert split.train.groups is not None
    texts, ids = read_passages(corpus)
    for text in (*found.queries.values(), *found.queries, *found.passages.values(), *found.passages):
        text.encode()
    for text in (*split.train.groups, *split.corpus, *texts, *(ids or ["\ud800"])):
        text.encode()


@pytest.mark.parametrize("value", [3, 2.5, True, ["a"], {"a": 1}])
@pytest.mark.parametrize("column", ["question", "answer"])
def test_what_is_no_text_is_refused_with_file_and_line(tmp_path: Path, value: Any, column: str) -> None:
    rows = plain_rows()
    rows[41][column] = value
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 42, key '{column}' must be text, got ") as refused:
        load(write(tmp_path / "rows.jsonl", rows))
    one_line_refusal(refused.value)


def test_any_json_at_all_is_read_or_refused_in_one_sentence(tmp_path: Path) -> None:
    said = []
    pair = st.fixed_dictionaries({"question": ANY_JSON, "answer": ANY_JSON})

    @settings(GENERATED, max_examples=400)
    @given(ANY_JSON | pair, st.integers(0, 120))
    def every(row: Any, at: int) -> None:
        rows: list[Any] = plain_rows()
        rows.insert(at, row)
        try:
            load(write(tmp_path / "rows.jsonl", rows))
        except PipelineError as error:
            said.append(one_line_refusal(error))
            assert f"rows.jsonl, line {at + 1}" in said[-1]

    every()
    assert len(said) > 100


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_any_bytes_at_all_are_read_or_refused_in_one_sentence(tmp_path: Path, suffix: str) -> None:
    said = []
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        good = write(path, plain_rows()).read_bytes()
    elif suffix == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(plain_rows()), path)
        good = path.read_bytes()
    else:
        mark = "," if suffix == "csv" else "\t"
        lines = [mark.join(("question", "answer")), *(mark.join(row.values()) for row in plain_rows())]
        good = "\n".join(lines).encode() + b"\n"

    @settings(GENERATED, max_examples=100)
    @given(st.integers(0, len(good)), st.integers(0, 40), st.binary(max_size=40))
    def every(at: int, cut: int, put: bytes) -> None:
        path.write_bytes(good[:at] + put + good[at + cut :])
        try:
            load(path)
        except PipelineError as error:
            said.append(one_line_refusal(error))
            assert path.name in said[-1]

    every()
    assert said


def test_ten_thousand_positives_of_one_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    many = [{"question": "the one question", "answer": f"positive number {i}"} for i in range(10_000)]
    mined = mined_rows(tmp_path, [*plain_rows(), *many])
    one = mined.questions.index("the one question")  # by the seed it is a training question
    of_one = mined.question == one
    positives = {mined.passages[p] for p in mined.passage[of_one & (mined.label == 1)]}
    negatives = {mined.passages[p] for p in mined.passage[of_one & (mined.label == 0)]}
    assert len(positives) == 10_000
    assert not positives & negatives


def test_a_dev_set_equal_to_the_train_set_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", plain_rows())
    with pytest.raises(
        DataError, match="must hold pairs that are not in the training data, got 120 rows that are all in"
    ):
        load(data, dev_path=str(data))


# --- Ids --------------------------------------------------------------------------------------------------------------

NASTY_IDS = ["../../x", "/etc/passwd", "a\tb", "a\nb", "a b", "%20", "", "ünï", "\u2028", "CON", "-", "a\\b", "<b>"]


def test_nasty_ids_survive_trec_files_and_stay_inside(tmp_path: Path) -> None:
    identity = {i: i for i in NASTY_IDS}
    nasty = RerankingSet(
        name="../../set", queries=identity, passages=identity, candidates={i: NASTY_IDS for i in NASTY_IDS},
        qrels={i: {i: 1} for i in NASTY_IDS},
    )  # fmt: skip
    rankings = {protocol: {i: NASTY_IDS for i in NASTY_IDS} for protocol in PROTOCOLS}
    found = evaluator.evaluate(nasty, {"../../rival": rankings, TRAINED: rankings}, resamples=100)
    folder = tmp_path / "in" / "evaluation"
    evaluator.write(found, folder)
    assert read_qrels(folder / "qrels.trec") == nasty.qrels
    read = read_run(folder / "run.trec")
    assert {query: list(passages) for query, passages in read.items()} == rankings[AS_RETRIEVED]
    lines = (folder / "per_query.tsv").read_text(encoding="utf-8").split("\n")
    assert {line.count("\t") for line in lines if line} == {4}
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["evaluation"]


def test_duplicate_ids_are_refused_with_their_line(tmp_path: Path) -> None:
    folder = tmp_path / "beir"
    folder.mkdir()
    write(folder / "queries.jsonl", [{"_id": "q", "text": "a"}, {"_id": "q", "text": "b"}])
    write(folder / "corpus.jsonl", [{"_id": "p", "text": "passage"}])
    (folder / "qrels.trec").write_text("q 0 p 1\n")
    with pytest.raises(DataError, match=r"queries\.jsonl, line 2"):
        read_beir(folder, "beir")


# --- Secrets and pickles ----------------------------------------------------------------------------------------------

PLANTED = {
    "HF_TOKEN": "hf_plantedPLANTEDplantedPLANTEDplanted",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+access/key",
    "SOME_PASSWORD": "planted-password-of-the-environment",
}
TRAIN = Path(__file__).resolve().parents[1] / "scripts" / "train.py"


def command(root: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A whole run as a user starts it, in folders of its own."""
    for name in ("here", "home"):
        (root / name).mkdir()
    data = write(root / "rows.jsonl", plain_rows())
    inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return subprocess.run(
        [sys.executable, str(TRAIN), *CONFIGURATION, f"data.path={data}", f"outputs_dir={root}/outputs", *overrides],
        cwd=root / "here", capture_output=True, text=True,
        env={**inherited, "HOME": str(root / "home"), "TMPDIR": str(root / "home"), **environment},
    )  # fmt: skip


def test_planted_secrets_reach_no_file_and_no_console(tmp_path: Path) -> None:
    done = command(tmp_path, "tracking=wandb_offline", **PLANTED)
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "rows.jsonl"]
    assert any(path.suffix == ".wandb" for path in written), "tracking was on"
    assert any(path.name == "train.log" for path in written)
    for secret in PLANTED.values():
        assert secret not in done.stdout + done.stderr
        assert [path for path in written if secret.encode() in path.read_bytes()] == []
    assert not any((tmp_path / "here").iterdir()), "nothing is written where the command was typed"


@pytest.mark.parametrize("key", ["model.path", "mining.path", "evaluation.rivals"])
def test_a_pickle_given_as_a_model_runs_nothing(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from hub_fixtures import bert_tiny

    monkeypatch.chdir(tmp_path)
    model, mark = tmp_path / "model", tmp_path / "executed"
    bert_tiny(model)
    settings = json.loads((model / "config.json").read_text())
    one_label = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}  # as a rival has
    (model / "config.json").write_text(json.dumps({**settings, **one_label}))
    (model / "model.safetensors").unlink(missing_ok=True)
    torch.save({"classifier.bias": MaliciousPickle(mark)}, model / "pytorch_model.bin")
    words = {
        "model.path": ["model=custom", "training=small", f"model.path={model}"],
        "mining.path": ["mining=embedding", f"mining.path={model}"],
        "evaluation.rivals": [f"evaluation.rivals=[{model}]"],
    }[key]
    data = write(tmp_path / "rows.jsonl", plain_rows())
    with pytest.raises(PipelineError) as refused:
        run(configured(data, tmp_path / "outputs", "training.precision=fp32", "evaluation.precision=fp32", *words))
    one_line_refusal(refused.value)
    assert not mark.exists()
    torch.load(model / "pytorch_model.bin", weights_only=False)
    assert mark.exists(), "the payload does work where pickles are trusted"
