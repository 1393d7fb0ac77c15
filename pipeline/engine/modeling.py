"""Load, run and save a cross-encoder. Wraps transformers; knows nothing of data, stages or training.

The model is a plain `AutoModelForSequenceClassification` with one label; the saved folder is a plain
sentence-transformers `CrossEncoder`.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from pipeline.config.learning import Activation, ModelConfig, Precision
from pipeline.config.machine import Attention
from pipeline.core.errors import ModelError, must
from pipeline.engine import block_bert, block_scoring, lanes, packed
from pipeline.engine.pair_template import Ints, PairTemplate
from pipeline.engine.tokens import TokenTable

log = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]

ACTIVATIONS = {
    Activation.identity: "torch.nn.modules.linear.Identity",
    Activation.sigmoid: "torch.nn.modules.activation.Sigmoid",
    Activation.tanh: "torch.nn.modules.activation.Tanh",
}
"""What the saved CrossEncoder applies in `predict`, by the import path sentence-transformers stores."""

DROPOUT_KEYS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "hidden_dropout",
    "attention_dropout", "embedding_dropout", "mlp_dropout", "dropout", "seq_classif_dropout",
)  # fmt: skip
"""Names under which encoders' configurations keep dropout rates."""


OFFSET_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "mpnet"}
"""Model types whose first positions are never used."""


@dataclass(slots=True)
class Reranker:
    """A cross-encoder in memory: one logit a pair, fp32 weights."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    hidden_size: int
    layers: int
    head_was_saved: bool
    packed: bool
    """Whether it runs on packed batches (no padding) or, on a CPU, in blocks (little); `collate` makes them."""

    def collate(self, table: TokenTable, template: PairTemplate, first: Ints, second: Ints, width_step: int) -> Batch:
        """Tensors of pairs of a table's texts, longest pair first, in the form this model takes, `staged`.

        Blocks, where it takes them, are multiples of `width_step` wide.
        """
        if self._in_blocks():
            return table.blocks(template, first, second, width_step)
        batch = (table.pack if self.packed else table.collate)(template, first, second)
        return {name: self.staged(tensor) for name, tensor in batch.items()}

    def staged(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor in memory that the GPU reads by itself, where the model is on one: other copies may wait there."""
        return tensor.pin_memory() if next(self.model.parameters()).is_cuda else tensor

    def frozen(self, precision: Precision) -> Callable[[Batch], torch.Tensor]:
        """`logits` of many batches while the weights stay as they are; the model must be in evaluation mode."""
        if not self._in_blocks():
            return lambda batch: logits(self.model, batch, precision)
        dtype = torch.bfloat16 if precision is Precision.bf16 else next(self.model.parameters()).dtype
        assert not self.model.training, "it leaves dropout out"
        model = block_scoring.Frozen(self.model, dtype)
        return lambda batch: model(batch).float().squeeze(-1)

    def lanes(self) -> int:
        """Micro-batches it computes side by side; to be asked on the main thread."""
        return lanes.available() if self._in_blocks() else 1

    def _in_blocks(self) -> bool:
        return self.packed and packed.runs_in_blocks(self.model)


