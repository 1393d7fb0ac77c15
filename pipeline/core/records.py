"""The nouns of the field as plain data: pairs, queries, candidates, qrels, runs. Knows no torch, no files."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Qrels = dict[str, dict[str, int]]
"""query id → passage id → relevance; relevant means at least 1."""

Run = dict[str, dict[str, float]]
"""query id → passage id → score, as a TREC run file holds it."""

MEASURES = {"map": "MAP", "mrr@10": "MRR@10", "ndcg@10": "nDCG@10"}
"""What every evaluation reports: the name sentence-transformers gives a measure → how it is written."""

HEADLINE = "ndcg@10"
"""The measure that verdicts speak of."""

AS_RETRIEVED = "as_retrieved"
"""Protocol: a model reorders the first stage's candidates; a positive it never found counts 0."""

POSITIVES_ADDED = "positives_added"
"""Protocol: judged positives missing from the candidates are added before reranking."""

PROTOCOLS = (AS_RETRIEVED, POSITIVES_ADDED)

FIRST_STAGE, UNTRAINED, TRAINED = "first_stage", "untrained", "trained"
"""Names of the systems every evaluation compares; rivals come under their own names."""

BI_ENCODER, FUSION = "bi_encoder", "fusion"
"""Rivals that need no training: the base model's own weights as a bi-encoder, and its fusion with the first stage."""

_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
"""Soft hyphen, space without width, (non-)joiners, marks of writing direction, word joiner, byte order mark."""

_HALVES = re.compile("[\ud800-\udfff]")

COMPARISONS = ("difference", "differences", "trained_minus")
"""What stands beside the systems in a protocol's figures; older records have `difference` too, of trained."""


def fold(text: str) -> str:
    """The form in which two texts count as the same: case, white space and what a reader cannot see do not matter.

    Unseen are soft hyphens and other marks without width, and whether a letter with an accent is one character or two.
    A text that folds to nothing is blank.
    """
    if text.isascii():
        # Printable, its only white space are spaces: without two of them together there is nothing to join again.
        is_joined = text.isprintable() and "  " not in text
        return (text.strip() if is_joined else " ".join(text.split())).lower()
    text = unicodedata.normalize("NFC", _UNSEEN.sub("", text))
    # Case folding takes some letters apart (ǰ), which are one again afterwards.
    return unicodedata.normalize("NFC", " ".join(text.split()).casefold())


def encodable(text: str) -> str:
    """The text as UTF-8 can write it: half a surrogate pair (a cut emoji) is U+FFFD, and NUL a space."""
    text = text.replace("\0", " ")
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


def titled(title: str, text: str) -> str:
    """A passage as BEIR has it: its title, where there is one, and its text, outer white space cut."""
    return f"{title} {text}".strip()


def ends_with_query(passage: str, query: str) -> bool:
    """Whether a passage ends with the whole query, folded: a query that is a passage too, perhaps behind a title."""
    return f" {fold(passage)}".endswith(f" {fold(query)}")


@dataclass(slots=True)
class PairRows:
    """Question/answer rows as a source gave them, before any cleaning.

    All lists have one entry a row. `labels` is None where every row is a positive; `negatives` is None
    where the source has none; `groups` names the cluster (module, title) a row belongs to; `lines` is the
    1-based line or row number in the source, for messages.
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
        """The rows of all parts, one part after another; None of no part. All have the same columns."""
        if not parts:
            return None
        columns: dict[str, Any] = {}
        for column in fields(cls):
            lists = [getattr(part, column.name) for part in parts]
            columns[column.name] = None if lists[0] is None else [value for values in lists for value in values]
        return cls(**columns)

    def take(self, rows: list[int]) -> PairRows:
        """The given rows, in the given order."""
        columns: dict[str, Any] = {}
        for column in fields(self):
            values = getattr(self, column.name)
            columns[column.name] = None if values is None else [values[row] for row in rows]
        return PairRows(**columns)


@dataclass(slots=True)
class RerankingSet:
    """Queries with judged passages and first-stage candidates: what one evaluation reranks.

    `candidates` lists distinct passage ids best first, as the first stage ranked them: that order counts. `passages`
    holds every candidate and every judged positive that the collection has. `groups` clusters queries for resampling,
    or is None when they are independent.
    """

    name: str
    queries: dict[str, str]
    passages: dict[str, str]
    candidates: dict[str, list[str]]
    qrels: Qrels
    groups: dict[str, str] | None = None
    first_stage: str = ""
    """What retrieved the candidates, where that is the set's own."""
    remarks: list[str] = field(default_factory=list)
    """What a reader of its figures must know, in sentences."""

    def pool(self, query_id: str, protocol: str) -> list[str]:
        """Passage ids a reranker sees: the candidates, then (under `positives_added`) missing positives by id.

        A positive that the collection lacks is in neither.
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
    adjacent: its positives first, then its negatives in the order they were drawn.
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

    `corpus` is every passage candidates are retrieved from (every answer loaded, or the user's own corpus),
    distinct by exact text in first-occurrence order; `corpus_ids` are the collection's own ids, beside it.
    `aliases` maps ids of passages whose text has an earlier id to that one.
    `dev_file` is where dev was read from, empty where it was split off.
    `unused` are rows that stand in no part, because their group is held out: their passages are searched, are no
    negatives but where they are answers of train, and are never those of their own questions.
    `renamed` are ids that a dev file's folder has for other texts than the source's own.
    `statistics` counts rows read, used and dropped by reason, and whatever else the source knows about itself.
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
    """A judged collection in the BEIR layout: queries, passages (title and text joined), qrels, maybe a run."""

    name: str
    queries: dict[str, str]
    passages: dict[str, str]
    qrels: Qrels
    run: Run | None = None


@dataclass(slots=True)
class Mined:
    """What MINE hands on: training rows, sets to rerank, and the counts behind them."""

    train: LabelledPairs
    dev: RerankingSet
    validation: RerankingSet | None
    statistics: dict[str, object]
