"""Plain data types: pairs, queries, candidates, qrels, runs. Knows no torch and no files."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Qrels = dict[str, dict[str, int]]
"""query id → passage id → relevance grade; relevant means at least 1."""

Run = dict[str, dict[str, float]]
"""query id → passage id → score, as a TREC run file holds it."""

MEASURES = {"map": "MAP", "mrr@10": "MRR@10", "ndcg@10": "nDCG@10"}
"""Measures that every evaluation reports: sentence-transformers' name → name as displayed."""

HEADLINE = "ndcg@10"
"""The measure that verdicts are about."""

AS_RETRIEVED = "as_retrieved"
"""Protocol: a model reorders the first stage's candidates; a positive that the first stage missed counts 0."""

POSITIVES_ADDED = "positives_added"
"""Protocol: judged positives missing from the candidates are added before reranking."""

PROTOCOLS = (AS_RETRIEVED, POSITIVES_ADDED)

FIRST_STAGE, UNTRAINED, TRAINED = "first_stage", "untrained", "trained"
"""Names of the systems every evaluation compares; rivals come under their own names."""

BI_ENCODER, FUSION = "bi_encoder", "fusion"
"""Rivals that need no training: the base model's own weights as a bi-encoder, and its fusion with the first stage."""

_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
"""Soft hyphen, zero-width space, (non-)joiners, direction marks, word joiner, byte order mark."""

_HALVES = re.compile("[\ud800-\udfff]")

COMPARISONS = ("difference", "differences", "trained_minus")
"""Keys of a protocol's figures that hold comparisons and name no system; only older records have `difference`."""


def fold(text: str) -> str:
    """Return the form by which texts are compared: differences in case, white space and invisible marks are removed.

    Soft hyphens and other zero-width marks are invisible; nor does it matter whether an accented letter is one
    character or two. A text whose folded form is empty is blank.
    """
    if text.isascii():
        # A printable text has no white space but spaces: unless two are adjacent, there is nothing to collapse.
        is_joined = text.isprintable() and "  " not in text
        return (text.strip() if is_joined else " ".join(text.split())).lower()
    text = unicodedata.normalize("NFC", _UNSEEN.sub("", text))
    # Case folding decomposes some letters (ǰ), which NFC composes again.
    return unicodedata.normalize("NFC", " ".join(text.split()).casefold())


def encodable(text: str) -> str:
    """Make a text encodable as UTF-8: half a surrogate pair (a cut emoji) becomes U+FFFD; NUL becomes a space."""
    text = text.replace("\0", " ")
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


def titled(title: str, text: str) -> str:
    """Return a passage as BEIR has it: its title, if any, and its text, with outer white space removed."""
    return f"{title} {text}".strip()


def ends_with_query(passage: str, query: str) -> bool:
    """Return whether a folded passage ends with the folded query: it may be the query itself, behind a title."""
    return f" {fold(passage)}".endswith(f" {fold(query)}")


@dataclass(slots=True)
class PairRows:
    """Question/answer rows as a source gave them, before any cleaning.

    All lists have one entry per row. `labels` is None if every row is a positive; `negatives` is None if the source has
    none; `groups` names the cluster (module, title) a row belongs to; `lines` holds 1-based line or row numbers in the
    source, for messages.
    """

    questions: list[str]
    answers: list[str]
    lines: list[int]
    labels: list[float] | None = None
    negatives: list[list[str]] | None = None
    groups: list[str] | None = None
    question_ids: list[str] | None = None

    def __len__(self) -> int:
        return len(self.questions)

    @classmethod
    def joined(cls, parts: list[PairRows]) -> PairRows | None:
        """Return the rows of all parts, one part after another; None without parts. All parts have the same columns."""
        if not parts:
            return None
        columns: dict[str, Any] = {}
        for column in fields(cls):
            lists = [getattr(part, column.name) for part in parts]
            columns[column.name] = None if lists[0] is None else [value for values in lists for value in values]
        return cls(**columns)

    def take(self, rows: list[int]) -> PairRows:
        """Return the given rows, in the given order."""
        columns: dict[str, Any] = {}
        for column in fields(self):
            values = getattr(self, column.name)
            columns[column.name] = None if values is None else [values[row] for row in rows]
        return PairRows(**columns)


@dataclass(slots=True)
class RerankingSet:
    """Queries with judged passages and first-stage candidates: what one evaluation reranks.

    `candidates` lists distinct passage ids best first; only this order counts. `passages` holds every candidate and
    every judged positive that the collection has. `groups` clusters queries for resampling, or is None if they are
    independent.
    """

    name: str
    queries: dict[str, str]
    passages: dict[str, str]
    candidates: dict[str, list[str]]
    qrels: Qrels
    groups: dict[str, str] | None = None
    first_stage: str = ""
    """What retrieved the candidates, if the set has a first stage of its own."""
    remarks: list[str] = field(default_factory=list)
    """Sentences that a reader of the set's figures must know."""

    def pool(self, query_id: str, protocol: str) -> list[str]:
        """Return the passage ids a reranker sees: candidates, then (under `positives_added`) missing positives by id.

        A positive that the collection lacks is never added.
        """
        candidates = self.candidates.get(query_id, [])
        if protocol == AS_RETRIEVED:
            return candidates
        present = set(candidates)
        positives = (p for p, grade in self.qrels.get(query_id, {}).items() if grade > 0 and p in self.passages)
        return candidates + sorted(passage for passage in positives if passage not in present)


@dataclass(slots=True)
class LabelledPairs:
    """Training rows as indices into distinct texts: row i is (questions[question[i]], passages[passage[i]]).

    Shapes: `question`, `passage` (rows,) int32; `label` (rows,) float32 in [0, 1]. A question's rows are
    adjacent: its positives first, then its negatives: those the source gives, hard ones (best first), random ones.
    """

    questions: list[str]
    passages: list[str]
    question: npt.NDArray[np.int32]
    passage: npt.NDArray[np.int32]
    label: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return int(self.label.shape[0])


@dataclass(slots=True)
class Split:
    """A source divided by question, before any mining.

    `corpus` holds every passage that candidates are retrieved from (every answer loaded, or the user's own corpus),
    distinct by exact text in first-occurrence order; `corpus_ids` holds the collection's own ids in the same order.
    `aliases` maps the id of a passage whose text has an earlier id to that earlier id.
    `dev_file` is the path dev was read from, empty if dev was split off.
    `unused` holds rows that are in no part because their group is held out. Their passages are searched. Such a passage
    may be a negative only if it is also an answer in train, and never for its own question.
    `renamed` lists ids that the dev file's folder uses for other texts than the source does.
    `statistics` counts rows read, used and dropped by reason, with other facts about the source.
    """

    train: PairRows
    dev: PairRows
    validation: PairRows | None
    corpus: list[str]
    corpus_ids: list[str] | None = None
    statistics: dict[str, object] = field(default_factory=dict)
    dev_file: str = ""
    unused: PairRows | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    renamed: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Collection:
    """A judged collection in the BEIR layout: queries, passages (title and text joined), qrels and perhaps a run."""

    name: str
    queries: dict[str, str]
    passages: dict[str, str]
    qrels: Qrels
    run: Run | None = None


@dataclass(slots=True)
class Mined:
    """Output of MINE: training rows, sets to rerank, and the counts behind them."""

    train: LabelledPairs
    dev: RerankingSet
    validation: RerankingSet | None
    statistics: dict[str, object]
