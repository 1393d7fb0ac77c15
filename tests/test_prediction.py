"""Scoring with a finished run: which passages, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.commands.prediction import predict, read_passages
from pipeline.config.command_arguments import Prediction
from pipeline.core import artifacts, atomic
from pipeline.core.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`outputs/` with one run of a random cross-encoder, published as a run's model is."""
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    root = tmp_path_factory.mktemp("outputs")
    words = root / "vocab.txt"
    words.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog", "small", "animal", "$"]))
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForSequenceClassification(BertConfig(vocab_size=10, num_labels=1, **small))
    source = root / "source"
    model.save_pretrained(source)
    BertTokenizerFast(vocab=str(words)).save_pretrained(source)
    with artifacts.publish(root / "runs" / "tiny-0123" / "model", {"stage": "train"}) as folder:
        CrossEncoder(str(source)).save_pretrained(str(folder))
    atomic.point(root / "latest", root / "runs" / "tiny-0123")
    return root


def test_one_passage_and_a_file_agree_with_the_library(outputs: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    passages = ["small animal", "dog $ dog", "cat\u2028cat"]
    scores = CrossEncoder(str(outputs / "latest" / "model")).predict([("cat", text) for text in passages])
    one = predict(Prediction(q="cat", p=passages[1], outputs_dir=str(outputs)))
    assert float(one) == pytest.approx(float(scores[1]), abs=1e-6)
    file = tmp_path / "passages.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in passages) + "\n\n")
    lines = predict(Prediction(q="cat", file=str(file), run="tiny-0123", outputs_dir=str(outputs))).splitlines()
    best_first = sorted(range(3), key=lambda i: -scores[i])
    assert [line.partition("\t")[2] for line in lines] == [" ".join(passages[i].split()) for i in best_first]
    assert [float(line.partition("\t")[0]) for line in lines] == pytest.approx(
        [scores[i] for i in best_first], abs=1e-6
    )


def test_what_a_terminal_passes_that_is_no_utf_8_is_scored(outputs: Path) -> None:
    odd = predict(Prediction(q="cat \udcff", p="dog \udcff", outputs_dir=str(outputs)))
    assert odd == predict(Prediction(q="cat \ufffd", p="dog \ufffd", outputs_dir=str(outputs)))


def test_a_passage_is_its_title_and_text_and_goes_by_its_id_as_in_a_corpus(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    first = {"_id": 7, "title": "Cat", "text": "a small animal"}
    rows = [first, {"_id": None, "id": "b", "title": None, "text": "dog"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_passages(path) == (["Cat a small animal", "dog"], ["7", "b"])
    path.write_text(json.dumps({"title": 3, "text": "dog"}) + "\n")
    with pytest.raises(DataError, match=r"line 1, key title must be text, got 3\. Put it in quotes\."):
        read_passages(path)
    path.write_text(json.dumps({"title": "Cat", "text": None}) + "\n")
    with pytest.raises(DataError, match=r"line 1, key text must be text, got None\. Correct the line, or delete it\."):
        read_passages(path)


@pytest.mark.parametrize("name", ["Identity", "Tanh", "Sigmoid"])
def test_scores_are_after_the_activation_that_was_saved(outputs: Path, tmp_path: Path, name: str) -> None:
    from sentence_transformers import CrossEncoder

    with artifacts.publish(tmp_path / "runs" / "other" / "model", {"stage": "train"}) as folder:
        CrossEncoder(str(outputs / "source"), activation_fn=getattr(torch.nn, name)()).save_pretrained(str(folder))
    texts = ["small animal", "dog $ dog", "", "cat " * 600, "animal cat dog"]
    file = tmp_path / "passages.jsonl"
    file.write_text("\n".join(json.dumps({"text": text, "id": number}) for number, text in enumerate(texts)))
    expected = CrossEncoder(str(tmp_path / "runs" / "other" / "model")).predict([("cat dog", text) for text in texts])
    lines = predict(Prediction(q="cat dog", file=str(file), run="other", outputs_dir=str(tmp_path))).splitlines()
    found = {int(line.split("\t")[1]): float(line.split("\t")[0]) for line in lines}
    assert [found[number] for number in range(5)] == pytest.approx(expected.tolist(), abs=1e-6)


def test_ids_stand_beside_the_scores_and_the_run_is_named(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "passages.jsonl"
    rows = [{"text": "small animal", "id": 7}, {"text": "a\tdog", "id": "d\n1"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    lines = predict(Prediction(q="cat", file=str(file), outputs_dir=str(outputs))).splitlines()
    assert {tuple(line.split("\t")[1:]) for line in lines} == {("7", "small animal"), ("d 1", "a dog")}
    assert capsys.readouterr().err.startswith("scored by tiny-0123\n")
    model = outputs / "runs" / "tiny-0123" / "model"
    assert predict(Prediction(q="cat", p="a", run=str(model), outputs_dir=str(outputs)))
    assert "scored by" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"text": "a"}\n{"text": \n', ", line 2 must be one JSON object, got .* Repair the line."),
        ('["a"]\n', ", line 1 must be one JSON object, got "),
        ('{"txt": "a"}\n', r", line 1, key text must be present, got only the keys \['txt'\]\. Write \{"),
        ('{"text": 3}\n', ", line 1, key text must be text, got 3. Put it in quotes."),
        ("\n\n", " must hold at least one passage, got none."),
    ],
)
def test_a_bad_file_names_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"p\.jsonl" + said):
        read_passages(tmp_path / "p.jsonl")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_told_that_only_jsonl_is_read(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"p{suffix}").write_bytes(b"PAR1\xff")
    with pytest.raises(
        DataError, match=rf"p\{suffix} must be JSONL, got a \{suffix} file\. Only JSONL is read here: write"
    ):
        read_passages(tmp_path / f"p{suffix}")


def test_a_byte_order_mark_and_windows_line_ends_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b\xe2\x80\xa8c"}\r\n')
    assert read_passages(tmp_path / "p.jsonl") == (["a", "b\u2028c"], None)
    with pytest.raises(DataError, match=r"gone\.jsonl must exist"):
        read_passages(tmp_path / "gone.jsonl")


def test_a_question_and_one_kind_of_passage_are_needed() -> None:
    with pytest.raises(ConfigError, match="q must hold a question"):
        Prediction(q=" ", p="a")
    with pytest.raises(ConfigError, match="p or file must be given, but not both, got neither"):
        Prediction(q="a")
    with pytest.raises(ConfigError, match="p or file must be given, but not both, got both"):
        Prediction(q="a", p="b", file="c")


@pytest.mark.parametrize("passages", [1, 20_000])
def test_the_command_ends_quietly_when_its_lines_are_not_read(
    outputs: Path, root: Path, tmp_path: Path, passages: int
) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"text": "small animal"}\n' * passages)
    words = [sys.executable, "scripts/predict.py", "q=cat", f"file={file}", "run=tiny-0123", f"outputs_dir={outputs}"]
    with subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_the_command_prints_the_score_alone(outputs: Path, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/predict.py", "q=what is a $cat?", "p=a 'small' animal", f"outputs_dir={outputs}"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 1, "one label: the library's sigmoid"
    assert done.stderr == "scored by tiny-0123\n"


def test_a_passage_without_an_id_beside_others_goes_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "passages.jsonl"
    path.write_text('{"text": "a", "id": "x"}\n\n{"text": "b"}\n{"text": "c", "_id": null, "id": 7}\n')
    assert read_passages(path) == (["a", "b", "c"], ["x", "line 3", "7"])
    path.write_text('{"text": "a"}\n{"text": "b", "id": null}\n')
    assert read_passages(path) == (["a", "b"], None)
