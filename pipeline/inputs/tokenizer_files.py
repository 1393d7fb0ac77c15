"""Check that a model's folder holds the files of the tokenizer that transformers loaded from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from pipeline.core.errors import ModelError, must


def check(tokenizer: PreTrainedTokenizerBase, folders: Sequence[Path], key: str) -> None:
    """Refuse a tokenizer that transformers built without any of its files, and that therefore knows no words.

    A tokenizer whose class needs no files, such as ByT5's, is accepted.

    Args:
        tokenizer: as transformers loaded it.
        folders: where the tokenizer's files may lie; the message names the first folder.
        key: the configuration key that named the folder.

    Raises:
        ModelError: when none of the tokenizer's files exists.
    """
    names = list(tokenizer.vocab_files_names.values())
    if names and not any((folder / name).is_file() for name in names for folder in folders):
        raise ModelError(must(key, f"hold its tokenizer, such as {names[0]}", f"{folders[0]} without one",
                              "Save the model's tokenizer there too, with save_pretrained."))  # fmt: skip
