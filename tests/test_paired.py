"""The side-by-side benchmark: both sides do the same work, and the figures are what the runs said."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertTokenizerFast
from transformers.utils import import_utils

from pipeline.benchmark import cases, measured_run, paired, reference
from pipeline.benchmark.cases import CASES, DEPTH, FLASH, Benchmark, Case
from pipeline.benchmark.measured_run import prepare, run
from pipeline.benchmark.processes import apart
from pipeline.benchmark.results import agreement, table
from pipeline.config.argument_parser import parse_arguments
from pipeline.config.learning import Precision
from pipeline.core.errors import ConfigError, ResourceError

VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
WORDS = ["the", "of", "and", "in", "river", "mountain", "because", "electricity"]


def test_texts_have_gooaqs_lengths_and_are_the_same_each_time() -> None:
    texts = cases.training_texts(WORDS, 1200)
    assert texts == cases.training_texts(WORDS, 1200)
    assert len(texts["label"]) == 1200
    assert sum(texts["label"]) == 200  # type: ignore[arg-type]
    assert len(set(texts["question"])) == 200
    answers = [len(str(text)) for text in dict.fromkeys(texts["answer"])]
    assert 245 < sum(answers) / len(answers) < 259
    assert max(answers) <= 405
    questions = [len(str(text)) for text in dict.fromkeys(texts["question"])]
    assert 41 < sum(questions) / len(questions) < 47
    asked = cases.evaluation_texts(WORDS, 10)
    assert [len(documents) for documents in asked["documents"]] == [DEPTH] * 10  # type: ignore[arg-type]
    assert len({text for documents in asked["documents"] for text in documents}) == 10 * DEPTH  # type: ignore[attr-defined]


def test_words_are_whole_lower_case_ones_in_the_vocabularys_order() -> None:
    vocabulary = {"##ing": 4, "the": 3, "a": 0, "river": 1, "[PAD]": 2, "9": 5, "straße": 6}
    assert cases.words_of(vocabulary) == ["river", "the"]


@pytest.mark.parametrize(
    "case", [Case.train_minilm, Case.train_modernbert_large, Case.evaluate, Case.evaluate_modernbert_large]
)
def test_both_sides_do_the_same_work(tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    # fp32 also where bf16 is fast: random weights score near ties, which bf16 orders by its rounding.
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    small = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 96}
    monkeypatch.setattr(measured_run, "MODERNBERT_LARGE", {**measured_run.MODERNBERT_LARGE, **small})
    job = CASES[case].job
    prepare(case, 70 if job == "train" else 12, tmp_path)
    ours = run(case, None, tmp_path, energy=False)
    reference = run(case, dict(CASES[case].reference[0]), tmp_path, energy=False)
    assert ours["pairs"] == reference["pairs"] == (70 if job == "train" else 12 * DEPTH)
    assert ours["tokens"] == reference["tokens"]
    assert ours["tokens"] <= ours["padded"] < 1.12 * ours["tokens"] < reference["padded"]
    (difference,) = agreement(ours["same"], reference["same"]).values()
    assert difference < 1e-4
    if job == "train":
        assert len(ours["same"]["losses"]) == 2  # 64 rows and 6
        assert ours["same"]["losses"][0] != ours["same"]["losses"][1]
    else:
        assert 0 < ours["same"]["measures"]["map"] < 0.5


def test_a_setting_is_tried_on_few_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(Case.evaluate_steps, 8, tmp_path)
    setting = dict(CASES[Case.evaluate_steps].reference[0])
    tried = run(Case.evaluate_steps, setting, tmp_path, energy=False, trial=True)
    assert tried["pairs"] == 3 * 8 * DEPTH
    reads = iter([(5.0, 9.0), (8.0, 9.0), (10.0, 9.0), (10.5, 9.0)])  # by the wall, and of the CPU
    monkeypatch.setattr(reference, "Clock", lambda: SimpleNamespace(read=reads.__next__))
    tried = run(Case.evaluate_steps, setting, tmp_path, energy=False, trial=True)
    assert (tried["first_seconds"], tried["later_seconds"], tried["seconds"]) == (5.0, 2.0, 10.5)
    assert run(Case.evaluate_steps, None, tmp_path, energy=False)["pairs"] == 14 * 8 * DEPTH


def test_settings_are_tried_and_the_quickest_is_counted_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what fourteen evaluations would take: a first one says little."""
    jobs: list[dict[str, Any]] = []

    def apart(module: str, job: dict[str, Any], folder: Path, what: str) -> dict[str, Any]:
        jobs.append(job)
        later = 2.0 if job["setting"] == {"attention": "eager", "batch_size": 32} else 3.0
        return {
            "seconds": 9.0, "cpu_seconds": 9.0, "first_seconds": 9.0 - 2 * later, "later_seconds": later,
            "pairs_per_second": 1.0, "peak_rss_gib": 1.0, "same": {"rows": 1},
            **dict.fromkeys(paired.SHARED, "the same"),
        }  # fmt: skip

    monkeypatch.setattr(paired, "apart", apart)
    monkeypatch.setattr(paired, "runs_here", lambda setting: setting["attention"] != FLASH)
    monkeypatch.setattr(paired, "prepare", lambda case, rows, work: None)
    asked = Benchmark(case=Case.evaluate_steps, pairs=2, warmup=1, outputs_dir=str(tmp_path))
    found = json.loads(paired.benchmark(asked).read_text())
    assert found["reference"]["setting"] == {"attention": "eager", "batch_size": 32}
    assert (found["work"]["times"], found["work"]["tried_times"]) == (14, 3)
    tried = [job for job in jobs if job["trial"]]
    assert len(tried) == len(found["reference_settings"]) == 6 and jobs[:6] == tried
    assert len(found["reference_settings_left_out"]) == 3
    assert found["reference_settings"][-1]["reckoned_seconds"] == 5.0 + 13 * 2.0
    assert [job["setting"] for job in jobs[6:]] == [None, found["reference"]["setting"], found["recipe"]["setting"]] * 3


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("precision", [Precision.bf16, Precision.fp32])
def test_the_reference_is_tried_with_flash_attention_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, installed: bool, precision: Precision
) -> None:
    monkeypatch.setattr(import_utils, "is_flash_attn_2_available", lambda: installed)
    monkeypatch.setattr(paired, "resolve_precision", lambda asked, device: (precision, "so it is"))
    for case in (Case.train_modernbert_large, Case.evaluate_modernbert_large):
        kinds = [setting["attention"] for setting in CASES[case].reference]
        assert kinds[0] == "sdpa" and FLASH in kinds
    able = installed and precision is Precision.bf16
    assert [paired.runs_here({"attention": kind}) for kind in ("sdpa", "eager", FLASH)] == [True, True, able]
    assert paired.runs_here({"use_faiss": True})


