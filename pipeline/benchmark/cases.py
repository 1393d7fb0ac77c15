"""Cases of the side-by-side benchmark, their settings, and synthetic texts of GooAQ's lengths. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from pipeline.core.errors import ConfigError, must

Case = Enum(
    "Case",
    "train_bert_tiny train_minilm train_minilm_dropout train_modernbert_large evaluate evaluate_steps "
    "evaluate_modernbert_large mine quickstart growth",
)

QUESTION = (44.0, 12.0, 21, 96)
ANSWER = (252.0, 60.0, 51, 405)
"""Lengths in characters: mean, standard deviation, minimum, maximum. GooAQ's card gives all but the deviation."""

NEGATIVES = 5
"""Negatives per question in training rows, as in the published recipe."""

DEPTH = 30
"""Candidates per query in evaluations."""

TRIED_TIMES = 3
"""Consecutive evaluations in a trial of a reference setting, see `figures.reckoned`; at least 2."""

SEED = 12
"""Seed of texts, weights and row order."""

FLASH = "flash_attention_2"
"""Attention that skips padding. In sentence-transformers' cross-encoders, the rest of a layer still computes it."""


@dataclass(kw_only=True)
class Benchmark:
    """The arguments of `scripts/benchmark.py`."""

    case: Case
    """The case to measure; `growth` measures this pipeline alone, over several numbers of rows."""
    pairs: int = 5
    """Counted pairs of runs: this pipeline, then the reference."""
    warmup: int = 1
    """Uncounted pairs that are run first; the last of them measures energy."""
    rows: int | None = None
    """Training rows, queries to evaluate or questions to mine (growth: the most); null takes the case's own number."""
    note: str = ""
    """A remark for readers of the figures, for example that the machine was busy."""
    outputs_dir: str = "outputs"
    """The folder below which the result is written, to benchmarks/<case>.json."""

    def __post_init__(self) -> None:
        for key, least in (("pairs", 1), ("warmup", 0), ("rows", 8)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise ConfigError(must(key, f"be at least {least}", value, f"Pass {key}=<a larger number>."))


@dataclass(frozen=True, slots=True)
class Settings:
    """One case: its work, and every setting under which the reference is tried."""

    job: str
    """train | evaluate | mine | quickstart."""
    model: str
    """bert_tiny | minilm | modernbert_large | static; the quickstart uses minilm."""
    rows: int
    """Training rows, queries or questions, unless the command sets `rows`."""
    reference: tuple[dict[str, object], ...]
    """Settings to try for the reference, if they can run on this machine; the first is the published recipe's."""
    batch_size: int = 0
    dropout: float = 0.0
    times: int = 1
    """How often the same set is evaluated."""
    about: str = "synthetic texts: words of the tokenizer's vocabulary, with Zipfian frequencies and GooAQ's lengths"
    """Description of the work for readers of the result."""

    @property
    def tried_times(self) -> int:
        """Number of evaluations in the trial of a setting."""
        return min(self.times, TRIED_TIMES)


_KINDS = ("sdpa", "eager", FLASH)
_ATTENTION: tuple[dict[str, object], ...] = tuple({"attention": kind} for kind in _KINDS)
_EVALUATION: tuple[dict[str, object], ...] = tuple(
    {"attention": kind, "batch_size": size} for kind in _KINDS for size in (2048, 256, 32)
)
_LARGE_EVALUATION: tuple[dict[str, object], ...] = tuple(
    {"attention": kind, "batch_size": size} for kind in ("sdpa", FLASH) for size in (64, 256)
)
_QUICKSTART: tuple[dict[str, object], ...] = (
    {"attention": "sdpa", "batch_size": 2048},
    {"attention": "sdpa", "batch_size": 32},
    {"attention": "eager", "batch_size": 32},
)

QUICKSTART = (
    "docstrings of installed libraries, read before; mining is ours alone: sentence-transformers has no BM25 and is "
    "given the mined rows; libraries are loaded before, models within the time; no card, no energy measurement"
)

CASES = {
    Case.train_bert_tiny: Settings("train", "bert_tiny", 20_480, _ATTENTION, batch_size=2048, dropout=0.1),
    Case.train_minilm: Settings("train", "minilm", 640, _ATTENTION, batch_size=64),
    Case.train_minilm_dropout: Settings("train", "minilm", 640, _ATTENTION, batch_size=64, dropout=0.1),
    Case.train_modernbert_large: Settings("train", "modernbert_large", 1_280, _ATTENTION, batch_size=64),
    Case.evaluate: Settings("evaluate", "bert_tiny", 1_000, _EVALUATION),
    Case.evaluate_steps: Settings("evaluate", "bert_tiny", 1_000, _EVALUATION, times=14),
    Case.evaluate_modernbert_large: Settings("evaluate", "modernbert_large", 200, _LARGE_EVALUATION),
    Case.mine: Settings("mine", "static", 100_000, ({"use_faiss": True}, {"use_faiss": False})),
    Case.quickstart: Settings("quickstart", "minilm", 23_040, _QUICKSTART, batch_size=32, about=QUICKSTART),
}
"""MiniLM trains on few rows, since the time is linear in their number; ModernBERT-large has enough for a GPU."""


class Writer:
    """Writes texts of words drawn with Zipf's frequencies, the first word most often, from one seeded stream."""

    def __init__(self, words: Sequence[str], seed: int) -> None:
        self._words = words
        self._draw = np.random.default_rng(seed)
        shares = 1 / (np.arange(len(words)) + 2.7)  # Mandelbrot's offset for English
        self._cumulative = np.cumsum(shares / shares.sum())

    def texts(self, count: int, shape: tuple[float, float, int, int]) -> list[str]:
        """Return `count` texts whose lengths in characters are normally distributed, clipped to the shape's bounds."""
        mean, deviation, least, most = shape
        lengths = np.clip(self._draw.normal(mean, deviation, count), least, most).astype(int)
        return [self._text(int(length)) for length in lengths]

    def _text(self, length: int) -> str:
        numbers = self._cumulative.searchsorted(self._draw.random(length // 2 + 1))
        return " ".join(self._words[min(number, len(self._words) - 1)] for number in numbers)[:length].strip()


def words_of(vocabulary: dict[str, int]) -> list[str]:
    """Return the whole lower-case words of a WordPiece vocabulary by id, which is roughly by falling frequency."""
    words = [word for word in vocabulary if word.isascii() and word.isalpha() and word.islower() and len(word) > 1]
    return sorted(words, key=vocabulary.__getitem__)


def training_texts(words: Sequence[str], rows: int) -> dict[str, list[object]]:
    """Return columns `question`, `answer`, `label`: each question with its answer and five others', like mined rows."""
    writer = Writer(words, SEED)
    count = -(-rows // (NEGATIVES + 1))
    questions, answers = writer.texts(count, QUESTION), writer.texts(count, ANSWER)
    draw = np.random.default_rng(SEED + 1)
    columns: dict[str, list[object]] = {"question": [], "answer": [], "label": []}
    for number, question in enumerate(questions):
        others = (number + 1 + draw.integers(0, max(1, count - 1), NEGATIVES)) % count
        for place, other in enumerate((number, *others)):
            columns["question"].append(question)
            columns["answer"].append(answers[other])
            columns["label"].append(float(place == 0))
    return {name: column[:rows] for name, column in columns.items()}


def evaluation_texts(words: Sequence[str], queries: int) -> dict[str, list[object]]:
    """Return `query`, `documents` (30 each, in first-stage order) and `positive` (the relevant document's index)."""
    writer = Writer(words, SEED + 2)
    passages = writer.texts(queries * DEPTH, ANSWER)
    return {
        "query": list(writer.texts(queries, QUESTION)),
        "documents": [passages[start : start + DEPTH] for start in range(0, len(passages), DEPTH)],
        "positive": np.random.default_rng(SEED + 3).integers(0, DEPTH, queries).tolist(),
    }


def mining_texts(words: Sequence[str], rows: int) -> dict[str, list[object]]:
    """Return columns `question` and `answer` of positive pairs; the answers are the corpus."""
    writer = Writer(words, SEED + 4)
    return {"question": list(writer.texts(rows, QUESTION)), "answer": list(writer.texts(rows, ANSWER))}
