"""Loading and saving a cross-encoder: which head, which layers, which precision, and what is refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hub_fixtures import modernbert, wordpiece
from injected_faults import MaliciousPickle
from model_folders import PAIRS, pair_scores, predictions, save_random
from refusals import one_line_refusal
from small_models import PROBES, lively, model_config, scores, tiny, weights
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, dynamic_module_utils

from pipeline.config.learning import Activation
from pipeline.config.runtime import Attention
from pipeline.core.errors import ModelError
from pipeline.engine import model_files
from pipeline.engine.model_config import own_max_length
from pipeline.engine.model_files import activation_of, load, save
from pipeline.engine.modeling import Reranker


def differing(one: Reranker, two: Reranker) -> set[str]:
    a, b = weights(one), weights(two)
    return {name for name in a if not torch.equal(a[name], b[name])}


def test_seed_alone_decides_the_head(base: Path) -> None:
    torch.manual_seed(999)
    one = tiny(base, seed=12)
    torch.rand(100)
    assert differing(one, tiny(base, seed=12)) == set()
    # Only what the folder does not hold: the published pre-training weights have a pooler, so the classifier.
    assert differing(one, tiny(base, seed=13)) == {"classifier.weight"}
    assert not one.head_was_saved and not one.model.training
    assert all(parameter.dtype == torch.float32 for parameter in one.model.parameters())


def test_seed_alone_decides_random_weights(base: Path) -> None:
    shape = {"random_init": True, "hidden_size": 64, "layers": 1}
    one, two = tiny(base, seed=1, **shape), tiny(base, seed=2, **shape)
    assert differing(one, tiny(base, seed=1, **shape)) == set()
    assert {name for name in differing(one, two) if "dense.weight" in name}
    assert (one.hidden_size, one.layers) == (64, 1)


@pytest.mark.parametrize("activation", list(Activation), ids=lambda activation: activation.name)
def test_saved_folder_predicts_as_the_pipeline_scores(base: Path, tmp_path: Path, activation: Activation) -> None:
    from sentence_transformers import CrossEncoder

    reranker = lively(tiny(base))
    config = model_config(base, activation=activation)
    save(reranker, tmp_path, config)
    applied = {
        Activation.identity: lambda x: x,
        Activation.sigmoid: lambda x: 1 / (1 + np.exp(-x)),
        Activation.tanh: np.tanh,
    }[activation]
    found = CrossEncoder(str(tmp_path), device="cpu").predict(PROBES)
    assert np.abs(found - applied(scores(reranker).astype(np.float64))).max() <= 1e-5
    assert activation_of(tmp_path) is activation
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.suffix in (".safetensors", ".bin")) == [
        ".safetensors"
    ]


def test_saved_head_is_kept_whatever_the_seed(base: Path, tmp_path: Path) -> None:
    first = tiny(base, seed=5)
    save(first, tmp_path, model_config(base))
    again = load(tmp_path, model_config(tmp_path), seed=99)
    assert again.head_was_saved and differing(first, again) == set()
    assert own_max_length(tmp_path) == 64, "the length it was trained with is saved with the tokenizer"


def test_saving_twice_gives_the_same_bytes(base: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(tiny(base), tmp_path / name, model_config(base))
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_first_layers_are_kept_and_more_than_all_are_refused(base: Path, tmp_path: Path) -> None:
    whole, sliced = tiny(base), tiny(base, layers=1)
    a, b = weights(whole), weights(sliced)
    assert sliced.layers == 1 and set(a) - set(b) == {name for name in a if ".layer.1." in name} != set()
    assert all(torch.equal(a[name], b[name]) for name in b)
    save(sliced, tmp_path, model_config(base))
    assert load(tmp_path, model_config(tmp_path), seed=0).layers == 1
    with pytest.raises(ModelError, match=r"^model\.layers must be at most the model's 2, got 3\. "):
        tiny(base, layers=3)


# --- ModernBERT -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["varlen", "eager"])
def test_modernbert_pools_as_configured_also_when_reloaded(tmp_path: Path, attention: str) -> None:
    from sentence_transformers import CrossEncoder

    source = modernbert(tmp_path / "source")
    config = model_config(source, max_length=128)
    reranker = lively(load(source, config, seed=12, attention=Attention[attention]))
    assert reranker.model.config.classifier_pooling == "mean"  # type: ignore[union-attr]
    save(reranker, tmp_path / "saved", config)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["classifier_pooling"] == "mean"
    again = load(tmp_path / "saved", config, seed=99, attention=Attention[attention])
    assert differing(reranker, again) == set() and again.packed == (attention == "varlen")
    expected = scores(reranker)
    assert np.array_equal(scores(again), expected)
    found = CrossEncoder(str(tmp_path / "saved"), device="cpu").predict(PROBES)
    assert np.abs(found - 1 / (1 + np.exp(-expected.astype(np.float64)))).max() <= 1e-5
    again.model.config.classifier_pooling = "cls"  # type: ignore[union-attr]
    assert np.abs(scores(again) - expected).max() > 1e-4, "the pooling is not without effect"


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_more_than_one_label_is_refused(base: Path, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForSequenceClassification(BertConfig(num_labels=3, vocab_size=400, **small)).save_pretrained(tmp_path)
    tiny(base).tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"^model\.path must be a cross-encoder with one label, got 3 labels in "):
        load(tmp_path, model_config(tmp_path), seed=0)


def test_max_length_beyond_the_positions_is_refused(base: Path) -> None:
    with pytest.raises(ModelError, match=r"^model\.max_length must be at most the 512 positions .*max_length=512\."):
        tiny(base, max_length=513)


def damaged(base: Path, folder: Path, name: str, data: bytes | None) -> Path:
    save(tiny(base), folder, model_config(base))
    if data is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("name", "data", "rule"),
    [
        ("config.json", None, "be a folder with config.json"),
        ("config.json", b"{", "hold a model and tokenizer"),
        ("config.json", b"[]", "hold a model and tokenizer"),
        ("config.json", b'{"model_type": "no-such-model"}', "hold a model and tokenizer"),
        ("config.json", b'{"model_type": "bert", "architectures": ["T"], "hidden_size": "x"}', "hold"),
        ("tokenizer.json", b"{", "hold a model and tokenizer"),
        ("model.safetensors", None, "hold weights"),
        ("model.safetensors", b"torn", "hold weights"),
        ("model.safetensors", b"", "hold weights"),
    ],
    ids=[
        *["no config", "torn config", "list as config", "unknown model type", "text as width"],
        *["torn tokenizer", "no weights", "torn weights", "empty weights"],
    ],
)
def test_damaged_folder_is_refused_in_one_sentence(
    base: Path, tmp_path: Path, name: str, data: bytes | None, rule: str
) -> None:
    folder = damaged(base, tmp_path, name, data)
    with pytest.raises(ModelError, match=rf"^model\.path must {rule}.*, got ") as error:
        load(folder, model_config(folder), seed=0)
    one_line_refusal(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("reader", [AutoTokenizer, AutoModelForSequenceClassification], ids=["tokenizer", "weights"])
def test_memory_error_is_not_reported_as_damage(base: Path, monkeypatch: pytest.MonkeyPatch, reader: Any) -> None:
    def short(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(reader, "from_pretrained", short)
    with pytest.raises(MemoryError):
        load(base, model_config(base), seed=0)


def test_folder_without_tokenizer_files_is_refused(base: Path, tmp_path: Path) -> None:
    """transformers would make an empty tokenizer."""
    save(tiny(base), tmp_path, model_config(base))
    for path in (*tmp_path.glob("tokenizer*"), *tmp_path.glob("vocab*")):
        path.unlink()
    with pytest.raises(ModelError, match=r"^model\.path must hold its tokenizer, such as vocab\.txt, got ") as error:
        load(tmp_path, model_config(tmp_path), seed=0)
    one_line_refusal(error.value)


def test_config_that_transformers_cannot_build_is_refused(tmp_path: Path) -> None:
    lilt = save_random(tmp_path, "Lilt", hidden_size=96)
    path = lilt / "config.json"
    path.write_text(path.read_text().replace('"num_attention_heads": 2', '"num_attention_heads": 5'))
    with pytest.raises(ModelError, match=r"^model\.random_init must be used with a configuration that ") as error:
        load(lilt, model_config(lilt, random_init=True), seed=0)
    one_line_refusal(error.value)


def test_torn_weights_of_a_model_without_sdpa_are_refused(tmp_path: Path) -> None:
    source = save_random(tmp_path, "DebertaV2", type_vocab_size=0, pooler_hidden_size=32)
    (source / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match=r"^model\.path must hold weights that load as fp32 tensors, got ") as error:
        load(source, model_config(source), seed=1, attention=Attention.varlen)
    one_line_refusal(error.value)


def test_model_without_a_scoring_head_is_refused(tmp_path: Path) -> None:
    source = save_random(tmp_path, "Electra", embedding_size=32)
    transformers.ViTConfig(hidden_size=32, num_labels=1).save_pretrained(source)
    with pytest.raises(ModelError, match=r"^model\.path must hold weights .*Unrecognized configuration class") as error:
        load(source, model_config(source), seed=1, attention=Attention.sdpa)
    one_line_refusal(error.value)


# --- pad token, inputs and embeddings ---------------------------------------------------------------------------------


def test_missing_pad_token_is_taken_from_the_tokenizer(tmp_path: Path) -> None:
    source = save_random(tmp_path / "source", "GPT2", pad_token_id=None, n_positions=64, bos_token_id=2, eos_token_id=3)
    reranker = load(source, model_config(source), seed=1)
    together = pair_scores(reranker)
    assert together == pytest.approx([pair_scores(reranker, [pair])[0] for pair in PAIRS], abs=1e-6)
    save(reranker, tmp_path / "saved", model_config(source))
    assert np.abs(predictions(tmp_path / "saved") - together).max() <= 1e-5


def test_model_that_needs_more_than_tokens_is_refused_at_load(tmp_path: Path) -> None:
    wordpiece(tmp_path)
    tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    shape = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
    transformers.T5Model(transformers.T5Config(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"^model\.path must score pairs of texts as T5For.*decoder_start_token_id"
    ) as error:
        load(tmp_path, model_config(tmp_path, max_length=64), seed=0)
    one_line_refusal(error.value)


def test_tokenizer_with_more_tokens_than_embeddings_is_refused(tmp_path: Path) -> None:
    folder = save_random(tmp_path, "Bert")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    known = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    assert np.isfinite(pair_scores(load(folder, model_config(folder), seed=1))).all(), "no pair holds that token"
    tokenizer.add_tokens(["qqq", "zzz"])
    tokenizer.save_pretrained(folder)
    rule = "model.path must have an embedding for each token of its tokenizer"
    for drawn, remedy in (
        (False, f"Call model.resize_token_embeddings({known + 3}) and save it again."),
        (True, f"Write vocab_size {known + 3} in its config.json."),
    ):
        with pytest.raises(ModelError) as error:
            load(folder, model_config(folder, random_init=drawn), seed=1)
        assert one_line_refusal(error.value) == f"{rule}, got {known} for {known + 3} in {folder}. {remedy}"
    model = transformers.BertForSequenceClassification.from_pretrained(folder)
    model.resize_token_embeddings(known + 3)
    model.save_pretrained(folder)
    assert np.isfinite(pair_scores(load(folder, model_config(folder), seed=1), [("qqq", "a zzz")])).all()


def test_model_without_an_embedding_table_is_loaded(tmp_path: Path) -> None:
    folder = save_random(tmp_path, "Canine", vocab_size=None)  # it hashes characters
    reranker = load(folder, model_config(folder), seed=1)
    with pytest.raises(NotImplementedError):
        reranker.model.get_input_embeddings()
    assert np.isfinite(pair_scores(reranker)).all()


def test_tokenizer_with_more_token_types_than_embeddings_is_refused(tmp_path: Path) -> None:
    folder = save_random(tmp_path, "Bert", type_vocab_size=1)
    with pytest.raises(ModelError) as error:
        load(folder, model_config(folder), seed=1)
    assert one_line_refusal(error.value) == (
        f"model.path must have an embedding for each token type of its tokenizer, got 1 for 2 in {folder}. "
        "Remove token_type_ids from its tokenizer's model_input_names."
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, model_input_names=["input_ids", "attention_mask"])
    tokenizer.save_pretrained(folder)
    assert np.isfinite(pair_scores(load(folder, model_config(folder), seed=1))).all()


# --- code -------------------------------------------------------------------------------------------------------------


def test_pickle_that_would_run_code_is_refused_and_not_run(base: Path, tmp_path: Path) -> None:
    folder = damaged(base, tmp_path / "model", "model.safetensors", None)
    torch.save({"classifier.bias": MaliciousPickle(tmp_path / "executed")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"^model\.path must hold weights that load as fp32 tensors, got ") as error:
        load(folder, model_config(folder), seed=0)
    one_line_refusal(error.value)
    assert not (tmp_path / "executed").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "executed").exists(), "the payload does work where pickles are trusted"


def test_code_in_a_model_folder_is_never_run(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = damaged(base, tmp_path / "model", "own.py", f"open({str(tmp_path / 'executed')!r}, 'w')\n".encode())
    path = folder / "config.json"
    auto = {name: f"own.{name}" for name in ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification")}
    known = {**json.loads(path.read_text()), "auto_map": auto}
    for config in (known, {**known, "model_type": "of-its-own"}):
        path.write_text(json.dumps(config))
        with contextlib.suppress(ModelError):  # a known type loads without its code, another is refused
            load(folder, model_config(folder), seed=0)
        assert not (tmp_path / "executed").exists()
    with pytest.raises(ModelError, match=r"^model\.path must hold a model and tokenizer"):
        load(folder, model_config(folder), seed=0)
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    with contextlib.suppress(AttributeError):
        AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert (tmp_path / "executed").exists(), "the code does run where it is trusted"


def test_loading_and_saving_print_nothing(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save(tiny(base), tmp_path, model_config(base))
    model_files.load(tmp_path, model_config(tmp_path), seed=0)
    assert capfd.readouterr() == ("", "")
