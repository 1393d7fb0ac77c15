"""A folder's configuration and tokenizer, read and adapted, over small random models of many kinds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hub_fixtures import modernbert, wordpiece
from pair_tokenizers import roberta
from refusals import one_line_refusal
from small_models import BUDGET, CPU, lively, model_config
from transformers import AutoTokenizer

from pipeline.config.learning import Precision
from pipeline.config.runtime import Attention
from pipeline.core.errors import ModelError
from pipeline.engine.model_config import OFFSET_POSITIONS, _say, own_max_length, read
from pipeline.engine.model_files import load, save
from pipeline.engine.model_kinds import must_be_bi_encoder
from pipeline.engine.modeling import Reranker
from pipeline.engine.scoring import PairScorer

PAIRS = [("the river", "a stone of the old river"), ("a stone", "number 7"), ("river " * 30, "stone " * 40)]
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
XLNET = dict.fromkeys(SMALL) | {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}


def scores(reranker: Reranker, pairs: list[tuple[str, str]] = PAIRS) -> Any:
    return PairScorer(reranker, device=CPU, precision=Precision.fp32, token_budget=BUDGET).score(pairs)


def saved(folder: Path, kind: str, tokenizer: Any = None, **values: Any) -> Path:
    """A folder with a random cross-encoder of a kind of transformers' (`DebertaV2`) and BERT's tokenizer."""
    if tokenizer is None:
        wordpiece(folder)
        tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    shape = {"vocab_size": len(tokenizer), "num_labels": 1, "pad_token_id": tokenizer.pad_token_id, **SMALL, **values}
    config = getattr(transformers, f"{kind}Config")(**{k: v for k, v in shape.items() if v is not None})
    getattr(transformers, f"{kind}ForSequenceClassification")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def predicted(folder: Path) -> Any:
    """Logits of the pairs as one padded batch, as a user of the folder has them."""
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), device="cpu").predict(PAIRS, activation_fn=torch.nn.Identity())


# --- layers and width -------------------------------------------------------------------------------------------------

WINDOWS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]


def layered(folder: Path, kind: str) -> Path:
    return modernbert(folder) if kind == "ModernBert" else saved(folder, kind, attention_window=[8, 4, 16])


@pytest.mark.parametrize(
    ("kind", "key", "expected"),
    [("ModernBert", "layer_types", WINDOWS), ("Longformer", "attention_window", [8, 4])],
    ids=["ModernBert", "Longformer"],
)
def test_per_layer_lists_are_cut_with_the_layers(tmp_path: Path, kind: str, key: str, expected: list[object]) -> None:
    source = layered(tmp_path / "source", kind)
    config = model_config(source, layers=2)
    reranker = lively(load(source, config, seed=1))
    assert reranker.layers == 2 and getattr(reranker.model.config, key) == expected[:2]
    save(reranker, tmp_path / "saved", config)
    again = load(tmp_path / "saved", model_config(tmp_path / "saved"), seed=2)
    assert again.layers == 2 and np.array_equal(scores(again), scores(reranker))


@pytest.mark.parametrize("layers", [1, 5])
def test_random_modernbert_repeats_its_pattern_at_any_depth(tmp_path: Path, layers: int) -> None:
    source = modernbert(tmp_path / "source")
    config = model_config(source, layers=layers, hidden_size=64, random_init=True)
    reranker = lively(load(source, config, seed=1, attention=Attention.varlen))
    assert reranker.model.config.layer_types == WINDOWS[:layers]  # type: ignore[union-attr]
    assert (reranker.layers, reranker.hidden_size, reranker.packed) == (layers, 64, True)
    save(reranker, tmp_path / "saved", config)
    again = load(tmp_path / "saved", model_config(tmp_path / "saved"), seed=2, attention=Attention.varlen)
    assert np.array_equal(scores(again), scores(reranker))


def test_depth_or_width_that_a_model_cannot_have_is_refused(tmp_path: Path) -> None:
    funnel = saved(tmp_path / "funnel", "Funnel", num_hidden_layers=None, block_sizes=[1, 1], d_head=16, d_inner=64)
    with pytest.raises(
        ModelError, match=r"^model\.layers must be a number that FunnelConfig accepts, got 1 \("
    ) as error:
        load(funnel, model_config(funnel, layers=1), seed=0)
    assert "block_sizes" in one_line_refusal(error.value)
    xlnet = saved(tmp_path / "xlnet", "XLNet", **XLNET)
    with pytest.raises(ModelError, match=r"^model\.hidden_size must be a number that XLNetConfig accepts, ") as error:
        load(xlnet, model_config(xlnet, hidden_size=64, random_init=True), seed=0)
    assert "`d_head`" in one_line_refusal(error.value), "the reason is named, not only that there is one"


def test_config_that_transformers_cannot_build_is_refused(tmp_path: Path) -> None:
    lilt = saved(tmp_path, "Lilt", hidden_size=96)
    path = lilt / "config.json"
    path.write_text(path.read_text().replace('"num_attention_heads": 2', '"num_attention_heads": 5'))
    with pytest.raises(ModelError, match=r"^model\.random_init must be used with a configuration that ") as error:
        load(lilt, model_config(lilt, random_init=True), seed=0)
    one_line_refusal(error.value)


# --- attention --------------------------------------------------------------------------------------------------------


def test_model_without_sdpa_runs_eager_and_logs_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = saved(tmp_path, "DebertaV2", type_vocab_size=0, pooler_hidden_size=32)
    config = model_config(source)
    _say.cache_clear()
    with caplog.at_level("INFO", "pipeline"):
        reranker = load(source, config, seed=1, attention=Attention.varlen)
    assert caplog.messages == ["using eager attention: DebertaV2ForSequenceClassification does not support SDPA"]
    assert np.array_equal(scores(reranker), scores(load(source, config, seed=1, attention=Attention.eager)))
    assert not reranker.packed
    random = model_config(source, random_init=True)
    assert load(source, random, seed=1, attention=Attention.varlen).model.config._attn_implementation == "eager"  # type: ignore[union-attr]


@pytest.mark.parametrize("random_init", [False, True], ids=["weights", "random"])
def test_sdpa_for_a_model_without_it_is_refused(tmp_path: Path, random_init: bool) -> None:
    source = saved(tmp_path, "DebertaV2", type_vocab_size=0, pooler_hidden_size=32)
    rule = r"^runtime\.attention must be one that DebertaV2ForSequenceClassification supports, got 'sdpa'\. "
    with pytest.raises(ModelError, match=rule + r".* runtime\.attention=auto\.$"):
        load(source, model_config(source, random_init=random_init), seed=1, attention=Attention.sdpa)


def test_torn_weights_of_a_model_without_sdpa_are_refused(tmp_path: Path) -> None:
    source = saved(tmp_path, "DebertaV2", type_vocab_size=0, pooler_hidden_size=32)
    (source / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match=r"^model\.path must hold weights that load as fp32 tensors, got ") as error:
        load(source, model_config(source), seed=1, attention=Attention.varlen)
    one_line_refusal(error.value)


def test_model_with_sdpa_uses_it_unless_eager_is_chosen(tmp_path: Path) -> None:
    source = saved(tmp_path, "Electra", embedding_size=32)
    for attention, expected in ((Attention.varlen, "sdpa"), (Attention.sdpa, "sdpa"), (Attention.eager, "eager")):
        reranker = load(source, model_config(source), seed=1, attention=attention)
        assert reranker.model.config._attn_implementation == expected  # type: ignore[union-attr]


def test_model_without_a_scoring_head_is_refused(tmp_path: Path) -> None:
    source = saved(tmp_path, "Electra", embedding_size=32)
    transformers.ViTConfig(hidden_size=32, num_labels=1).save_pretrained(source)
    with pytest.raises(ModelError, match=r"^model\.path must hold weights .*Unrecognized configuration class") as error:
        load(source, model_config(source), seed=1, attention=Attention.sdpa)
    one_line_refusal(error.value)


# --- what a model asks for beside token ids ---------------------------------------------------------------------------


def test_missing_pad_token_is_taken_from_the_tokenizer(tmp_path: Path) -> None:
    source = saved(tmp_path / "source", "GPT2", pad_token_id=None, n_positions=64, bos_token_id=2, eos_token_id=3)
    reranker = load(source, model_config(source), seed=1)
    together = scores(reranker)
    assert together == pytest.approx([scores(reranker, [pair])[0] for pair in PAIRS], abs=1e-6)
    save(reranker, tmp_path / "saved", model_config(source))
    assert np.abs(predicted(tmp_path / "saved") - together).max() <= 1e-5


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


# --- dropout ----------------------------------------------------------------------------------------------------------


def rates(model: torch.nn.Module) -> set[float]:
    return {
        getattr(module, name)
        for module in model.modules()
        for name in ("p", "drop_prob")
        if "Dropout" in type(module).__name__ and hasattr(module, name)
    }


KINDS: dict[str, dict[str, Any]] = {
    "Bert": {"classifier_dropout": 0.2},
    "Albert": {"embedding_size": 16, "classifier_dropout_prob": 0.1},
    "DebertaV2": {"type_vocab_size": 0, "pooler_hidden_size": 32, "pooler_dropout": 0.1, "cls_dropout": 0.4},
    "XLNet": {**XLNET, "summary_last_dropout": 0.1},
    "XLM": {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "summary_first_dropout": 0.1},
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "Funnel": {"num_hidden_layers": None, "block_sizes": [1, 1], "d_head": 16, "d_inner": 64},
    "GPT2": {"n_inner": 64, "embd_pdrop": 0.1, "resid_pdrop": 0.1, "attn_pdrop": 0.1},
    "Electra": {"embedding_size": 16, "classifier_dropout": 0.2},
    "ModernBert": {"classifier_dropout": 0.2, "mlp_dropout": 0.1},
}


@pytest.mark.parametrize("rate", [0.0, 0.25, None])
@pytest.mark.parametrize("kind", KINDS)
def test_dropout_rate_is_set_in_every_kind_of_model(tmp_path: Path, kind: str, rate: float | None) -> None:
    source = saved(tmp_path / "source", kind, **KINDS[kind])
    config = model_config(source, dropout=rate)
    reranker = load(source, config, seed=1, attention=Attention.varlen)
    if rate is None:
        published = rates(transformers.AutoModelForSequenceClassification.from_pretrained(source))
        assert rates(reranker.model) == published and 0.1 in published
    else:
        assert rates(reranker.model) in ({rate}, {rate} - {0.0}), "some models omit the module at rate 0"
    if rate == 0:
        batch = {"input_ids": torch.arange(5, 15).reshape(2, 5), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
        reranker.model.train()
        found = [reranker.model(**batch).logits for _ in range(2)]
        assert torch.equal(*found), "nothing is dropped"
    save(reranker, tmp_path / "saved", config)
    again = load(tmp_path / "saved", model_config(tmp_path / "saved", dropout=None), seed=1)
    assert rates(again.model) == rates(reranker.model), "the rate is saved"


def test_dropout_rate_that_cannot_be_set_is_refused(tmp_path: Path) -> None:
    source = saved(tmp_path, "Mpt", **dict.fromkeys(SMALL), d_model=32, n_heads=2, n_layers=2)
    assert rates(load(source, model_config(source, dropout=0.0), seed=1).model) == {0.0}
    load(source, model_config(source, dropout=None), seed=1)
    with pytest.raises(ModelError, match=r"^model\.dropout must set every dropout rate of MptForSequenceClas") as error:
        load(source, model_config(source, dropout=0.25), seed=1)
    assert "0.25, but 0 in transformer.blocks.0.dropout_rate" in one_line_refusal(error.value)


# --- positions --------------------------------------------------------------------------------------------------------

OFFSET: dict[str, dict[str, Any]] = {
    "Roberta": {},
    "XLMRoberta": {},
    "XLMRobertaXL": {},
    "Camembert": {},
    "RobertaPreLayerNorm": {},
    "MPNet": {},
    "Data2VecText": {},
    "Esm": {"mask_token_id": 4, "position_embedding_type": "absolute"},
    "IBert": {},
    "LayoutLMv3": {"coordinate_size": 5, "shape_size": 6, "visual_embed": False},
    "Lilt": {"hidden_size": 96},
    "Longformer": {"attention_window": 8},
    "Luke": {"entity_vocab_size": 8, "entity_emb_size": 8},
    "MarkupLM": {"tag_pad_id": 0, "subs_pad_id": 0, "max_tree_id_unit_embeddings": 4, "xpath_unit_hidden_size": 4},
    "Xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}


@pytest.mark.parametrize("kind", OFFSET)
def test_padding_offset_is_not_counted_as_positions(tmp_path: Path, kind: str) -> None:
    source = saved(tmp_path, kind, roberta(tmp_path), max_position_embeddings=66, **OFFSET[kind])
    assert own_max_length(source) == 64
    with pytest.raises(ModelError, match=r"must be at most the 64 positions .* model\.max_length=64\."):
        load(source, model_config(source, max_length=65), seed=0)
    found = scores(lively(load(source, model_config(source, max_length=64), seed=0)))
    assert np.isfinite(found).all() and len(set(found.tolist())) == len(PAIRS)


def test_all_models_with_padding_offset_positions_are_known() -> None:
    found = set()
    for path in (Path(transformers.__file__).parent / "models").glob("*/modeling_*.py"):
        source = path.read_text(encoding="utf-8")
        if "def create_position_ids_from_input_ids(" in source and "ForSequenceClassification(" in source:
            found.add(path.stem.removeprefix("modeling_").replace("_", "-"))
    assert found == OFFSET_POSITIONS


def test_model_of_few_positions_is_loaded_if_cut_pairs_fit(tmp_path: Path) -> None:
    source = saved(tmp_path, "Electra", embedding_size=32, max_position_embeddings=8)
    tokenizer = AutoTokenizer.from_pretrained(source)
    assert len(tokenizer("one", "two three")["input_ids"]) > 8
    assert np.isfinite(scores(load(source, model_config(source, max_length=8), seed=1))).all()


def test_model_without_a_position_limit_takes_any_length(tmp_path: Path) -> None:
    source = saved(tmp_path, "XLNet", **XLNET)
    assert own_max_length(source) == 512, "the default where neither model nor tokenizer sets a limit"
    assert load(source, model_config(source, max_length=4096), seed=0).max_length == 4096


# --- padding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "values", "side"),
    [
        ("Bert", {}, "right"),
        ("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}, "right"),
        ("ModernBert", {"classifier_pooling": "cls", "local_attention": 8}, "right"),
        ("XLNet", XLNET, "left"),
    ],
    ids=["Bert", "DistilBert", "ModernBert", "XLNet"],
)
@pytest.mark.parametrize("attention", ["eager", "varlen"])
def test_pairs_score_in_a_batch_as_alone_whichever_side_is_padded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, values: dict[str, Any], side: str, attention: str
) -> None:
    other = "left" if side == "right" else "right"
    wordpiece(tmp_path)
    tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"), padding_side=other)
    source = saved(tmp_path / "source", kind, tokenizer, **values)
    config = model_config(source)
    _say.cache_clear()
    with caplog.at_level("INFO", "pipeline"):
        reranker = lively(load(source, config, seed=1, attention=Attention[attention]))
    assert [message for message in caplog.messages if message.startswith(f"padding on the {side}, also in the saved ")]
    together, alone = scores(reranker), np.concatenate([scores(reranker, [pair]) for pair in PAIRS])
    assert np.abs(together - alone).max() <= 1e-5 < together.std()
    save(reranker, tmp_path / "saved", config)
    assert np.abs(predicted(tmp_path / "saved") - together).max() <= 1e-5
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").padding_side == side
    assert load(tmp_path / "saved", config, seed=1).tokenizer.padding_side == side
    reranker.tokenizer.padding_side = reranker.tokenizer.init_kwargs["padding_side"] = other
    save(reranker, tmp_path / "other", config)
    assert np.abs(predicted(tmp_path / "other") - together).max() > 1e-3, "the side is not without effect"


def test_xlnet_head_runs_in_fp32_under_bf16(tmp_path: Path) -> None:
    source = saved(tmp_path, "XLNet", **XLNET)
    reranker = lively(load(source, model_config(source), seed=0))
    scorer = PairScorer(reranker, device=CPU, precision=Precision.bf16, token_budget=BUDGET)
    found = scorer.score([(f"river {i}", "stone " * i) for i in range(20)])
    assert (found != torch.from_numpy(found).bfloat16().float().numpy()).mean() > 0.8


# --- tokenizer and folder ---------------------------------------------------------------------------------------------


def test_tokenizer_with_more_tokens_than_embeddings_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "Bert")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    known = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    assert np.isfinite(scores(load(folder, model_config(folder), seed=1))).all(), "no pair holds that token"
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
    assert np.isfinite(scores(load(folder, model_config(folder), seed=1), [("qqq", "a zzz")])).all()


def test_model_without_an_embedding_table_is_loaded(tmp_path: Path) -> None:
    folder = saved(tmp_path, "Canine", vocab_size=None)  # it hashes characters
    reranker = load(folder, model_config(folder), seed=1)
    with pytest.raises(NotImplementedError):
        reranker.model.get_input_embeddings()
    assert np.isfinite(scores(reranker)).all()


def test_tokenizer_with_more_token_types_than_embeddings_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "Bert", type_vocab_size=1)
    with pytest.raises(ModelError) as error:
        load(folder, model_config(folder), seed=1)
    assert one_line_refusal(error.value) == (
        f"model.path must have an embedding for each token type of its tokenizer, got 1 for 2 in {folder}. "
        "Remove token_type_ids from its tokenizer's model_input_names."
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, model_input_names=["input_ids", "attention_mask"])
    tokenizer.save_pretrained(folder)
    assert np.isfinite(scores(load(folder, model_config(folder), seed=1))).all()


def test_refusal_names_the_subfolder_of_an_old_model(tmp_path: Path) -> None:
    (tmp_path / "0_Transformer").mkdir()
    (tmp_path / "0_Transformer" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=rf"^model\.path must be a folder with config\.json.* Pass {tmp_path}/0_Trans"):
        read(tmp_path)


def test_refusal_asks_to_merge_the_adapter(tmp_path: Path) -> None:
    for name in ("adapter_config.json", "config.json"):  # beside a whole model it would be overlooked
        (tmp_path / name).write_text("{}")
        with pytest.raises(
            ModelError, match=r"^model\.path must hold a whole model, got an adapter in .* Merge it into"
        ):
            read(tmp_path)


@pytest.mark.parametrize(
    "reader", [read, lambda folder: must_be_bi_encoder(folder, "mining.path")], ids=["cross-encoder", "bi-encoder"]
)
def test_user_is_never_asked_to_run_a_folders_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Callable[[Path], object]
) -> None:
    questions = list[object]()
    monkeypatch.setattr("builtins.input", lambda *prompt: questions.append(prompt) or "n")
    own = {"model_type": "of-its-own", "auto_map": {"AutoConfig": "configuration.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    (tmp_path / "configuration.py").write_text("raise AssertionError('its code was run')")
    with contextlib.suppress(ModelError):
        reader(tmp_path)
    assert questions == []
