"""Tell saved cross-encoders from bi-encoders, and refuse one where the other is needed.

Reads only configuration and tokenizer files; knows nothing of weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from pipeline.core.errors import ModelError, first_line, must
from pipeline.engine import model_config


def is_cross_encoder(hf: Any) -> bool:
    """Return whether a saved model with this configuration has a head that scores."""
    names = getattr(hf, "architectures", None) or []
    return any(name.endswith("ForSequenceClassification") for name in names)


def must_be_cross_encoder(folder: Path, key: str) -> None:
    """Refuse a folder that is not a saved cross-encoder with one label and no default prompt.

    Raises:
        ModelError: naming the configuration key `key`.
    """
    saved, _ = model_config.read(folder, key)
    if not is_cross_encoder(saved) or saved.num_labels != 1:
        got = f"{folder} with {saved.num_labels} labels" if is_cross_encoder(saved) else f"{folder}, a base model"
        raise ModelError(must(key, "name trained cross-encoders with one label", got, "Name another, or leave it out."))
    check_prompt(folder, key)


def check_prompt(folder: Path, key: str) -> None:
    """Refuse a cross-encoder with a default prompt, which goes before each text: here pairs are scored without prompts.

    sentence-transformers applies the prompt in a folder that it saved as a cross-encoder, with modules.json.

    Raises:
        ModelError: naming the configuration key `key`, also when the file that may hold the prompt cannot be read.
    """
    path = folder / "config_sentence_transformers.json"
    if not path.is_file() or not (folder / "modules.json").is_file():
        return
    try:
        own = json.loads(path.read_text(encoding="utf-8"))
        name = own.get("default_prompt_name")
        prompt = None if name is None else own.get("prompts", {}).get(name)
    except (ValueError, AttributeError, TypeError) as error:
        raise ModelError(must(key, f"hold a {path.name} that can be read", f"{folder} ({first_line(error)})",
                              "Save the model again with save_pretrained.")) from None  # fmt: skip
    if prompt and own.get("model_type") == "CrossEncoder":
        raise ModelError(must(key, "name cross-encoders without a default prompt", f"{prompt!r} in {folder}",
                              f"Set default_prompt_name to null in its {path.name} to use it without."))  # fmt: skip


def must_be_bi_encoder(folder: Path, key: str) -> None:
    """Refuse a saved cross-encoder, whose encoder sentence-transformers would use to embed single texts.

    A folder whose modules.json names a pooling module is a bi-encoder, whatever its config.json was copied from.

    Raises:
        ModelError: naming the configuration key `key`.
    """
    try:
        with model_config.quiet():
            hf = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception:  # no model, or not one of transformers' (static embeddings): its loader says what is wrong
        return
    modules = folder / "modules.json"
    pools = modules.is_file() and "Pooling" in modules.read_text(encoding="utf-8", errors="replace")
    if is_cross_encoder(hf) and not pools:
        raise ModelError(must(key, "name a bi-encoder, which embeds single texts", f"a cross-encoder in {folder}",
                              "Name a sentence-transformers embedding model, or pass mining=bm25."))  # fmt: skip
