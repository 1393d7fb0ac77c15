"""Embeddings by a sentence-transformers model, cached on disk.

Knows nothing of labels, negatives or the hub: the model is a local folder.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from pipeline.core import artifacts, atomic
from pipeline.core.allocation import reuse_memory
from pipeline.core.errors import ModelError, NumericsError, changed, must, named, out_of_gpu_memory, raise_shortage
from pipeline.core.fingerprint import file_digest, file_state, fingerprint, text_digest
from pipeline.core.progress import bar
from pipeline.engine import missing_weights
from pipeline.inputs import tokenizer_files
from pipeline.mining.topk import Positions
from pipeline.networks import block_scoring

log = logging.getLogger(__name__)

CHUNK = 16_384
"""Texts embedded between two writes; also pairs scored at once."""

VECTORS = "vectors.npy"

VERSION = 3
"""Version of the way embeddings are computed: embeddings cached by an earlier version are computed again."""

STATIC_BATCH = 4_096
"""Texts per forward pass of a static model, which only looks words up."""

DENSE_BATCH = {"cpu": 16, "cuda": 64}
"""Texts per forward pass of a dense model, by device: 16 stay in a CPU's cache (a sixth faster than 64 there)."""

ENGINE_BATCH = 32
"""Texts per forward pass where the engine removes padding: 9 % faster than 16 in bf16 and 4 % in fp32. 128 gain another
8 % and 4 %, for four times the memory."""


