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
from model_folders import PAIRS, SMALL, XLNET, pair_scores, predictions, save_random
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
from pipeline.engine.scoring import PairScorer

# --- layers and width -------------------------------------------------------------------------------------------------

WINDOWS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]


def layered(folder: Path, kind: str) -> Path:
    return modernbert(folder) if kind == "ModernBert" else save_random(folder, kind, attention_window=[8, 4, 16])


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
    assert again.layers == 2 and np.array_equal(pair_scores(again), pair_scores(reranker))


@pytest.mark.parametrize("layers", [1, 5])
def test_random_modernbert_repeats_its_pattern_at_any_depth(tmp_path: Path, layers: int) -> None:
    source = modernbert(tmp_path / "source")
    config = model_config(source, layers=layers, hidden_size=64, random_init=True)
    reranker = lively(load(source, config, seed=1, attention=Attention.varlen))
    assert reranker.model.config.layer_types == WINDOWS[:layers]  # type: ignore[union-attr]
    assert (reranker.layers, reranker.hidden_size, reranker.packed) == (layers, 64, True)
    save(reranker, tmp_path / "saved", config)
    again = load(tmp_path / "saved", model_config(tmp_path / "saved"), seed=2, attention=Attention.varlen)
    assert np.array_equal(pair_scores(again), pair_scores(reranker))


def test_depth_or_width_that_a_model_cannot_have_is_refused(tmp_path: Path) -> None:
    funnel = save_random(
        tmp_path / "funnel", "Funnel", num_hidden_layers=None, block_sizes=[1, 1], d_head=16, d_inner=64
    )
    with pytest.raises(
        ModelError, match=r"^model\.layers must be a number that FunnelConfig accepts, got 1 \("
    ) as error:
        load(funnel, model_config(funnel, layers=1), seed=0)
    assert "block_sizes" in one_line_refusal(error.value)
    xlnet = save_random(tmp_path / "xlnet", "XLNet", **XLNET)
    with pytest.raises(ModelError, match=r"^model\.hidden_size must be a number that XLNetConfig accepts, ") as error:
        load(xlnet, model_config(xlnet, hidden_size=64, random_init=True), seed=0)
    assert "`d_head`" in one_line_refusal(error.value), "the reason is named, not only that there is one"


# --- attention --------------------------------------------------------------------------------------------------------


def test_model_without_sdpa_runs_eager_and_logs_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = save_random(tmp_path, "DebertaV2", type_vocab_size=0, pooler_hidden_size=32)
    config = model_config(source)
    _say.cache_clear()
    with caplog.at_level("INFO", "pipeline"):
        reranker = load(source, config, seed=1, attention=Attention.varlen)
    assert caplog.messages == ["using eager attention: DebertaV2ForSequenceClassification does not support SDPA"]
    assert np.array_equal(pair_scores(reranker), pair_scores(load(source, config, seed=1, attention=Attention.eager)))
    assert not reranker.packed
    random = model_config(source, random_init=True)
    assert load(source, random, seed=1, attention=Attention.varlen).model.config._attn_implementation == "eager"  # type: ignore[union-attr]


@pytest.mark.parametrize("random_init", [False, True], ids=["weights", "random"])
def test_sdpa_for_a_model_without_it_is_refused(tmp_path: Path, random_init: bool) -> None:
    source = save_random(tmp_path, "DebertaV2", type_vocab_size=0, pooler_hidden_size=32)
    rule = r"^runtime\.attention must be one that DebertaV2ForSequenceClassification supports, got 'sdpa'\. "
    with pytest.raises(ModelError, match=rule + r".* runtime\.attention=auto\.$"):
        load(source, model_config(source, random_init=random_init), seed=1, attention=Attention.sdpa)


def test_model_with_sdpa_uses_it_unless_eager_is_chosen(tmp_path: Path) -> None:
    source = save_random(tmp_path, "Electra", embedding_size=32)
    for attention, expected in ((Attention.varlen, "sdpa"), (Attention.sdpa, "sdpa"), (Attention.eager, "eager")):
        reranker = load(source, model_config(source), seed=1, attention=attention)
        assert reranker.model.config._attn_implementation == expected  # type: ignore[union-attr]


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
    source = save_random(tmp_path / "source", kind, **KINDS[kind])
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
    source = save_random(tmp_path, "Mpt", **dict.fromkeys(SMALL), d_model=32, n_heads=2, n_layers=2)
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
    source = save_random(tmp_path, kind, roberta(tmp_path), max_position_embeddings=66, **OFFSET[kind])
    assert own_max_length(source) == 64
    with pytest.raises(ModelError, match=r"must be at most the 64 positions .* model\.max_length=64\."):
        load(source, model_config(source, max_length=65), seed=0)
    found = pair_scores(lively(load(source, model_config(source, max_length=64), seed=0)))
    assert np.isfinite(found).all() and len(set(found.tolist())) == len(PAIRS)


def test_all_models_with_padding_offset_positions_are_known() -> None:
    found = set()
    for path in (Path(transformers.__file__).parent / "models").glob("*/modeling_*.py"):
        source = path.read_text(encoding="utf-8")
        if "def create_position_ids_from_input_ids(" in source and "ForSequenceClassification(" in source:
            found.add(path.stem.removeprefix("modeling_").replace("_", "-"))
    assert found == OFFSET_POSITIONS


def test_model_of_few_positions_is_loaded_if_cut_pairs_fit(tmp_path: Path) -> None:
    source = save_random(tmp_path, "Electra", embedding_size=32, max_position_embeddings=8)
    tokenizer = AutoTokenizer.from_pretrained(source)
    assert len(tokenizer("one", "two three")["input_ids"]) > 8
    assert np.isfinite(pair_scores(load(source, model_config(source, max_length=8), seed=1))).all()


def test_model_without_a_position_limit_takes_any_length(tmp_path: Path) -> None:
    source = save_random(tmp_path, "XLNet", **XLNET)
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
    source = save_random(tmp_path / "source", kind, tokenizer, **values)
    config = model_config(source)
    _say.cache_clear()
    with caplog.at_level("INFO", "pipeline"):
        reranker = lively(load(source, config, seed=1, attention=Attention[attention]))
    assert [message for message in caplog.messages if message.startswith(f"padding on the {side}, also in the saved ")]
    together, alone = pair_scores(reranker), np.concatenate([pair_scores(reranker, [pair]) for pair in PAIRS])
    assert np.abs(together - alone).max() <= 1e-5 < together.std()
    save(reranker, tmp_path / "saved", config)
    assert np.abs(predictions(tmp_path / "saved") - together).max() <= 1e-5
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").padding_side == side
    assert load(tmp_path / "saved", config, seed=1).tokenizer.padding_side == side
    reranker.tokenizer.padding_side = reranker.tokenizer.init_kwargs["padding_side"] = other
    save(reranker, tmp_path / "other", config)
    assert np.abs(predictions(tmp_path / "other") - together).max() > 1e-3, "the side is not without effect"


def test_xlnet_head_runs_in_fp32_under_bf16(tmp_path: Path) -> None:
    source = save_random(tmp_path, "XLNet", **XLNET)
    reranker = lively(load(source, model_config(source), seed=0))
    scorer = PairScorer(reranker, device=CPU, precision=Precision.bf16, token_budget=BUDGET)
    found = scorer.score([(f"river {i}", "stone " * i) for i in range(20)])
    assert (found != torch.from_numpy(found).bfloat16().float().numpy()).mean() > 0.8


# --- refused folders --------------------------------------------------------------------------------------------------


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
