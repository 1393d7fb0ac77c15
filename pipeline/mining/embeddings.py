"""Embeddings by sentence-transformers, kept on disk.

Knows nothing of labels or negatives, nor of the hub: it is given a local folder.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable, Sequence
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
from pipeline.engine import block_scoring, missing_weights, tokenizer_files
from pipeline.mining.topk import Positions

log = logging.getLogger(__name__)

CHUNK = 16_384
"""Texts embedded between two writes, and pairs scored at once."""

VECTORS = "vectors.npy"

VERSION = 3
"""Of how embeddings are computed: those of an earlier one are made again."""

STATIC_BATCH = 4_096
"""Texts a forward pass of a static model, which only looks words up."""

DENSE_BATCH = {"cpu": 16, "cuda": 64}
"""Texts a forward pass of a dense model, by device: a few stay in a CPU's cache (a sixth faster than 64 there)."""

ENGINE_BATCH = 32
"""The same where the engine takes padding out: 9 % faster than 16 in bf16 and 4 in fp32; 128 are another 8 % and 4, for
four times the memory."""


class Vectors:
    """Rows of a float32 `.npy` file, read through a map whose pages are let go after each read."""

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
        """A copy of the given rows."""
        copy = self._rows[rows].copy() if isinstance(rows, slice) else self._rows.take(rows, axis=0)
        self._map.madvise(mmap.MADV_DONTNEED)
        return copy


class Embedder:
    """Normalised embeddings by a sentence-transformers model in a local folder, kept on disk in `cache`.

    An entry is named by the content of the model's folder (weights, tokenizer, configuration), the prompt, the
    side, the precision and the texts; it is complete or absent, and verified before use. The model is loaded only when
    one is missing.
    """

    def __init__(
        self, folder: Path, cache: Path, *, query_prompt: str = "", passage_prompt: str = "", device: str = "cpu",
        bf16: bool = False,
    ) -> None:  # fmt: skip
        """Take a model.

        Args:
            folder: a sentence-transformers model.
            cache: where embeddings are kept.
            query_prompt: what stands before each query; empty: the model's own.
            passage_prompt: what stands before each passage.
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
        """Embeddings (texts, dimension) of "query" or "passage" texts, unit length, float32.

        Raises:
            ModelError: when the folder is no sentence-transformers model, or lacks weights of one.
            DataError: when it is no longer the one that the entry is named by.
            NumericsError: when the model makes a value that is not finite.
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
        """Let the model go, whose memory another needs; texts whose embeddings are missing load it again."""
        self._model = None

    def _write(self, texts: Sequence[str], side: str, path: Path) -> None:
        model, _ = self._loaded()
        # Their own prompts (or none) hold where the configuration gives an empty one.
        encode = model.encode_query if side == "query" else model.encode_document
        header = {"descr": "<f4", "fortran_order": False}
        autocast = torch.autocast(self._device, torch.bfloat16, enabled=self._bf16)
        with path.open("wb") as stream, bar(f"embedding {side} texts", len(texts)) as moving, autocast:
            shape = (len(texts), int(model.get_embedding_dimension()))
            np.lib.format.write_array_header_1_0(stream, {**header, "shape": shape})
            # Batch by batch: a chunk takes a large model minutes.
            counting = model[-1].register_forward_hook(lambda *call: moving.advance(_rows(call[-1])))
            for start in range(0, len(texts), CHUNK):
                chunk = list(texts[start : start + CHUNK])
                vectors = np.ascontiguousarray(self._within_memory(encode, chunk, side), dtype=np.float32)
                if not np.isfinite(vectors).all():
                    remedy = "Use another model: mining.path=<folder or hub id>."
                    raise NumericsError(must(str(self._folder), "give finite embeddings", "NaN or inf", remedy))
                stream.write(vectors.tobytes())
                moving.advance(start + len(chunk) - moving.done)  # batches that a GPU had no memory for came twice
            counting.remove()

    def _within_memory(self, encode: Callable[..., Any], texts: list[str], side: str) -> Any:
        """Embeddings of texts, in batches halved each time a GPU's memory runs out, until a text is alone."""
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
            except (AttributeError, IndexError, TypeError, ValueError) as error:  # no pad token, tokens it knows not …
                rule = "be a model that embeds texts"
                raise ModelError(
                    must(str(self._folder), rule, named(error), "Pass another model: mining.path=<folder or hub id>.")
                ) from error
            except RuntimeError as error:
                if size == 1 or not out_of_gpu_memory(error):
                    raise
            torch.cuda.empty_cache()
            self._model = model, size // 2
            log.warning("out of GPU memory: embedding goes on with %d texts a batch", size // 2)

    def _loaded(self) -> tuple[Any, int]:
        """The model, and how many texts a forward pass of it takes."""
        if self._model is None:
            # Seconds to import, and BM25 needs none of it.
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
                modules = sorted(self._folder.glob("[0-9]*_*/"))  # each may have files of its own
                tokenizer_files.check(model.tokenizer, [self._folder, *modules], "mining.path")
            if type(model[0]).__name__ == "StaticEmbedding":
                size = STATIC_BATCH
            else:
                size = ENGINE_BATCH if self._uses_engine(model) else DENSE_BATCH[self._device]
            # Hashed only where a file's state says so: a large model is loaded again for every set.
            if self._states() != self._before and folder_digest(self._folder) != self._identity:
                raise changed(str(self._folder))
            self._model = model, size
        return self._model

    def _states(self) -> dict[Path, list[int]]:
        return {path: file_state(path) for path in deciding_files(self._folder)}

    def _uses_engine(self, model: Any) -> bool:
        """Let `block_scoring` compute a BERT on a CPU; tokens, prompts, pooling and what follows stay the library's."""
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        # What stands between the two may read pads, which are zeros here.
        if len(model) < 2 or type(model[0]) is not Transformer or type(model[1]) is not Pooling:
            return False
        bert: Any = model[0].model
        ways = [(way["method"], way["method_output_name"]) for way in model[0].modality_config.values()]
        if any(way != ("forward", "last_hidden_state") for way in ways) or not block_scoring.encodes(bert):
            return False
        reuse_memory()
        bert.forward = block_scoring.FrozenEncoder(bert, torch.bfloat16 if self._bf16 else torch.float32)
        bert.encoder = bert.pooler = None  # their matrices have been packed, or are not asked
        return True


def _asks_its_pooler(model: Any) -> bool:
    ways = getattr(model[0], "modality_config", {}).values()
    return any(way["method_output_name"] == "pooler_output" for way in ways)


def _rows(output: Any) -> int:
    """Texts of a batch, by what a model's last module gives."""
    return len(output.get("sentence_embedding", ())) if isinstance(output, dict) else 0


def folder_digest(folder: Path) -> str:
    """sha256 over name and content of the `deciding_files`.

    Raises:
        ModelError: when there is none.
    """
    if not (files := deciding_files(folder)):
        remedy = "Pass a model folder: mining.path=<folder>."
        raise ModelError(must(str(folder), "be a folder with a model", "nothing there", remedy))
    return text_digest(part for path in files for part in (path.relative_to(folder).as_posix(), file_digest(path)))


def deciding_files(folder: Path) -> list[Path]:
    """Every file that can change an embedding: all but hidden ones and Markdown."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix != ".md"
        and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )
