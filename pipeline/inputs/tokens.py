"""The tokens of texts in one flat array, in memory or mapped from files. Knows nothing of models or stages.

Each distinct text is tokenised once (a question has many rows); `collation` composes a pair from two slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from pipeline.core.errors import out_of_gpu_memory
from pipeline.core.progress import bar
from pipeline.inputs.encoding import before, encoder_of, spans
from pipeline.inputs.pair_template import Ints, PairTemplate, truncated

KEPT_SHARE = 1 / 64
"""Share of a GPU's memory for a table's tokens: 100 million tokens on 24 GiB; 100,000 GooAQ pairs have 7 million."""

NOTABLE_UNKNOWN = 0.05
"""Share of unknown tokens in the training texts from which the log and the model card mention it."""

CHUNK = 4096
"""Texts tokenised at once: enough for the library's threads, few enough to keep memory flat."""


class TokenTable:
    """Token ids of many texts in one flat array.

    `ids`: (kept tokens,) uint16 or int32, at most `max_length` tokens of each text, without special tokens.
    `starts`: (texts,) int64, where in `ids` each text begins.
    `lengths`: (texts,) int64, each text's tokens before the cut to `max_length`: truncation compares true lengths.
    """

    def __init__(self, ids: Ints, starts: Ints, lengths: Ints) -> None:
        self.ids = ids
        self.starts = starts
        self.lengths = lengths
        self._kept: dict[tuple[torch.device, tuple[int, ...]], torch.Tensor] = {}
        """(device, special tokens) → all ids followed by these special tokens, on that device; see `keep_on`."""

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def build(cls, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenTable:
        """Tokenise texts in memory, each cut to `max_length` tokens (more can never be used)."""
        pieces = list(_encode(texts, tokenizer, max_length))
        lengths = np.concatenate([piece[1] for piece in pieces]) if pieces else np.zeros(0, np.int64)
        ids = np.concatenate([piece[0] for piece in pieces]) if pieces else np.zeros(0, np.int32)
        return cls(ids, _starts(lengths, max_length), lengths)

    @staticmethod
    def write(
        texts: Iterable[Sequence[str]],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        folder: Path,
        total: int | None = None,
    ) -> None:
        """Tokenise chunks of texts into files of `folder`, one chunk in memory; `total` is for the progress bar."""
        dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.int32)
        counts: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
        with (folder / f"ids.{dtype.name}").open("wb") as stream, bar("tokenising texts", total) as moving:
            for chunk in texts:
                for ids, lengths in _encode(chunk, tokenizer, max_length):
                    stream.write(ids.astype(dtype).tobytes())
                    counts.append(lengths)
                    moving.advance(len(lengths))
        lengths = np.concatenate(counts)
        np.save(folder / "lengths.npy", lengths)
        np.save(folder / "starts.npy", _starts(lengths, max_length))

    @classmethod
    def open(cls, folder: Path) -> TokenTable:
        """Map a table that `write` made: its pages belong to the page cache, not to this process's memory."""
        (path,) = folder.glob("ids.*")
        dtype = np.dtype(path.suffix[1:])
        ids = np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)
        return cls(ids, np.load(folder / "starts.npy", mmap_mode="r"), np.load(folder / "lengths.npy", mmap_mode="r"))

    def extended(self, other: TokenTable) -> TokenTable:
        """Return a table of this table's texts, then the other's."""
        return TokenTable(
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.starts, other.starts + len(self.ids)]),
            np.concatenate([self.lengths, other.lengths]),
        )

    def pair_lengths(self, template: PairTemplate, first: Ints, second: Ints) -> npt.NDArray[np.int64]:
        """Return the tokens of each pair after truncation, special tokens included; shape (pairs,)."""
        a, b = truncated(self.lengths[first], self.lengths[second], template.room)
        return np.asarray(a + b + (template.max_length - template.room), dtype=np.int64)

    def cut_share(self, template: PairTemplate, first: Ints, second: Ints) -> float:
        """Return the share of pairs with more tokens than `template.max_length`: the model never sees their ends."""
        cut = 0
        for start in range(0, len(first), CHUNK):
            part = slice(start, start + CHUNK)
            cut += int((self.lengths[first[part]] + self.lengths[second[part]] > template.room).sum())
        return cut / max(1, len(first))

    def share_of(self, token: int | None) -> float:
        """Return the share of `token` among all kept tokens; 0 for None."""
        if token is None:
            return 0.0
        parts = (self.ids[start : start + 2**20] for start in range(0, len(self.ids), 2**20))
        return sum(int(np.count_nonzero(part == token)) for part in parts) / max(1, len(self.ids))

    def kept_on(self, device: torch.device, template: PairTemplate) -> torch.Tensor | None:
        """Return all ids, then the template's special tokens, if `keep_on` put them on the device; else None."""
        return self._kept.get((device, template.specials))

    def keep_on(self, device: torch.device, template: PairTemplate) -> None:
        """Keep all ids, then the template's special tokens, in a GPU's memory if they fit."""
        room = torch.cuda.get_device_properties(device).total_memory * KEPT_SHARE
        if (device, template.specials) not in self._kept and 4 * len(self.ids) <= room:
            ids = np.concatenate([self.ids, np.asarray(template.specials, np.int32)], dtype=np.int32)
            try:
                self._kept[device, template.specials] = torch.from_numpy(ids).to(device)
            except RuntimeError as error:  # another process uses the memory: batches carry their own tokens
                if not out_of_gpu_memory(error):
                    raise


def _starts(lengths: Ints, max_length: int) -> npt.NDArray[np.int64]:
    return before(np.minimum(lengths, max_length))


def _encode(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]]:
    """Yield chunks of (flat ids, each text cut to `max_length`; true lengths)."""
    encode = encoder_of(tokenizer)
    for start in range(0, len(texts), CHUNK):
        ids, lengths = encode(texts[start : start + CHUNK])
        if lengths.max(initial=0) > max_length:
            ids = ids[spans(before(lengths), np.minimum(lengths, max_length))]
        yield ids, lengths
