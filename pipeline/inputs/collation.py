"""Batches of pairs composed from a table's texts, in three forms: padded, packed without padding, and in blocks.

A cross-encoder's pair is two independently tokenised texts with special tokens around them; `checked_template` checks
that a tokenizer composes pairs this way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from pipeline.core.errors import ModelError, must
from pipeline.inputs.batching import Blocks, rounded
from pipeline.inputs.encoding import spans
from pipeline.inputs.pair_template import Ints, PairTemplate, truncated
from pipeline.inputs.tokens import TokenTable

_PROVEN: set[tuple[object, ...]] = set()
"""Tokenizers, by class and full state, with the templates proven on them: a run builds a dozen scorers with one.

The state is the backend's, plus the settings kept outside the backend that every call passes to it. Computing a digest
(`identity`) would take longer than the proof.
"""


def checked_template(tokenizer: PreTrainedTokenizerBase, max_length: int) -> PairTemplate:
    """Return a tokenizer's template, checked once on pairs of which no text, one text or both texts are truncated.

    Raises:
        ModelError: when the tokenizer is a slow one, has no padding token or does not compose pairs from independent
            texts.
    """
    template = PairTemplate.read(tokenizer, max_length)
    beside = (tokenizer.truncation_side, tokenizer.split_special_tokens, *tokenizer.model_input_names)
    known = (type(tokenizer).__name__, tokenizer.backend_tokenizer.to_str(), beside, template)
    if known not in _PROVEN:
        _prove(template, tokenizer)
        _PROVEN.add(known)
    return template


def _prove(template: PairTemplate, tokenizer: PreTrainedTokenizerBase) -> None:
    words = "the quick brown fox jumps over a lazy dog "
    texts = ["a question?", words * 3, words * (template.max_length // 6 + 1), "é — 漢字 x"]
    table = TokenTable.build(texts, tokenizer, template.max_length)
    first, second = np.divmod(np.arange(len(texts) ** 2), len(texts))
    batch = pad(table, template, first, second)
    expected = tokenizer(
        [texts[i] for i in first], [texts[i] for i in second],
        truncation="longest_first", max_length=template.max_length, padding=True, return_tensors="pt",
    )  # fmt: skip
    tokenizer.backend_tokenizer.no_truncation()  # undo what the call set
    tokenizer.backend_tokenizer.no_padding()
    if not all(torch.equal(batch[name], expected[name]) for name in batch if name in expected):
        raise ModelError(must("the model's tokenizer", "encode a pair as its two texts between special tokens",
                              type(tokenizer).__name__, "Use a model with a BERT-like tokenizer."))  # fmt: skip


def pad(table: TokenTable, template: PairTemplate, first: Ints, second: Ints) -> dict[str, torch.Tensor]:
    """Return padded tensors of pairs of a table's texts, as the tokenizer would make them.

    Args:
        table: the texts' tokens.
        template: the special tokens around a pair.
        first: (pairs,) int, each pair's first text by its number in the table.
        second: (pairs,) int, each pair's second text.

    Returns:
        `input_ids`, `attention_mask` and, where the model takes them, `token_type_ids`: (pairs, longest) int64.
    """
    flat = _flat(table, template, first, second)
    width = int(flat.lengths.max(initial=0))
    column = flat.position + (np.repeat(width - flat.lengths, flat.lengths) if template.pad_left else 0)
    shape = (len(flat.lengths), width)
    ids, mask = np.full(shape, template.pad_id, np.int64), np.zeros(shape, np.int64)
    ids[flat.row, column] = flat.ids
    mask[flat.row, column] = 1
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if template.has_types:
        token_type_ids = np.full(shape, template.pad_type, np.int64)
        token_type_ids[flat.row, column] = flat.token_type_ids
        batch["token_type_ids"] = torch.from_numpy(token_type_ids)
    return batch


def pack(
    table: TokenTable, template: PairTemplate, first: Ints, second: Ints, device: torch.device | None = None
) -> dict[str, torch.Tensor]:
    """Return pairs without padding, one after another, as runs of tokens, each contiguous in `ids`.

    Args:
        table: the texts' tokens.
        template: the special tokens around a pair; each is a run of one token.
        first: (pairs,) int, each pair's first text by its number in the table.
        second: (pairs,) int, each pair's second text.
        device: where the batch will go; if the table keeps its ids there (`TokenTable.keep_on`), `ids` is that tensor.

    Returns:
        What `packed_rows.Rows` reads: `ids`; `widths` (runs,) int64, tokens of each run; `offsets` (runs,) int64,
        added to a token's place in the batch to give its place in `ids`; `token_types` (runs of a pair,) int64;
        `starts` (pairs + 1,) int32, the place where each pair starts, then the number of tokens; `extent`, an empty
        tensor of shape (0, all tokens, tokens of the longest pair).
    """
    widths, begins = _runs(table, template, first, second)
    lengths = widths.sum(axis=1)
    kept = None if device is None else table.kept_on(device, template)
    if kept is None:
        own = _ids(table, template, first, second, widths, begins)
        ids, offsets = torch.from_numpy(own), np.zeros_like(begins)
    else:
        ids, offsets = kept, _sources(table, template, first, second) - begins
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return {
        "ids": ids,
        "widths": torch.from_numpy(widths.ravel()),
        "offsets": torch.from_numpy(offsets.ravel()),
        "token_types": torch.tensor(template.types),
        "starts": torch.from_numpy(starts.astype(np.int32)),
        "extent": torch.empty(0, int(starts[-1]), int(lengths.max(initial=0))),
    }


def blocks(
    table: TokenTable, template: PairTemplate, first: Ints, second: Ints, width_step: int
) -> dict[str, torch.Tensor]:
    """Return pairs in blocks of similar length.

    Args:
        table: the texts' tokens.
        template: the special tokens around a pair.
        first: (pairs,) int, each pair's first text by its number in the table; pairs must be sorted by decreasing
            length, as in micro-batches.
        second: (pairs,) int, each pair's second text.
        width_step: block widths are multiples of this.

    Returns:
        `input_ids`, `token_type_ids`, `position_ids` (rows,) int64: pair after pair, each padded to its
        block's width, then padding up to a `rounded` number of rows;
        `lengths` (pairs,) int64: tokens of each pair, padding not counted;
        `shapes` (blocks, 2) int64: pairs and width of each block;
        `first_tokens` (queries,) int64: the row of each pair's first token, then 0 up to a `rounded` number.
    """
    flat = _flat(table, template, first, second)
    assert (np.diff(flat.lengths) <= 0).all()
    laid = Blocks.of(flat.lengths, width_step)
    ids, token_type_ids, position = (
        np.full(laid.rows, template.pad_id, np.int64),
        np.zeros(laid.rows, np.int64),
        np.zeros(laid.rows, np.int64),
    )
    place = laid.starts[flat.row] + flat.position
    ids[place], token_type_ids[place], position[place] = flat.ids, flat.token_type_ids, flat.position
    first_tokens = np.zeros(rounded(len(laid.starts), 16), np.int64)
    first_tokens[: len(laid.starts)] = laid.starts
    return {
        "input_ids": torch.from_numpy(ids),
        "token_type_ids": torch.from_numpy(token_type_ids),
        "position_ids": torch.from_numpy(position),
        "lengths": torch.from_numpy(flat.lengths),
        "shapes": torch.tensor(laid.shapes),
        "first_tokens": torch.from_numpy(first_tokens),
    }


@dataclass(frozen=True, slots=True)
class _Flat:
    ids: npt.NDArray[np.int64]
    token_type_ids: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


def _sources(table: TokenTable, template: PairTemplate, first: Ints, second: Ints) -> Ints:
    """Return the place of each run's first token among the ids that `keep_on` keeps, (pairs, runs of a pair)."""
    sources = np.empty((len(first), len(template.types)), np.int64)
    one, two = template.texts
    special = np.delete(np.arange(len(template.types)), template.texts)
    sources[:, one], sources[:, two] = table.starts[first], table.starts[second]
    sources[:, special] = len(table.ids) + np.arange(len(special))
    return sources


def _runs(table: TokenTable, template: PairTemplate, first: Ints, second: Ints) -> tuple[Ints, Ints]:
    """Return the widths of each pair's runs and where they begin in the batch, (pairs, runs of a pair) each."""
    a, b = truncated(table.lengths[first], table.lengths[second], template.room)
    widths = np.ones((len(a), len(template.types)), np.int64)
    one, two = template.texts
    widths[:, one], widths[:, two] = a, b
    return widths, (np.cumsum(widths) - widths.ravel()).reshape(widths.shape)


def _ids(
    table: TokenTable, template: PairTemplate, first: Ints, second: Ints, widths: Ints, begins: Ints
) -> npt.NDArray[np.int64]:
    """Return all tokens of the batch, pair after pair, as runs that are `widths` long and begin at `begins`."""
    ids = np.empty(int(widths.sum()), np.int64)
    for part, texts in zip(template.texts, (first, second), strict=True):
        kept = widths[:, part]
        ids[spans(begins[:, part], kept)] = table.ids[spans(table.starts[texts], kept)]
    ids[np.delete(begins, template.texts, axis=1)] = template.specials
    return ids


def _flat(table: TokenTable, template: PairTemplate, first: Ints, second: Ints) -> _Flat:
    """Return every token of every pair in order, with its pair (`row`) and its position in the pair."""
    widths, begins = _runs(table, template, first, second)
    ids = _ids(table, template, first, second, widths, begins)
    lengths = widths.sum(axis=1)
    row = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(row)) - np.repeat(begins[:, 0], lengths)
    token_type_ids = np.repeat(np.tile(np.asarray(template.types, np.int64), len(lengths)), widths.ravel())
    return _Flat(ids, token_type_ids, row, position, lengths)
