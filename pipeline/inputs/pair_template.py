"""The special tokens around the two texts of a pair, and where the texts are truncated. Wraps the tokenizers library.

Knows nothing of token tables, models or stages.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from pipeline.core.errors import ModelError, must
from pipeline.core.fingerprint import fingerprint

Ints = npt.NDArray[np.integer]


def identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of everything that decides a text's tokens, without the truncation and padding state."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state.pop("truncation", None)
    state.pop("padding", None)
    return fingerprint(state)


def truncated(first: Ints, second: Ints, room: int) -> tuple[Ints, Ints]:
    """Return the lengths to which `longest_first` truncation cuts two texts so that together they fit `room` tokens.

    The rule is that of the tokenizers library: if the shorter text fits into half the room, only the longer text is
    cut; otherwise both are cut to half, and the longer text gets the odd token.
    """
    short, long = np.minimum(first, second), np.maximum(first, second)
    cut_long = np.where(short > room, short, np.maximum(short, room - short))
    cut_long = np.minimum(long, cut_long)
    both = short + cut_long > room
    kept_short = np.where(both, room // 2, short)
    kept_long = np.where(both, room // 2 + room % 2, cut_long)
    first_is_short = first <= second
    return np.where(first_is_short, kept_short, kept_long), np.where(first_is_short, kept_long, kept_short)


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """The special tokens around a pair: `prefix`, first text, `middle`, second text, `suffix`."""

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    types: tuple[int, ...]
    """Token types in order: one per special token and, at the two positions `texts`, one for all of a text's tokens."""
    pad_id: int
    pad_type: int
    pad_left: bool
    has_types: bool
    max_length: int

    @property
    def room(self) -> int:
        """Tokens left for the two texts."""
        return self.max_length - len(self.prefix) - len(self.middle) - len(self.suffix)

    @property
    def specials(self) -> tuple[int, ...]:
        """The special tokens in order."""
        return (*self.prefix, *self.middle, *self.suffix)

    @property
    def texts(self) -> tuple[int, int]:
        """Positions of the two texts, each text counted as one token."""
        return len(self.prefix), len(self.prefix) + 1 + len(self.middle)

    @classmethod
    def read(cls, tokenizer: PreTrainedTokenizerBase, max_length: int) -> PairTemplate:
        """Read the template from one tokenised pair; `collation.checked_template` checks it on other pairs.

        Raises:
            ModelError: when the tokenizer is not a fast one, has no padding token or does not compose pairs from
                independent texts.
        """
        if not tokenizer.is_fast:
            raise ModelError(must("the model's tokenizer", "be a fast one (tokenizer.json)", type(tokenizer).__name__,
                                  "Convert it with transformers' AutoTokenizer and save it again."))  # fmt: skip
        if tokenizer.pad_token_id is None:
            raise ModelError(must("the model's tokenizer", "have a padding token", None,
                                  "Set tokenizer.pad_token and save the folder again."))  # fmt: skip
        encode = plain(tokenizer.backend_tokenizer.to_str())
        one, two = (
            encode.encode("one", add_special_tokens=False).ids,
            encode.encode("two", add_special_tokens=False).ids,
        )
        has_types = "token_type_ids" in tokenizer.model_input_names
        pair = tokenizer("one", "two", return_token_type_ids=True)
        ids, token_types = list(pair["input_ids"]), list(pair["token_type_ids"])
        start = _find(ids, one, 0)
        second = _find(ids, two, start + len(one))
        end = second + len(two)
        if min(start, second) < 0:
            raise ModelError(must("the model's tokenizer", "compose a pair from two texts", type(tokenizer).__name__,
                                  "This tokenizer cannot be used with a cross-encoder."))  # fmt: skip
        between = start + len(one)
        types = [*token_types[: start + 1], *token_types[between : second + 1], *token_types[end:]]
        return cls(
            prefix=tuple(ids[:start]),
            middle=tuple(ids[between:second]),
            suffix=tuple(ids[end:]),
            # A model that is given no token types uses type 0.
            types=tuple(types) if has_types else (0,) * len(types),
            pad_id=int(tokenizer.pad_token_id),
            pad_type=int(tokenizer.pad_token_type_id),
            pad_left=tokenizer.padding_side == "left",
            has_types=has_types,
            max_length=max_length,
        )


def _find(ids: list[int], part: list[int], start: int) -> int:
    for position in range(start, len(ids) - len(part) + 1):
        if ids[position : position + len(part)] == part:
            return position
    return -1


def plain(state: str) -> Tokenizer:
    """Return a private copy of a tokenizer backend, given as JSON, that neither truncates nor pads."""
    backend = Tokenizer.from_str(state)
    backend.no_padding()
    backend.no_truncation()
    return backend
