"""Folders of small random cross-encoders of many kinds, and the scores of a few pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from hub_fixtures import wordpiece
from small_models import BUDGET, CPU

from pipeline.config.learning import Precision
from pipeline.engine.modeling import Reranker
from pipeline.engine.scoring import PairScorer

PAIRS = [("the river", "a stone of the old river"), ("a stone", "number 7"), ("river " * 30, "stone " * 40)]
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
XLNET = dict.fromkeys(SMALL) | {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}


def save_random(folder: Path, kind: str, tokenizer: Any = None, **values: Any) -> Path:
    """Write a random cross-encoder of a kind of transformers' (`DebertaV2`), by default with BERT's tokenizer."""
    if tokenizer is None:
        wordpiece(folder)
        tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    shape = {"vocab_size": len(tokenizer), "num_labels": 1, "pad_token_id": tokenizer.pad_token_id, **SMALL, **values}
    config = getattr(transformers, f"{kind}Config")(**{k: v for k, v in shape.items() if v is not None})
    getattr(transformers, f"{kind}ForSequenceClassification")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pair_scores(reranker: Reranker, pairs: list[tuple[str, str]] = PAIRS) -> Any:
    return PairScorer(reranker, device=CPU, precision=Precision.fp32, token_budget=BUDGET).score(pairs)


def predictions(folder: Path) -> Any:
    """Return the logits of `PAIRS` as one padded batch, as a user of the folder gets them."""
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), device="cpu").predict(PAIRS, activation_fn=torch.nn.Identity())