@pytest.mark.parametrize(
    ("case", "layers"), [(Case.train_bert_tiny, 393_216), (Case.train_modernbert_large, 343_146_496)]
)
def test_operations_are_two_for_each_weight_of_a_layer(tmp_path: Path, case: Case, layers: int) -> None:
    config = measured_run.configuration(CASES[case].model, BertTokenizerFast(vocab=VOCABULARY))
    config.save_pretrained(tmp_path)
    assert measured_run.operations(tmp_path) == 2 * layers
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    inside = {name: p for name, p in model.named_parameters() if ".layer" in name and p.ndim == 2}
    assert sum(parameter.numel() for parameter in inside.values()) == layers


@pytest.mark.slow
def test_the_command_writes_every_figure(root: Path, tmp_path: Path) -> None:
    words = ["case=train_minilm", "rows=24", "pairs=2", "warmup=1", "note=a test", f"outputs_dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "scripts/benchmark.py", *words], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "benchmarks" / "train_minilm.json").read_text())
    assert table(found) in done.stdout
    assert set(found["ratio"]) == {"median", "min", "max", "pairs"}
    assert len(found["ratio"]["pairs"]) == len(found["ratio_recipe"]["pairs"]) == 2
    assert found["ratio"]["min"] <= found["ratio"]["median"] <= found["ratio"]["max"]
    assert [s["attention"] for s in found["reference_settings"]] == ["sdpa", "eager"]
    assert found["reference_settings_left_out"] == [{"attention": FLASH}]
    assert found["recipe"]["setting"] == {"attention": "sdpa"}
    assert (found["work"]["rows"], found["work"]["batch_size"], found["note"]) == (24, 64, "a test")
    assert found["same_work"]["losses_largest_difference"] < 1e-4
    for name in ("ours", "reference", "recipe"):
        for key in ("pairs_per_second", "tokens_per_second", "peak_rss_gib", "watt_hours_per_1000_pairs"):
            assert found[name][key] > 0
        assert 0 < found[name]["share_of_attainable"] < 1.2
        assert 0 <= found[name]["padding_share"] < 1
        assert 0 <= found[name]["others_cpu_share"] <= found[name]["others_cpu_share_max"] < 1
    assert (found["pairs"], found["pairs_asked"]) == (2, 2)
    assert found["precision"] in ("fp32", "bf16")
    assert found["hardware"]["instruction_set"]
    assert found["versions"]["sentence-transformers"]


@pytest.mark.slow
def test_what_was_measured_before_a_signal_is_kept_and_said(root: Path, tmp_path: Path) -> None:
    words = ["case=train_minilm", "rows=8", "pairs=500", "warmup=0", f"outputs_dir={tmp_path}"]
    path = tmp_path / "benchmarks" / "train_minilm.json"
    with subprocess.Popen(
        [sys.executable, "scripts/benchmark.py", *words], cwd=root, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 300
        while not path.exists():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    found = json.loads(path.read_text())
    assert process.returncode == 75
    assert f"interrupted: {found['pairs']} of 500 pairs are in {path}. The same command starts over" in said
    assert len(found["ratio"]["pairs"]) == found["pairs"] >= 1
    assert found["pairs_asked"] == 500
    assert "Traceback" not in said


def test_a_failing_run_is_said_in_a_sentence_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"a run of nothing must finish, got .*No module named .*absent"):
        apart("pipeline.benchmark.absent", {}, tmp_path, "nothing")


def test_mining_gives_the_same_rows(tmp_path: Path) -> None:
    prepare(Case.mine, 300, tmp_path)
    ours = run(Case.mine, None, tmp_path, energy=False)
    reference = run(Case.mine, {"use_faiss": False}, tmp_path, energy=False)
    assert ours["same"] == reference["same"]
    assert ours["same"]["rows"] > 600


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["case=train"], "case must be one of train_bert_tiny, .*, got 'train'"),
        (["case=mine", "pairs=0"], "pairs must be at least 1, got 0"),
        (["case=mine", "rows=3"], "rows must be at least 8, got 3"),
        ([], "case must be given"),
    ],
)
def test_arguments_are_refused_in_a_sentence(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arguments(Benchmark, words)
