"""The loopback hub and its repositories serve the real clients: uploads, data sets, models and tokenizers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_fixtures import bert_tiny, gooaq, modernbert, sentences, static_retriever
from loopback_hub import TOKEN, LoopbackHub

UPLOAD = """
import sys
from huggingface_hub import HfApi
api = HfApi()
print(api.whoami()["name"])
api.create_repo("tester/mine", exist_ok=True)
print(api.upload_folder(folder_path=sys.argv[1], repo_id="tester/mine", commit_message="A model").oid)
"""


def test_folder_of_small_and_large_files_is_uploaded(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    files = {
        "config.json": b"{}",
        "README.md": b"---\nlanguage: en\n---\n# Mine\n",
        "model.safetensors": b"w" * 100_000,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with LoopbackHub().serving() as hub:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment = {
            **kept,
            "HF_HOME": str(tmp_path / "home"),
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
        }
        command = [sys.executable, "-c", UPLOAD, str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        name, commit = done.stdout.split()
        refused = subprocess.run(
            command,
            env={**environment, "HF_TOKEN": "hf_other"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    repository = hub.repositories["model", "tester/mine"]
    assert name == "tester"
    assert repository.branches["main"] == commit
    assert repository.commits[commit] == files
    assert refused.returncode != 0 and "401" in refused.stderr


def test_pairs_load_as_a_data_set_of_two_text_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    table = datasets.load_dataset(str(gooaq(tmp_path / "gooaq", rows=20)), split="train")
    assert table.column_names == ["question", "answer"]
    assert len(table) == 20
    # A list written as text is text, never a list.
    assert table[1]["answer"] == "['copper', 'river']"
    assert table[2]["answer"] == sentences(20)[2][1]


def test_static_retriever_loads_from_its_folder(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(static_retriever(tmp_path / "static", dimensions=16)), device="cpu")
    vectors = model.encode([question for question, _ in sentences(3)])
    assert vectors.shape == (3, 16)
    assert [type(module).__name__ for module in model] == ["StaticEmbedding"]


def test_bert_tiny_has_no_model_type_and_no_safetensors(tmp_path: Path) -> None:
    folder = bert_tiny(tmp_path / "tiny")
    assert {path.name for path in folder.iterdir()} == {"config.json", "pytorch_model.bin", "vocab.txt", "README.md"}
    assert "model_type" not in json.loads((folder / "config.json").read_text())


def test_modernbert_pools_by_mean_and_separates_the_texts_of_a_pair(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    folder = modernbert(tmp_path / "modern")
    config = AutoConfig.from_pretrained(folder)
    assert config.classifier_pooling == "mean" and config.model_type == "modernbert"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("the river", "the stone")["input_ids"])
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]" and tokens.count("[SEP]") == 2
    assert tokenizer.model_max_length == 8192
