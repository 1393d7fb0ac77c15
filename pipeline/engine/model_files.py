"""Load a cross-encoder from a folder and save one to it. Wraps transformers; knows nothing of batches or precision.

The model is a plain `AutoModelForSequenceClassification` with one label; the saved folder is a plain
sentence-transformers `CrossEncoder`.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from pipeline.config.learning import Activation, ModelConfig
from pipeline.config.runtime import Attention
from pipeline.core.errors import ModelError, first_line, must, named, raise_shortage
from pipeline.engine import missing_weights, model_config, model_kinds
from pipeline.engine.modeling import Reranker, keep_head_in_fp32
from pipeline.networks import packed

ACTIVATIONS = {
    Activation.identity: "torch.nn.modules.linear.Identity",
    Activation.sigmoid: "torch.nn.modules.activation.Sigmoid",
    Activation.tanh: "torch.nn.modules.activation.Tanh",
}
"""Activations that a saved CrossEncoder applies in `predict`, by the import path that sentence-transformers stores."""


def load(folder: Path, config: ModelConfig, *, seed: int, attention: Attention = Attention.eager) -> Reranker:
    """Load an encoder (a new head is drawn from `seed`) or a cross-encoder (its head is kept).

    Args:
        folder: a local folder with config.json, weights and tokenizer files.
        config: lengths, dropout, kept layers; with `random_init` only the configuration and tokenizer are read.
        seed: decides every weight the folder does not hold.
        attention: `eager` or `sdpa`: on padded batches; `varlen`: without padding where `packed` supports the model,
            else as `sdpa`, or as `eager` where transformers has no SDPA for it.

    Raises:
        ModelError: when the folder holds no usable model; when the model has more than one label, lacks weights of the
            encoder (the pooler aside) or, if its head was saved, any weights, or lacks embeddings for what its
            tokenizer gives; when `sdpa` is asked for and the model has none.
    """
    hf, tokenizer, saved_head = planned(folder, config)
    implementation = model_config.attention_of(hf, attention)
    torch.manual_seed(seed)
    with model_config.quiet():
        if config.random_init:
            model = _from_config(folder, hf, implementation)
        else:
            model = _from_weights(folder, hf, implementation, saved_head=saved_head)
    if config.dropout is not None:
        model_config.check_dropout(model, config.dropout)
    _check_embeddings(model, tokenizer, folder, drawn=config.random_init)
    tokenizer.model_max_length = config.max_length
    model_config.set_padding_side(tokenizer, hf)
    _align(model)
    keep_head_in_fp32(model)
    if not packed.supports(model):
        _check_scores(model.eval(), tokenizer, folder)
    return Reranker(
        model=model.eval(),
        tokenizer=tokenizer,
        max_length=config.max_length,
        hidden_size=int(hf.hidden_size),
        layers=int(hf.num_hidden_layers),
        head_was_saved=saved_head,
        packed=attention is Attention.varlen and packed.supports(model),
    )


def planned(folder: Path, config: ModelConfig) -> tuple[Any, PreTrainedTokenizerBase, bool]:
    """Return what `load` will make, from the folder's configuration and tokenizer alone.

    Returns:
        The model's configuration, with one label; its tokenizer; whether its head is loaded from the folder.

    Raises:
        ModelError: when the folder holds no model, or one with more than one label, a default prompt or too few
            positions.
    """
    saved, tokenizer = model_config.read(folder)
    hf = model_config.adapted(saved, config)
    saved_head = not config.random_init and model_kinds.is_cross_encoder(saved)
    if saved_head and hf.num_labels != 1:
        raise ModelError(must("model.path", "be a cross-encoder with one label", f"{hf.num_labels} labels in {folder}",
                              "Rerankers score a pair with one number: choose another model."))  # fmt: skip
    if saved_head:
        model_kinds.check_prompt(folder, "model.path")
    hf.num_labels = 1
    if getattr(hf, "pad_token_id", None) is None:  # GPT-2: its heads find the last token by this id
        hf.pad_token_id = tokenizer.pad_token_id
    limit = model_config.positions(hf)
    if limit is not None and config.max_length > limit:
        raise ModelError(must("model.max_length", f"be at most the {limit} positions of {folder}", config.max_length,
                              f"Pass model.max_length={limit}."))  # fmt: skip
    return hf, tokenizer, saved_head


def _from_config(folder: Path, hf: Any, implementation: str) -> Any:
    try:
        return AutoModelForSequenceClassification.from_config(hf, attn_implementation=implementation)
    except Exception as error:  # a model class may assert anything of its configuration
        raise_shortage(error)
        raise ModelError(must("model.random_init", "be used with a configuration that transformers can build",
                              f"{folder} ({first_line(error)})",
                              "Use null for model.layers and model.hidden_size.")) from None  # fmt: skip


def _from_weights(folder: Path, hf: Any, implementation: str, *, saved_head: bool) -> Any:
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            folder, config=hf, dtype=torch.float32, attn_implementation=implementation, output_loading_info=True
        )
    except Exception as error:  # transformers and torch raise many kinds of errors for a torn or unsafe weights file
        raise_shortage(error)
        raise ModelError(must("model.path", "hold weights that load as fp32 tensors",
                              f"{folder} ({first_line(error)})",
                              "Download or save the model again.")) from None  # fmt: skip
    encoder = f"{model.base_model_prefix}."
    missing = [
        name
        for name in found["missing_keys"]
        if saved_head or (name.startswith(encoder) and not missing_weights.pools(name))
    ]
    if missing:
        raise missing_weights.incomplete("model.path", folder, missing, found["unexpected_keys"])
    return model


def _check_embeddings(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, *, drawn: bool) -> None:
    """Refuse a model that lacks embeddings of tokens: a lookup would fail amid a run, on a GPU without saying why."""
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:  # this kind of model has no table: only its own checks remain
        return
    pair = tokenizer("one", "two", return_token_type_ids=True)
    # Special tokens that occur in no pair, such as an image's, may have no embedding.
    unused = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    unused -= {*pair["input_ids"], tokenizer.pad_token_id}
    ids = max(number for number in tokenizer.get_vocab().values() if number not in unused) + 1
    if isinstance(table, nn.Embedding) and ids > table.num_embeddings:
        resize = f"Call model.resize_token_embeddings({ids}) and save it again."
        raise ModelError(must("model.path", "have an embedding for each token of its tokenizer",
                              f"{table.num_embeddings} for {ids} in {folder}",
                              f"Write vocab_size {ids} in its config.json." if drawn else resize))  # fmt: skip
    types = int(getattr(model.config, "type_vocab_size", 0) or 0)  # 0: the model takes none
    given = max(pair["token_type_ids"]) + 1 if "token_type_ids" in tokenizer.model_input_names else 0
    if types and given > types:
        raise ModelError(must("model.path", "have an embedding for each token type of its tokenizer",
                              f"{types} for {given} in {folder}",
                              "Remove token_type_ids from its tokenizer's model_input_names."))  # fmt: skip


def _check_scores(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Refuse a kind of model that cannot score a padded batch of pairs: now, not in the middle of a run."""
    if tokenizer.pad_token is None:
        return  # `collation.checked_template` refuses it and says why
    try:
        with torch.no_grad():
            pairs = [["one", "two"], ["one", "two three"]]
            model(**tokenizer(pairs, padding=True, truncation=True, return_tensors="pt"))
    except Exception as error:  # a kind of model may need more than tokens, such as a decoder's first token
        raise_shortage(error)
        raise ModelError(must("model.path", f"score pairs of texts as {type(model).__name__}",
                              f"{folder} ({named(error)})", "Choose another model.")) from None  # fmt: skip


