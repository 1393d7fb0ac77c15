"""Hostile input: rows, ids, pickles and planted secrets are handled or refused in one sentence, and leak nowhere."""

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
from beir_folders import write_beir
from composed_config import composed
from hub_fixtures import sentences
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from injected_faults import MaliciousPickle
from pair_files import Row, load_split, write_jsonl, write_rows
from refusals import one_line_refusal

from pipeline.commands.prediction import read_passages
from pipeline.config.schema import Config
from pipeline.core.artifacts import MANIFEST, problems
from pipeline.core.errors import PipelineError
from pipeline.core.records import AS_RETRIEVED, PROTOCOLS, TRAINED, RerankingSet
from pipeline.data import storage
from pipeline.data.beir import read_beir
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


def plain_rows(count: int = 120) -> list[Row]:
    return [{"question": question, "answer": answer} for question, answer in sentences(count, seed=5)]


def hostile_rows() -> list[Row]:
    """Each text as a question and as an answer, and a pair of both."""
    rows = [{"question": f"what about number {i}", "answer": text} for i, text in enumerate(TEXTS.values())]
    rows += [{"question": text[:2000], "answer": f"an answer for number {i}"} for i, text in enumerate(TEXTS.values())]
    return [*rows, *({"question": text[:2000], "answer": text[::-1]} for text in TEXTS.values())]


def configured(data: Path, outputs: Path, *overrides: str) -> Config:
    return composed(*CONFIGURATION, f"data.path={data}", f"outputs_dir={outputs}", *overrides)


def mined_rows(root: Path, rows: list[Row]) -> storage.LabelledPairs:
    """Mine the rows and return what is stored; check that every text is usable and only `outputs/` written."""
    data = write_jsonl(root / "rows.jsonl", rows)
    folder = mine(RunPlan(configured(data, root / "outputs")))
    assert problems(folder) == []
    mined = storage.read_rows(folder)
    for text in (*mined.questions, *mined.passages):
        assert text.strip() and "\0" not in text
        text.encode()  # no half of a surrogate pair is left
    assert np.isfinite(mined.label).all()
    assert_nothing_outside(root, data)
    return mined


def assert_nothing_outside(root: Path, data: Path) -> None:
    assert {path.name for path in root.iterdir()} == {"outputs", data.name}


# --- Rows -------------------------------------------------------------------------------------------------------------


def test_thousand_generated_rows_are_mined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    row = st.fixed_dictionaries({"question": ANY_TEXT, "answer": ANY_TEXT})

    @settings(GENERATED, max_examples=25)
    @given(st.lists(row, min_size=50, max_size=60))
    def every(rows: list[Row]) -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path) as root:
            monkeypatch.chdir(root)
            mined_rows(Path(root), [*plain_rows(), *rows])
            monkeypatch.chdir(tmp_path)
        sizes.append(len(rows))

    every()
    assert sum(sizes) >= 1000


def test_hostile_texts_pass_a_run_and_are_inert_in_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = [{"question": f"<script>alert({i})</script> how", "answer": TEXTS["HTML"] + str(i)} for i in range(60)]
    data = write_jsonl(tmp_path / "rows.jsonl", [*hostile, *plain_rows(60), *hostile_rows()])
    folder = run(configured(data, tmp_path / "outputs", "data.title='<img src=x onerror=alert(9)>'"))
    assert folder is not None
    for artifact in (path.parent for path in (tmp_path / "outputs").rglob(MANIFEST)):
        assert problems(artifact) == []
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.count("\n---\n") == 1, "a row cannot end the card's own front matter"
    front, _, body = card.partition("\n---\n")
    assert "alert(" in body, "the examples show the rows"
    assert not re.search(r"<(script|img)\b", body, re.I)
    assert "alert(1" not in front and "license" not in yaml.safe_load(front)
    reading = json.loads(next((tmp_path / "outputs" / "mined").glob("*/statistics.json")).read_text())["reading"]
    assert {name for name, count in reading.items() if count} >= {"texts_with_nul", "texts_with_lone_surrogate"}
    assert_nothing_outside(tmp_path, data)


def test_lone_surrogates_are_repaired_in_all_texts_and_ids(tmp_path: Path) -> None:
    cut = TEXTS["lone surrogates"]
    queries, passages = {"q": cut, cut: "b"}, {"p": (cut, "passage"), f"p{cut}": cut}
    collection = read_beir(write_beir(tmp_path / "beir", queries, passages, test=[("q", "p", 1)]))
    rows = [{**row, "doc": cut + str(i)} for i, row in enumerate(plain_rows())]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"_id": cut + str(i), "text": f"{cut} {i}"} for i in range(3)])
    split = load_split(path, dev_queries=20, group_column="doc", corpus_path=str(corpus))
    assert split.train.groups is not None
    texts, ids = read_passages(corpus)
    for text in (*collection.queries.values(), *collection.queries, *collection.passages.values()):
        text.encode()
    for text in (*collection.passages, *split.train.groups, *split.corpus, *texts, *(ids or ["\ud800"])):
        text.encode()