def load(folder: Path, config: ModelConfig, *, seed: int, attention: Attention = Attention.eager) -> Reranker:
    """Load an encoder (a new head is drawn from `seed`) or a cross-encoder (its head is kept).

    Args:
        folder: a local folder with config.json, weights and tokenizer files.
        config: lengths, dropout, kept layers; with `random_init` only the configuration and tokenizer are read.
        seed: decides every weight the folder does not hold.
        attention: `eager` or `sdpa` on padded batches; `varlen` without padding where `packed` supports the model,
            else `sdpa`.

    Raises:
        ModelError: when the folder holds no usable model, or one with more than one label.
    """
    seen, tokenizer = _read_config(folder)
    hf = _adapt(seen, config)
    saved_head = not config.random_init and _is_cross_encoder(seen)
    if saved_head and hf.num_labels != 1:
        raise ModelError(must("model.path", "be a cross-encoder with one label", f"{hf.num_labels} labels in {folder}",
                              "Rerankers score a pair with one number: choose another model."))  # fmt: skip
    hf.num_labels = 1
    limit = _positions(hf)
    if limit is not None and config.max_length > limit:
        raise ModelError(must("model.max_length", f"be at most the {limit} positions of {folder}", config.max_length,
                              f"Pass model.max_length={limit}."))  # fmt: skip
    implementation = "eager" if attention is Attention.eager else "sdpa"
    torch.manual_seed(seed)
    with _quiet():
        if config.random_init:
            model = AutoModelForSequenceClassification.from_config(hf, attn_implementation=implementation)
        else:
            model = _from_weights(folder, hf, implementation)
    tokenizer.model_max_length = config.max_length
    _align(model)
    keep_head_in_fp32(model)
    return Reranker(
        model=model.eval(),
        tokenizer=tokenizer,
        max_length=config.max_length,
        hidden_size=int(hf.hidden_size),
        layers=int(hf.num_hidden_layers),
        head_was_saved=saved_head,
        packed=attention is Attention.varlen and packed.supports(model),
    )


def own_max_length(folder: Path) -> int:
    """Tokens a saved model takes, as its tokenizer says, else as its positions allow.

    Raises:
        ModelError: when the folder holds no model transformers can read.
    """
    hf, tokenizer = _read_config(folder)
    positions = _positions(hf) or 512
    # Tokenizers that were never told say 1e30.
    return min(int(tokenizer.model_max_length), positions) if tokenizer.model_max_length < 10**6 else positions


def must_be_cross_encoder(folder: Path, key: str) -> None:
    """Refuse what is no saved cross-encoder with one label, by its configuration and tokenizer alone.

    Raises:
        ModelError: naming the configuration's `key`.
    """
    try:
        seen, _ = _read_config(folder)
    except ModelError as error:
        raise ModelError(str(error).replace("model.path", key, 1)) from None
    if not _is_cross_encoder(seen) or seen.num_labels != 1:
        got = f"{folder} with {seen.num_labels} labels" if _is_cross_encoder(seen) else f"{folder}, a base model"
        raise ModelError(must(key, "name trained cross-encoders with one label", got, "Name another, or leave it out."))


def _positions(hf: Any) -> int | None:
    """Tokens a model has positions for, None where its configuration does not limit them."""
    limit = getattr(hf, "max_position_embeddings", None)
    if limit is None:
        return None
    # RoBERTa and its kin count positions from the one after the padding token's id.
    return int(limit) - (hf.pad_token_id + 1 if hf.model_type in OFFSET_POSITIONS else 0)


def _read_config(folder: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    if not (folder / "config.json").is_file():
        raise ModelError(must("model.path", "be a folder with config.json, weights and a tokenizer", str(folder),
                              "Pass the folder of a saved transformers or sentence-transformers model."))  # fmt: skip
    try:
        with _quiet():
            seen = _bert_of_old(folder) or AutoConfig.from_pretrained(folder)
            return seen, AutoTokenizer.from_pretrained(folder, config=seen)
    except Exception as error:  # a wrong type in a configuration raises kinds of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(must("model.path", "hold a model and tokenizer transformers can read", f"{folder} ({reason})",
                              "Save it again with save_pretrained.")) from None  # fmt: skip


def _bert_of_old(folder: Path) -> Any:
    """The configuration of a BERT saved before files named their type (prajjwal1/bert-tiny), None for others.

    transformers 5 no longer guesses the type from the folder's name.
    """
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    old = "model_type" not in raw and "type_vocab_size" in raw and (folder / "vocab.txt").is_file()
    return BertConfig.from_pretrained(folder) if old else None


def _is_cross_encoder(config: Any) -> bool:
    names = getattr(config, "architectures", None) or []
    return any(name.endswith("ForSequenceClassification") for name in names)