class Vectors:
    """Rows of a float32 `.npy` file, read through a memory map whose pages are released after each read."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            np.lib.format.read_magic(stream)
            self.shape, _, _ = np.lib.format.read_array_header_1_0(stream)
            start = stream.tell()
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._rows = np.frombuffer(self._map, np.float32, offset=start).reshape(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: slice | Positions) -> npt.NDArray[np.float32]:
        """Return a copy of the given rows."""
        copy = self._rows[rows].copy() if isinstance(rows, slice) else self._rows.take(rows, axis=0)
        self._map.madvise(mmap.MADV_DONTNEED)
        return copy


class Embedder:
    """Normalised embeddings by a sentence-transformers model in a local folder, cached on disk in `cache`.

    A cache entry is named by a fingerprint of the model folder's content (weights, tokenizer, configuration), the
    prompt, the side, the precision and the texts. An entry is complete or absent, and is verified before use. The model
    is loaded only when an entry is missing.
    """

    def __init__(
        self, folder: Path, cache: Path, *, query_prompt: str = "", passage_prompt: str = "", device: str = "cpu",
        bf16: bool = False,
    ) -> None:  # fmt: skip
        """Fingerprint the model's folder, without loading the model.

        Args:
            folder: a sentence-transformers model.
            cache: the folder of cached embeddings.
            query_prompt: text put before each query; if empty, the model's own prompt.
            passage_prompt: text put before each passage; if empty, the model's own prompt.
            device: "cpu" or "cuda".
            bf16: run the model under bf16 autocast; the embeddings are float32 either way.
        """
        self._folder, self._cache, self._device, self._bf16 = folder, cache, device, bf16
        self._prompts = {"query": query_prompt, "passage": passage_prompt}
        self._model: tuple[Any, int] | None = None
        self._verified: dict[Path, Vectors] = {}
        self._before = self._states()
        self._identity = folder_digest(folder)

    def vectors(self, texts: Sequence[str], side: str) -> Vectors:
        """Return the embeddings (texts, dimension) of texts as "query" or "passage" `side`: float32, of unit length.

        Raises:
            ModelError: when the folder is no sentence-transformers model, or lacks some of its weights.
            DataError: when the folder has changed since its fingerprint was taken.
            NumericsError: when an embedding is not finite.
        """
        identity = {
            "version": VERSION,
            "model": self._identity,
            "side": side,
            "prompt": self._prompts[side],
            "dtype": "bfloat16 autocast" if self._bf16 else "float32",
            "texts": text_digest(texts),
            "count": len(texts),
        }
        folder = self._cache / f"{side}-{fingerprint(identity)}"
        if folder in self._verified:
            return self._verified[folder]
        with atomic.locked(folder):
            wrong = artifacts.problems(folder)
            if wrong:
                if folder.exists():
                    log.warning("embedding again: %s", wrong[0])
                with artifacts.publish(folder, {"identity": identity}) as work:
                    self._write(texts, side, work / VECTORS)
            self._verified[folder] = Vectors(folder / VECTORS)
        return self._verified[folder]

    def release(self) -> None:
        """Free the model's memory for another model; the next texts without cached embeddings load the model again."""
        self._model = None

    def _write(self, texts: Sequence[str], side: str, path: Path) -> None:
        model, _ = self._loaded()
        # If the configured prompt is empty, these methods apply the model's own prompt, or none.
        encode = model.encode_query if side == "query" else model.encode_document
        header = {"descr": "<f4", "fortran_order": False}
        autocast = torch.autocast(self._device, torch.bfloat16, enabled=self._bf16)
        with path.open("wb") as stream, bar(f"embedding {side} texts", len(texts)) as moving, autocast:
            shape = (len(texts), int(model.get_embedding_dimension()))
            np.lib.format.write_array_header_1_0(stream, {**header, "shape": shape})
            # Progress advances by batch: a large model takes minutes for a chunk.
            counting = model[-1].register_forward_hook(lambda *call: moving.advance(_rows(call[-1])))
            for start in range(0, len(texts), CHUNK):
                chunk = list(texts[start : start + CHUNK])
                vectors = np.ascontiguousarray(self._within_memory(encode, chunk, side), dtype=np.float32)
                if not np.isfinite(vectors).all():
                    remedy = "Use another model: mining.path=<folder or hub id>."
                    raise NumericsError(must(str(self._folder), "give finite embeddings", "NaN or inf", remedy))
                stream.write(vectors.tobytes())
                moving.advance(start + len(chunk) - moving.done)  # a chunk retried in smaller batches counted twice
            counting.remove()

    def _within_memory(self, encode: Callable[..., Any], texts: list[str], side: str) -> Any:
        """Embed texts, halving the batch size each time a GPU's memory runs out, down to a single text."""
        while True:
            model, size = self._loaded()
            try:
                return encode(
                    texts,
                    prompt=self._prompts[side] or None,
                    batch_size=size,
                    normalize_embeddings=True,
                    show_progress_bar=False,
                )
            except (AttributeError, IndexError, TypeError, ValueError) as error:  # no pad token, unknown token ids …
                rule = "be a model that embeds texts"
                raise ModelError(
                    must(str(self._folder), rule, named(error), "Pass another model: mining.path=<folder or hub id>.")
                ) from error
            except RuntimeError as error:
                if size == 1 or not out_of_gpu_memory(error):
                    raise
            torch.cuda.empty_cache()
            self._model = model, size // 2
            log.warning("out of GPU memory: embedding continues with %d texts per batch", size // 2)

    def _loaded(self) -> tuple[Any, int]:
        """Return the model and its texts per forward pass; load the model if needed."""
        if self._model is None:
            # Imported here because the import takes seconds, and BM25 does not need it.
            from sentence_transformers import SentenceTransformer

            try:
                with missing_weights.reported() as (missing, unused):
                    model = SentenceTransformer(str(self._folder), device=self._device, local_files_only=True)
            except Exception as error:
                raise_shortage(error)
                rule = "be a folder sentence-transformers can load"
                remedy = "Pass another model: mining.path=<folder or hub id>."
                raise ModelError(must(str(self._folder), rule, named(error), remedy)) from error
            if lacked := [name for name in missing if not missing_weights.pools(name) or _asks_its_pooler(model)]:
                raise missing_weights.incomplete(str(self._folder), self._folder, lacked, unused)
            if isinstance(model.tokenizer, PreTrainedTokenizerBase):
                modules = sorted(self._folder.glob("[0-9]*_*/"))  # each may have its own tokenizer files
                tokenizer_files.check(model.tokenizer, [self._folder, *modules], "mining.path")
            if type(model[0]).__name__ == "StaticEmbedding":
                size = STATIC_BATCH
            else:
                size = ENGINE_BATCH if self._uses_engine(model) else DENSE_BATCH[self._device]
            # Hash again only if a file's state changed: a large model is loaded again for every set.
            if self._states() != self._before and folder_digest(self._folder) != self._identity:
                raise changed(str(self._folder))
            self._model = model, size
        return self._model

    def _states(self) -> dict[Path, list[int]]:
        return {path: file_state(path) for path in deciding_files(self._folder)}

    def _uses_engine(self, model: Any) -> bool:
        """Let `block_scoring` compute the model if it is a BERT on a CPU, and return whether it does.

        Tokenisation, prompts, pooling and later modules stay the library's.
        """
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        # A module between these two might read the outputs at padding, which are zeros here.
        if len(model) < 2 or type(model[0]) is not Transformer or type(model[1]) is not Pooling:
            return False
        bert: Any = model[0].model
        ways = [(way["method"], way["method_output_name"]) for way in model[0].modality_config.values()]
        if any(way != ("forward", "last_hidden_state") for way in ways) or not block_scoring.encodes(bert):
            return False
        reuse_memory()
        bert.forward = block_scoring.FrozenEncoder(bert, torch.bfloat16 if self._bf16 else torch.float32)
        bert.encoder = bert.pooler = None  # their matrices are packed already, or unused
        return True


def _asks_its_pooler(model: Any) -> bool:
    ways = getattr(model[0], "modality_config", {}).values()
    return any(way["method_output_name"] == "pooler_output" for way in ways)


def _rows(output: Any) -> int:
    """Return the number of texts in a batch, from the output of a model's last module."""
    return len(output.get("sentence_embedding", ())) if isinstance(output, Mapping) else 0


def folder_digest(folder: Path) -> str:
    """Return the sha256 over the names and contents of the `deciding_files`.

    Raises:
        ModelError: when the folder has none.
    """
    if not (files := deciding_files(folder)):
        remedy = "Pass a model folder: mining.path=<folder>."
        raise ModelError(must(str(folder), "be a folder with a model", "nothing there", remedy))
    return text_digest(part for path in files for part in (path.relative_to(folder).as_posix(), file_digest(path)))


def deciding_files(folder: Path) -> list[Path]:
    """Return every file that can change an embedding: all but hidden files and Markdown."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix != ".md"
        and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )
