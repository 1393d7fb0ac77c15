"""Texts tokenised once, pairs composed from them. Knows nothing of models or stages.

A cross-encoder's pair is special tokens around two independently tokenised texts, so each distinct text is tokenised
once (a question has many rows) and a pair costs two slices. `proven` proves that on the tokenizer at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from pipeline.core.errors import ModelError, must
from pipeline.engine.batching import Blocks, rounded
from pipeline.engine.encoding import before, encoder_of, spans
from pipeline.engine.pair_template import Ints, PairTemplate, truncated

KEPT_SHARE = 1 / 64
"""Of a GPU's memory, for the tokens of a table: 96 million on one of 24 GiB, where 100,000 of GooAQ's pairs have 7."""

CHUNK = 4096
"""Texts tokenised at once: enough for the library's threads, little enough to keep memory flat."""

_PROVEN: set[tuple[object, ...]] = set()
"""Tokenizers, by class and whole state, and the templates proven on them: a run builds a dozen scorers on one.

The state is the backend's, and what is kept beside it and given to it at every call. A digest (`identity`) takes longer
to make than the proof.
"""


def proven(tokenizer: PreTrainedTokenizerBase, max_length: int) -> PairTemplate:
    """A tokenizer's template, checked once on pairs that need no cut, one cut and two cuts.

    Raises:
        ModelError: when the tokenizer has no padding token or does not compose pairs from independent texts.
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
    batch = table.collate(template, first, second)
    expected = tokenizer(
        [texts[i] for i in first], [texts[i] for i in second],
        truncation="longest_first", max_length=template.max_length, padding=True, return_tensors="pt",
    )  # fmt: skip
    tokenizer.backend_tokenizer.no_truncation()  # as it was
    tokenizer.backend_tokenizer.no_padding()
    if not all(torch.equal(batch[name], expected[name]) for name in batch if name in expected):
        raise ModelError(must("the model's tokenizer", "encode a pair as its two texts between special tokens",
                              type(tokenizer).__name__, "Use a model with a BERT-like tokenizer."))  # fmt: skip


class TokenTable:
    """Token ids of many texts in one flat array.

    `ids` (kept tokens,) uint16 or int32; `starts` (texts,) int64 into it; `lengths` (texts,) int64 in tokens without
    special ones, before the cut to `max_length` kept ones: truncation of a pair compares the true lengths.
    """

    def __init__(self, ids: Ints, starts: Ints, lengths: Ints) -> None:
        self.ids = ids
        self.starts = starts
        self.lengths = lengths
        self._kept: dict[tuple[torch.device, tuple[int, ...]], torch.Tensor] = {}
        """All ids on a device with special tokens behind them, see `keep_on`."""

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def build(cls, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenTable:
        """Tokenise in memory, each text cut to `max_length` tokens (more can never be used)."""
        pieces = list(_encode(texts, tokenizer, max_length))
        lengths = np.concatenate([piece[1] for piece in pieces]) if pieces else np.zeros(0, np.int64)
        ids = np.concatenate([piece[0] for piece in pieces]) if pieces else np.zeros(0, np.int32)
        return cls(ids, _starts(lengths, max_length), lengths)

    @staticmethod
    def write(
        texts: Iterable[Sequence[str]], tokenizer: PreTrainedTokenizerBase, max_length: int, folder: Path
    ) -> None:
        """Tokenise chunks of texts into files of `folder`, holding one chunk in memory."""
        dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.int32)
        counts: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
        with (folder / f"ids.{dtype.name}").open("wb") as stream:
            for chunk in texts:
                for ids, lengths in _encode(chunk, tokenizer, max_length):
                    stream.write(ids.astype(dtype).tobytes())
                    counts.append(lengths)
        lengths = np.concatenate(counts)
        np.save(folder / "lengths.npy", lengths)
        np.save(folder / "starts.npy", _starts(lengths, max_length))

    @classmethod
    def open(cls, folder: Path) -> TokenTable:
        """Map a written table; its pages are the page cache's, not this process's."""
        (path,) = folder.glob("ids.*")
        dtype = np.dtype(path.suffix[1:])
        ids = np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)
        return cls(ids, np.load(folder / "starts.npy", mmap_mode="r"), np.load(folder / "lengths.npy", mmap_mode="r"))

    def extended(self, other: TokenTable) -> TokenTable:
        """This table's texts, then the other's."""
        return TokenTable(
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.starts, other.starts + len(self.ids)]),
            np.concatenate([self.lengths, other.lengths]),
        )

    def pair_lengths(self, template: PairTemplate, first: Ints, second: Ints) -> npt.NDArray[np.int64]:
        """Tokens of each pair after truncation, special tokens included; shape (pairs,)."""
        a, b = truncated(self.lengths[first], self.lengths[second], template.room)
        return np.asarray(a + b + (template.max_length - template.room), dtype=np.int64)

    def cut_share(self, template: PairTemplate, first: Ints, second: Ints) -> float:
        """Share of pairs with more tokens than `template.max_length`: their ends are never seen."""
        cut = 0
        for start in range(0, len(first), CHUNK):
            part = slice(start, start + CHUNK)
            cut += int((self.lengths[first[part]] + self.lengths[second[part]] > template.room).sum())
        return cut / max(1, len(first))

    def collate(self, template: PairTemplate, first: Ints, second: Ints) -> dict[str, torch.Tensor]:
        """Padded tensors of pairs of texts, as the tokenizer would make them.

        Returns:
            `input_ids`, `attention_mask` and, where the model takes them, `token_type_ids`: (pairs, longest) int64.
        """
        flat = self._flat(template, first, second)
        width = int(flat.lengths.max(initial=0))
        column = flat.position + (np.repeat(width - flat.lengths, flat.lengths) if template.pad_left else 0)
        shape = (len(flat.lengths), width)
        ids, mask = np.full(shape, template.pad_id, np.int64), np.zeros(shape, np.int64)
        ids[flat.row, column] = flat.ids
        mask[flat.row, column] = 1
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if template.has_types:
            kinds = np.full(shape, template.pad_type, np.int64)
            kinds[flat.row, column] = flat.kinds
            batch["token_type_ids"] = torch.from_numpy(kinds)
        return batch

    def pack(
        self, template: PairTemplate, first: Ints, second: Ints, device: torch.device | None = None
    ) -> dict[str, torch.Tensor]:
        """The same pairs without padding, one after another, as runs of tokens that lie side by side in `ids`.

        Args:
            template: the special tokens around a pair: each is a run of one.
            first: (pairs,) texts.
            second: (pairs,) texts.
            device: where the batch goes. Where all ids are kept there (`keep_on`) they are given, else the pairs' own.

        Returns:
            What `packed_rows.Rows` reads: `ids`; `widths` (runs,) int64, tokens of each run; `offsets` (runs,) int64,
            what is added to a token's place in the batch for its place in `ids`; `kinds` (runs of a pair,) int64, their
            types; `starts` (pairs + 1,) int32, the place each pair starts at; `extent`, empty: its shape is 0, all
            tokens, those of the longest pair.
        """
        widths, begins = self._runs(template, first, second)
        lengths = widths.sum(axis=1)
        kept = None if device is None else self._kept.get((device, template.specials))
        if kept is None:
            own = self._ids(template, first, second, widths, begins)
            ids, offsets = torch.from_numpy(own), np.zeros_like(begins)
        else:
            ids, offsets = kept, self._sources(template, first, second) - begins
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return {
            "ids": ids,
            "widths": torch.from_numpy(widths.ravel()),
            "offsets": torch.from_numpy(offsets.ravel()),
            "kinds": torch.tensor(template.types),
            "starts": torch.from_numpy(starts.astype(np.int32)),
            "extent": torch.empty(0, int(starts[-1]), int(lengths.max(initial=0))),
        }

    def keep_on(self, device: torch.device, template: PairTemplate) -> None:
        """Keep all ids and, behind them, the template's special tokens in a GPU's memory, if they fit."""
        room = torch.cuda.get_device_properties(device).total_memory * KEPT_SHARE
        if (device, template.specials) not in self._kept and 4 * len(self.ids) <= room:
            ids = np.concatenate([self.ids, np.asarray(template.specials, np.int32)], dtype=np.int32)
            self._kept[device, template.specials] = torch.from_numpy(ids).to(device)

    def _sources(self, template: PairTemplate, first: Ints, second: Ints) -> Ints:
        """Where each run's first token lies among the ids that `keep_on` keeps, (pairs, runs of a pair)."""
        found = np.empty((len(first), len(template.types)), np.int64)
        one, two = template.texts
        special = np.delete(np.arange(len(template.types)), template.texts)
        found[:, one], found[:, two] = self.starts[first], self.starts[second]
        found[:, special] = len(self.ids) + np.arange(len(special))
        return found

    def _runs(self, template: PairTemplate, first: Ints, second: Ints) -> tuple[Ints, Ints]:
        """Tokens of each pair's special tokens and texts, and where in the batch they begin: (pairs, runs) each."""
        a, b = truncated(self.lengths[first], self.lengths[second], template.room)
        widths = np.ones((len(a), len(template.types)), np.int64)
        one, two = template.texts
        widths[:, one], widths[:, two] = a, b
        return widths, (np.cumsum(widths) - widths.ravel()).reshape(widths.shape)

    def blocks(self, template: PairTemplate, first: Ints, second: Ints, width_step: int) -> dict[str, torch.Tensor]:
        """The same pairs in blocks of like length; they must come in order of falling length, as micro-batches do.

        A block's width is a multiple of `width_step`.

        Returns:
            `input_ids`, `token_type_ids`, `position_ids` (rows,) int64: pair after pair, each as wide as its
            block, then padding up to a number of rows that repeats;
            `lengths` (pairs,) int64: of each pair its own tokens;
            `shapes` (blocks, 2) int64: pairs and width of each block;
            `firsts` (queries,) int64: the row of each pair's first token, then 0 up to a number that repeats.
        """
        flat = self._flat(template, first, second)
        assert (np.diff(flat.lengths) <= 0).all()
        laid = Blocks.of(flat.lengths, width_step)
        ids, kinds, position = (
            np.full(laid.rows, template.pad_id, np.int64),
            np.zeros(laid.rows, np.int64),
            np.zeros(laid.rows, np.int64),
        )
        place = laid.starts[flat.row] + flat.position
        ids[place], kinds[place], position[place] = flat.ids, flat.kinds, flat.position
        firsts = np.zeros(rounded(len(laid.starts), 16), np.int64)
        firsts[: len(laid.starts)] = laid.starts
        return {
            "input_ids": torch.from_numpy(ids),
            "token_type_ids": torch.from_numpy(kinds),
            "position_ids": torch.from_numpy(position),
            "lengths": torch.from_numpy(flat.lengths),
            "shapes": torch.tensor(laid.shapes),
            "firsts": torch.from_numpy(firsts),
        }

    def _ids(
        self, template: PairTemplate, first: Ints, second: Ints, widths: Ints, begins: Ints
    ) -> npt.NDArray[np.int64]:
        """The token of every place of the batch whose runs are so wide and begin there."""
        ids = np.empty(int(widths.sum()), np.int64)
        for part, texts in zip(template.texts, (first, second), strict=True):
            kept = widths[:, part]
            ids[spans(begins[:, part], kept)] = self.ids[spans(self.starts[texts], kept)]
        ids[np.delete(begins, template.texts, axis=1)] = template.specials
        return ids

    def _flat(self, template: PairTemplate, first: Ints, second: Ints) -> _Flat:
        """Every token of every pair in order, each with its row and position in the pair."""
        widths, begins = self._runs(template, first, second)
        ids = self._ids(template, first, second, widths, begins)
        lengths = widths.sum(axis=1)
        row = np.repeat(np.arange(len(lengths)), lengths)
        position = np.arange(len(row)) - np.repeat(begins[:, 0], lengths)
        kinds = np.repeat(np.tile(np.asarray(template.types, np.int64), len(lengths)), widths.ravel())
        return _Flat(ids, kinds, row, position, lengths)


@dataclass(frozen=True, slots=True)
class _Flat:
    ids: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


def _starts(lengths: Ints, max_length: int) -> npt.NDArray[np.int64]:
    return before(np.minimum(lengths, max_length))


def _encode(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]]:
    """Chunks of (flat ids, each text cut to `max_length`; true lengths)."""
    encode = encoder_of(tokenizer)
    for start in range(0, len(texts), CHUNK):
        ids, lengths = encode(texts[start : start + CHUNK])
        if lengths.max(initial=0) > max_length:
            ids = ids[spans(before(lengths), np.minimum(lengths, max_length))]
        yield ids, lengths
