"""Whether a model's folder holds the tokenizer that transformers gave for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from pipeline.core.errors import ModelError, must


def check(tokenizer: PreTrainedTokenizerBase, folders: Sequence[Path], key: str) -> None:
    """Refuse a tokenizer that transformers made of nothing, which knows no word.

    Args:
        tokenizer: as it was loaded.
        folders: where its files may lie; the first one is named.
        key: the configuration's, which named the folder.

    Raises:
        ModelError: when none of the tokenizer's files is there. One of bytes has none.
    """
    names = list(tokenizer.vocab_files_names.values())
    if names and not any((folder / name).is_file() for name in names for folder in folders):
        raise ModelError(must(key, f"hold its tokenizer, such as {names[0]}", f"{folders[0]} without one",
                              "Save the model's tokenizer there too, with save_pretrained."))  # fmt: skip