def _adapt(seen: Any, config: ModelConfig) -> Any:
    hf = copy.deepcopy(seen)
    if config.layers is not None:
        if config.layers > hf.num_hidden_layers and not config.random_init:
            raise ModelError(must("model.layers", f"be at most the model's {hf.num_hidden_layers}", config.layers,
                                  "Use null to keep them all."))  # fmt: skip
        hf.num_hidden_layers = config.layers
    if config.hidden_size is not None:
        hf.hidden_size = config.hidden_size
        hf.num_attention_heads = max(1, config.hidden_size // 32)
        hf.intermediate_size = 4 * config.hidden_size
    if config.dropout is not None:
        for key in DROPOUT_KEYS:
            if hasattr(hf, key):
                setattr(hf, key, config.dropout)
    return hf


def _from_weights(folder: Path, hf: Any, implementation: str) -> Any:
    try:
        return AutoModelForSequenceClassification.from_pretrained(
            folder, config=hf, dtype=torch.float32, attn_implementation=implementation
        )
    except Exception as error:  # transformers and torch raise many kinds for a torn or unsafe weights file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(must("model.path", "hold weights that load as fp32 tensors", f"{folder} ({reason})",
                              "Download or save the model again.")) from None  # fmt: skip


def _align(model: nn.Module) -> None:
    """Copy weights out of the mapped file: where a tensor starts in memory decides the last bits of a CPU product.

    Without this a reloaded model scores 1e-7 beside the one in memory. torch allocates on 64 bytes.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def keep_head_in_fp32(model: nn.Module) -> None:
    """Run the last linear layer outside autocast: a bf16 logit has 8 significant bits and makes ties."""
    for name in ("classifier", "score"):
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            plain = head.forward

            def forward(features: torch.Tensor, plain: Any = plain) -> torch.Tensor:
                with torch.autocast(features.device.type, enabled=False):
                    result: torch.Tensor = plain(features.float())
                return result

            head.forward = forward
            return


def logits(model: nn.Module, batch: Batch, precision: Precision) -> torch.Tensor:
    """One fp32 logit a pair, shape (pairs,), under the declared precision; of a padded or a packed batch."""
    device = batch["input_ids"].device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=precision is Precision.bf16):
        padded = "attention_mask" in batch
        found: torch.Tensor = model(**batch).logits if padded else packed.logits(model, batch)
    return found.float().squeeze(-1)


def of_step(model: nn.Module, precision: Precision) -> Callable[[Batch, int], torch.Tensor]:
    """`logits` of one step's batches of blocks, on any thread: weights are cast once, a number seeds each dropout."""

    def autocast() -> torch.autocast:
        bf16 = precision is Precision.bf16
        # Its cache of cast weights, parts of a graph, would be shared by all threads.
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16, cache_enabled=False)

    with autocast():
        weights = block_bert.narrowed(model)

    def found(batch: Batch, seed: int) -> torch.Tensor:
        with autocast():
            return block_bert.logits(model, batch, weights, seed).float().squeeze(-1)

    return found


def save(reranker: Reranker, folder: Path, config: ModelConfig) -> None:
    """Write a plain CrossEncoder folder: safetensors weights, tokenizer, activation.

    The folder loads with `sentence_transformers.CrossEncoder(folder)`, `AutoModelForSequenceClassification` and `load`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model: Any = reranker.model
    with _quiet():
        model.config.architectures = [type(model).__name__]
        model.save_pretrained(folder, safe_serialization=True)
        reranker.tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    saved = json.loads(path.read_text())
    saved["sentence_transformers"] = {
        "activation_fn": ACTIVATIONS[config.activation],
        "version": _sentence_transformers_version(),
    }
    saved["id2label"], saved["label2id"] = {"0": "LABEL_0"}, {"LABEL_0": 0}
    path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")


def _sentence_transformers_version() -> str:
    from importlib.metadata import version

    return version("sentence-transformers")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' progress bars and its notice that a new head is untrained: that is what we do here."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()