def _align(model: nn.Module) -> None:
    """Copy weights out of the mapped file: the alignment of a tensor decides the last bits of a matmul on a CPU.

    Without this a reloaded model's scores differ from those of the model in memory by 1e-7. torch aligns to 64 bytes.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def activation_of(folder: Path) -> Activation:
    """Return what a saved CrossEncoder applies to its logit: sigmoid, sentence-transformers' default, if it names none.

    An activation that is not in `ACTIVATIONS` counts as sigmoid too. `save` writes the activation into config.json,
    sentence-transformers 6 into a separate file.
    """
    name, own = None, folder / "config_sentence_transformers.json"
    if own.is_file():
        name = json.loads(own.read_text(encoding="utf-8")).get("activation_fn")
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("sentence_transformers", {})
    by_name = {path: activation for activation, path in ACTIVATIONS.items()}
    return by_name.get(name or saved.get("activation_fn"), Activation.sigmoid)


def save(reranker: Reranker, folder: Path, config: ModelConfig) -> None:
    """Write a plain CrossEncoder folder: safetensors weights, tokenizer, activation.

    The folder loads with `sentence_transformers.CrossEncoder(folder)`, `AutoModelForSequenceClassification` and `load`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model: Any = reranker.model
    with model_config.quiet():
        model.config.architectures = [type(model).__name__]
        model.save_pretrained(folder, safe_serialization=True)
        reranker.tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    saved = json.loads(path.read_text())
    saved["sentence_transformers"] = {
        "activation_fn": ACTIVATIONS[config.activation],
        "version": version("sentence-transformers"),
    }
    saved["id2label"], saved["label2id"] = {"0": "LABEL_0"}, {"LABEL_0": 0}
    path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
