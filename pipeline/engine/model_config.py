"""Read and adapt a model folder's configuration and tokenizer. Wraps transformers; knows nothing of weights.

Changes made here are saved with the model, so that the folder says what was trained.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from pipeline.config.learning import ModelConfig
from pipeline.config.runtime import Attention
from pipeline.core.errors import ModelError, first_line, must, raise_shortage
from pipeline.inputs import tokenizer_files

log = logging.getLogger(__name__)

OFFSET_POSITIONS = {
    "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet",
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip
"""Model types whose first position embeddings are never used."""

OLD_MODULE = "0_Transformer"
"""Where the first versions of sentence-transformers kept a bi-encoder's transformer."""


def read(folder: Path, key: str = "model.path") -> tuple[Any, PreTrainedTokenizerBase]:
    """Return a folder's configuration and tokenizer as they were saved; `key` is the setting that named the folder.

    Raises:
        ModelError: when the folder holds none that transformers can read, or only an adapter.
    """
    if (folder / "adapter_config.json").is_file():
        remedy = "Merge it into its base model (merge_and_unload) and pass the folder that save_pretrained writes."
        raise ModelError(must(key, "hold a whole model", f"an adapter in {folder}", remedy))
    if not (folder / "config.json").is_file():
        remedy = "Pass the folder of a saved transformers or sentence-transformers model."
        if (folder / OLD_MODULE / "config.json").is_file():
            remedy = f"Pass {folder / OLD_MODULE}."
        rule = "be a folder with config.json, weights and a tokenizer"
        raise ModelError(must(key, rule, repr(str(folder)), remedy))
    try:
        with quiet():
            saved = _bert_of_old(folder) or AutoConfig.from_pretrained(folder, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(folder, config=saved, trust_remote_code=False)
    except Exception as error:  # a wrong type in a configuration raises errors of many kinds
        raise_shortage(error)
        raise ModelError(must(key, "hold a model and tokenizer transformers can read",
                              f"{folder} ({first_line(error)})",
                              "Save it again with save_pretrained.")) from None  # fmt: skip
    tokenizer_files.check(tokenizer, [folder], key)
    return saved, tokenizer


def _bert_of_old(folder: Path) -> Any:
    """Return the configuration of a BERT saved before files named the model type (prajjwal1/bert-tiny), else None.

    transformers 5 no longer guesses the type from the folder's name.
    """
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    old = "model_type" not in raw and "type_vocab_size" in raw and (folder / "vocab.txt").is_file()
    return BertConfig.from_pretrained(folder) if old else None


def own_max_length(folder: Path) -> int:
    """Return the most tokens a saved model takes: the lesser of its tokenizer's limit and `positions` (512 if None).

    Raises:
        ModelError: when the folder holds no model transformers can read.
    """
    hf, tokenizer = read(folder)
    limit = positions(hf) or 512
    # Tokenizers saved without a limit say 1e30.
    return min(int(tokenizer.model_max_length), limit) if tokenizer.model_max_length < 10**6 else limit


def positions(hf: Any) -> int | None:
    """Return how many tokens a model has positions for, None where its configuration sets no limit."""
    limit = getattr(hf, "max_position_embeddings", None)
    if limit is None or limit <= 0:  # XLNet says -1
        return None
    # RoBERTa and related models count positions from the number after the padding token's id.
    return int(limit) - ((hf.pad_token_id or 0) + 1 if hf.model_type in OFFSET_POSITIONS else 0)


def adapted(saved: Any, config: ModelConfig) -> Any:
    """Return a copy with the number of layers, width and dropout rates that `config` asks for.

    Raises:
        ModelError: when the model has fewer layers than `config` keeps, or its configuration rejects a value.
    """
    hf = copy.deepcopy(saved)
    if config.layers is not None:
        if config.layers > hf.num_hidden_layers and not config.random_init:
            raise ModelError(must("model.layers", f"be at most the model's {hf.num_hidden_layers}", config.layers,
                                  "Use null to keep them all."))  # fmt: skip
        with _settable("model.layers", config.layers, hf):
            hf = _with_layers(hf, config.layers)
            hf.validate()
    if config.hidden_size is not None:
        with _settable("model.hidden_size", config.hidden_size, hf):
            hf.hidden_size = config.hidden_size
            hf.num_attention_heads = max(1, config.hidden_size // 32)
            hf.intermediate_size = 4 * config.hidden_size
            if hasattr(hf, "pooler_hidden_size"):  # DeBERTa's, equal by definition
                hf.pooler_hidden_size = config.hidden_size
            hf.validate()
    if config.dropout is not None:
        for key in _dropout_keys(hf):
            setattr(hf, key, config.dropout)
    return hf


def _with_layers(hf: Any, layers: int) -> Any:
    """Return the configuration with `layers` layers; adapt lists with an entry per layer (ModernBERT's windows) too."""
    lists = {
        name: value[:layers]
        for name, value in vars(hf).items()
        if ("layer" in name or name == "attention_window") and isinstance(value, (list, tuple))
        if len(value) == hf.num_hidden_layers
    }
    if lists and layers > hf.num_hidden_layers:
        # The configuration's class builds the lists anew, by its own pattern.
        kept = {name: value for name, value in hf.to_dict().items() if name not in lists}
        return type(hf).from_dict({**kept, "num_hidden_layers": layers})
    hf.num_hidden_layers = layers
    for name, value in lists.items():
        setattr(hf, name, value)
    return hf


@contextmanager
def _settable(key: str, value: int, hf: Any) -> Iterator[None]:
    """Refuse now what a configuration's class does not accept: transformers checks when it saves, after training."""
    try:
        yield
    except Exception as error:  # a class that derives its number of layers raises an error of its own
        raise ModelError(must(key, f"be a number that {type(hf).__name__} accepts", f"{value} ({first_line(error)})",
                              "Use null to keep the model's own.")) from None  # fmt: skip


def _dropout_keys(hf: Any) -> list[str]:
    """Return the names of a configuration's dropout rates, including any that are None (a head's, unless set)."""
    return [
        name
        for name, value in vars(hf).items()
        if ("dropout" in name or name.endswith("pdrop"))
        and (value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)))
    ]