def test_any_json_line_is_read_or_refused_with_its_line(tmp_path: Path) -> None:
    messages = []
    pair = st.fixed_dictionaries({"question": ANY_JSON, "answer": ANY_JSON})

    @settings(GENERATED, max_examples=400)
    @given(ANY_JSON | pair, st.integers(0, 120))
    def every(row: Any, at: int) -> None:
        rows: list[Any] = plain_rows()
        rows.insert(at, row)
        try:
            load_split(write_jsonl(tmp_path / "rows.jsonl", rows), dev_queries=20)
        except PipelineError as error:
            messages.append(one_line_refusal(error))
            assert f"rows.jsonl, line {at + 1}" in messages[-1]

    every()
    assert len(messages) > 100


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_file_with_changed_bytes_is_read_or_refused_by_its_name(tmp_path: Path, suffix: str) -> None:
    messages = []
    path = write_rows(tmp_path / f"rows.{suffix}", plain_rows())
    intact = path.read_bytes()

    @settings(GENERATED, max_examples=100)
    @given(st.integers(0, len(intact)), st.integers(0, 40), st.binary(max_size=40))
    def every(at: int, cut: int, put: bytes) -> None:
        path.write_bytes(intact[:at] + put + intact[at + cut :])
        try:
            load_split(path, dev_queries=20)
        except PipelineError as error:
            messages.append(one_line_refusal(error))
            assert path.name in messages[-1]

    every()
    assert messages


def test_question_with_ten_thousand_positives_is_mined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    many = [{"question": "the one question", "answer": f"positive number {i}"} for i in range(10_000)]
    mined = mined_rows(tmp_path, [*plain_rows(), *many])
    number = mined.questions.index("the one question")  # by the seed it is a training question
    rows = mined.question == number
    positives = {mined.passages[p] for p in mined.passage[rows & (mined.label == 1)]}
    negatives = {mined.passages[p] for p in mined.passage[rows & (mined.label == 0)]}
    assert len(positives) == 10_000
    assert not positives & negatives


# --- Ids --------------------------------------------------------------------------------------------------------------

HOSTILE_IDS = ["../../x", "/etc/passwd", "a\tb", "a\nb", "a b", "%20", "", "ünï", "\u2028", "CON", "-", "a\\b", "<b>"]


def test_hostile_ids_survive_trec_files_and_name_no_path(tmp_path: Path) -> None:
    identity = {i: i for i in HOSTILE_IDS}
    hostile = RerankingSet(
        name="../../set", queries=identity, passages=identity, candidates={i: HOSTILE_IDS for i in HOSTILE_IDS},
        qrels={i: {i: 1} for i in HOSTILE_IDS},
    )  # fmt: skip
    rankings = {protocol: {i: HOSTILE_IDS for i in HOSTILE_IDS} for protocol in PROTOCOLS}
    evaluation = evaluator.evaluate(hostile, {"../../rival": rankings, TRAINED: rankings}, resamples=100)
    folder = tmp_path / "in" / "evaluation"
    evaluator.write(evaluation, folder)
    assert read_qrels(folder / "qrels.trec") == hostile.qrels
    stored = read_run(folder / "run.trec")
    assert {query: list(passages) for query, passages in stored.items()} == rankings[AS_RETRIEVED]
    lines = (folder / "per_query.tsv").read_text(encoding="utf-8").split("\n")
    assert {line.count("\t") for line in lines if line} == {4}
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["evaluation"]


# --- Secrets and pickles ----------------------------------------------------------------------------------------------

PLANTED = {
    "HF_TOKEN": "hf_plantedPLANTEDplantedPLANTEDplanted",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+access/key",
    "SOME_PASSWORD": "planted-password-of-the-environment",
}
TRAIN = Path(__file__).resolve().parents[1] / "scripts" / "train.py"


def train(root: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Train in a process, as a user does, with its working, home and temporary folders below `root`."""
    for name in ("here", "home"):
        (root / name).mkdir()
    data = write_jsonl(root / "rows.jsonl", plain_rows())
    inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return subprocess.run(
        [sys.executable, str(TRAIN), *CONFIGURATION, f"data.path={data}", f"outputs_dir={root}/outputs", *overrides],
        cwd=root / "here", capture_output=True, text=True,
        env={**inherited, "HOME": str(root / "home"), "TMPDIR": str(root / "home"), **environment},
    )  # fmt: skip


def test_planted_secrets_reach_no_file_and_no_console(tmp_path: Path) -> None:
    done = train(tmp_path, "tracking=wandb_offline", **PLANTED)
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "rows.jsonl"]
    assert any(path.suffix == ".wandb" for path in written), "tracking was on"
    assert any(path.name == "train.log" for path in written)
    for secret in PLANTED.values():
        assert secret not in done.stdout + done.stderr
        assert [path for path in written if secret.encode() in path.read_bytes()] == []
    assert not any((tmp_path / "here").iterdir()), "nothing is written where the command was typed"


@pytest.mark.parametrize("key", ["model.path", "mining.path", "evaluation.rivals"])
def test_pickle_given_as_a_model_is_not_executed(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from hub_fixtures import bert_tiny

    monkeypatch.chdir(tmp_path)
    model, mark = tmp_path / "model", tmp_path / "executed"
    bert_tiny(model)
    config = json.loads((model / "config.json").read_text())
    one_label = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}  # as a rival has
    (model / "config.json").write_text(json.dumps({**config, **one_label}))
    (model / "model.safetensors").unlink(missing_ok=True)
    torch.save({"classifier.bias": MaliciousPickle(mark)}, model / "pytorch_model.bin")
    words = {
        "model.path": ["model=custom", "training=small", f"model.path={model}"],
        "mining.path": ["mining=embedding", f"mining.path={model}"],
        "evaluation.rivals": [f"evaluation.rivals=[{model}]"],
    }[key]
    data = write_jsonl(tmp_path / "rows.jsonl", plain_rows())
    with pytest.raises(PipelineError) as error:
        run(configured(data, tmp_path / "outputs", "training.precision=fp32", "evaluation.precision=fp32", *words))
    one_line_refusal(error.value)
    assert not mark.exists()
    torch.load(model / "pytorch_model.bin", weights_only=False)
    assert mark.exists(), "the payload does work where pickles are trusted"