def check_dropout(model: nn.Module, rate: float) -> None:
    """Check that every dropout in the model has this rate.

    Raises:
        ModelError: naming a module with another rate, fixed by its class or taken from a key that is not recognised.
    """
    for path, module in model.named_modules():
        own = "Dropout" in type(module).__name__
        for name, value in vars(module).items():
            # Functional dropout takes its rate from an attribute of the module, such as `attention_dropout`.
            held = (own and name in ("p", "drop_prob")) or "dropout" in name
            if held and isinstance(value, (int, float)) and not isinstance(value, bool) and value != rate:
                raise ModelError(must("model.dropout", f"set every dropout rate of {type(model).__name__}",
                                      f"{rate}, but {value} in {path}.{name}",
                                      "Use null to keep the published rates."))  # fmt: skip


def attention_of(hf: Any, attention: Attention) -> str:
    """Return transformers' name of the attention a model gets: SDPA, or eager if asked for or if there is no SDPA.

    Raises:
        ModelError: when SDPA was asked for and the model has none.
    """
    if attention is Attention.eager:
        return "eager"
    kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(hf), None)
    if getattr(kind, "_supports_sdpa", True):  # a kind of model without a scoring head is refused on loading
        return "sdpa"
    if attention is Attention.sdpa:
        raise ModelError(must("runtime.attention", f"be one that {kind.__name__} supports", repr(attention.name),
                              "It has only eager attention: pass runtime.attention=auto."))  # fmt: skip
    _say(f"using eager attention: {kind.__name__} does not support SDPA")
    return "eager"


def set_padding_side(tokenizer: PreTrainedTokenizerBase, hf: Any) -> None:
    """Pad on the right, whatever the folder says, so that a pair's tokens keep the positions they have without padding.

    Padding on the left would shift absolute positions and take the place where heads look for the first token. XLNet
    is padded on the left: its positions are relative and its head looks at the last token.
    """
    side = "left" if getattr(hf, "summary_type", None) == "last" else "right"
    if tokenizer.padding_side != side:
        was = tokenizer.padding_side
        _say(
            f"padding on the {side}, also in the saved tokenizer: on the {was}, as its folder says, it would change "
            "scores"
        )
        tokenizer.padding_side = side
        tokenizer.init_kwargs["padding_side"] = side  # saved with the tokenizer


@cache
def _say(line: str) -> None:
    """Log a line once per process: an evaluation loads each model for each evaluation set."""
    log.info("%s", line)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and its warning that a new head is untrained: training follows."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()
