"""Configuration of MINE: pairs, their split, negatives and candidates. Reads no files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath

from pipeline.config.rules import check, seed
from pipeline.config.set_names import is_reserved

Source = Enum("Source", "packaged_docs local hub")
Format = Enum("Format", "pairs labelled negatives beir")
Retriever = Enum("Retriever", "bm25 embedding run")
Sampling = Enum("Sampling", "top random")
Match = Enum("Match", "exact folded")


@dataclass(kw_only=True)
class DataConfig:
    """Where pairs come from and how they are split. One schema for every source."""

    source: Source
    """packaged_docs (docstrings of installed libraries), local (files) or hub (a data set on the hub)."""
    name: str
    """Slug of the data in folder names."""
    title: str | None = None
    """Name of the data in the card; None takes `name`, or with data=local the last part of `path`."""
    dev_name: str = "dev"
    """Name of the dev set in measures and columns; not the name of another set (`validation`, NanoBEIR's)."""
    path: str | None = None
    """File, BEIR folder or hub id; unused by packaged_docs."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set."""
    subset: str | None = None
    """Configuration name of a hub data set."""
    split: str = "train"
    """Split of a hub data set."""
    format: Format = Format.pairs
    """Content of a row: pairs (a right answer), labelled (and its label), negatives (and wrong ones); or beir."""
    question_column: str = "question"
    """Column or key of the query text."""
    answer_column: str = "answer"
    """Column or key of the passage text."""
    label_column: str = "label"
    """Column of a 0/1 or graded label, at most 1000 (format labelled)."""
    negatives_column: str = "negatives"
    """Column holding a list of passages (format negatives)."""
    group_column: str | None = None
    """Column naming a row's cluster; splits keep clusters whole and intervals resample them."""
    positive_threshold: float = 1.0
    """A label of at least this is a positive (format labelled, and qrels)."""
    dev_path: str | None = None
    """A dev file of the same format, or None to split one off."""
    corpus_path: str | None = None
    """JSONL of passages to mine from (`text`, else the answer column; `title`, `id`); None uses the answers."""
    rows: int | None = None
    """Take the first N rows (whole queries of a BEIR folder); None takes all."""
    limit: int | None = None
    """Take a subset of at most N rows, drawn by whole questions with `split_seed`; None takes all."""
    dev_queries: int = 1000
    """Target number of dev questions: at most a fifth of all questions, but at least 20."""
    validation_queries: int = 0
    """Questions taken from the train part for fixed-step evaluations and model selection."""
    queries_per_group: int | None = None
    """Most held-out questions of one group, so that no large group dominates a figure; None sets no limit."""
    split_seed: int = 12
    """Seed of the split and of `limit`."""
    dedupe: bool = True
    """Drop exact duplicate rows after the split; false also splits a hub data set by rows, as published."""
    packages: list[str] = field(default_factory=list)
    """Installed libraries whose docstrings are read (packaged_docs)."""

    def __post_init__(self) -> None:
        check(
            self.source is Source.packaged_docs or bool(self.path),
            "data.path",
            f"name a file, folder or hub id when data.source is {self.source.name}",
            self.path,
            "Pass data.path=<file>.",
        )
        if self.title is None and self.name == "local" and self.path:
            self.title = PurePath(self.path).name
        check(
            self.source is not Source.packaged_docs or bool(self.packages),
            "data.packages",
            "name at least one installed library",
            self.packages,
            "Use data=packaged_docs, which lists them.",
        )
        check(
            bool(re.fullmatch(r"[A-Za-z0-9._-]+", self.dev_name)),
            "data.dev_name",
            "be letters, digits, '.', '_' or '-'",
            self.dev_name,
            "Use dev.",
        )
        check(
            not is_reserved(self.dev_name),
            "data.dev_name",
            "differ from the names of other sets (validation, NanoBEIR's)",
            self.dev_name,
            "Use dev.",
        )
        packaged = self.source is Source.packaged_docs
        check(
            self.group_column is None or not (packaged or self.format is Format.beir),
            "data.group_column",
            "be used with rows that have columns",
            self.group_column,
            "Remove it: docstrings are grouped by their modules, and a BEIR folder has no groups.",
        )
        check(
            self.queries_per_group is None or packaged or self.group_column is not None,
            "data.queries_per_group",
            "be used with rows in groups",
            self.queries_per_group,
            "Name the groups' column: data.group_column=<column>.",
        )
        seed("data.split_seed", self.split_seed)
        for key in ("rows", "limit", "queries_per_group"):
            value = getattr(self, key)
            check(value is None or value >= 1, f"data.{key}", "be at least 1", value, "Use null for no limit.")
        check(self.dev_queries >= 1, "data.dev_queries", "be at least 1", self.dev_queries, "Use 1000.")
        check(
            self.validation_queries >= 0,
            "data.validation_queries",
            "be at least 0",
            self.validation_queries,
            "Use 100.",
        )


@dataclass(kw_only=True)
class MiningConfig:
    """Which first stage finds negatives and candidates, and which negatives become rows."""

    retriever: Retriever
    """First stage: bm25, embedding (a sentence-transformers model) or run (an imported TREC run)."""
    path: str | None = None
    """Embedding model: folder, hub id or `package:<module>`; or the TREC run file."""
    revision: str | None = None
    """Revision of a retriever on the hub."""
    query_prompt: str = ""
    """Text put before every query when embedding."""
    passage_prompt: str = ""
    """Text put before every passage when embedding."""
    negatives: int = 5
    """Hard negatives per question, from the ranking."""
    random_negatives: int = 0
    """Further negatives per question, drawn at random from the corpus."""
    range_min: int = 0
    """Top candidates to skip, counted after removal of positives and of candidates within a margin."""
    range_max: int = 100
    """Top candidates to consider, counted as in `range_min`; hard negatives come from [range_min, range_max)."""
    absolute_margin: float | None = None
    """Keep only negatives scored at least this far below the lowest-scored positive; None is no margin."""
    relative_margin: float | None = None
    """Keep only negatives scored below the lowest-scored positive by at least this share of its score's magnitude, a
    share below 1; None is no margin."""
    sampling: Sampling = Sampling.top
    """top takes the best-ranked; random draws with `mining.seed` from the range."""
    positive_match: Match = Match.folded
    """How a candidate is recognised as a positive: by exact text, or folded (ignoring case, white space, Unicode
    normalisation and invisible characters)."""
    drop_leaks: bool = True
    """Remove train rows that share a question or positive with dev; false only counts them."""
    dev_depth: int = 30
    """First-stage candidates per dev question."""
    seed: int = 12
    """Seed of random negatives and random sampling."""

    def __post_init__(self) -> None:
        check(
            self.retriever is Retriever.bm25 or bool(self.path),
            "mining.path",
            f"name a model or run file when mining.retriever is {self.retriever.name}",
            self.path,
            "Pass mining.path=<folder, hub id or file>.",
        )
        if self.retriever is not Retriever.embedding:
            unset = {"revision": None, "query_prompt": "", "passage_prompt": ""}
            remedy = "Pass mining=run, which leaves it empty, or mining=embedding."
            if self.retriever is Retriever.bm25:
                unset, remedy = {"path": None, **unset}, "Add mining=embedding, or mining=run for a TREC run."
            for key, value in unset.items():
                rule = f"be used with a retriever other than {self.retriever.name}, which has no use for it"
                check(getattr(self, key) == value, f"mining.{key}", rule, getattr(self, key), remedy)
        seed("mining.seed", self.seed)
        for key in ("negatives", "random_negatives", "range_min"):
            check(getattr(self, key) >= 0, f"mining.{key}", "be at least 0", getattr(self, key), "Use 0 or more.")
        check(
            self.negatives + self.random_negatives > 0,
            "mining.negatives + mining.random_negatives",
            "be at least 1",
            0,
            "A cross-encoder needs negatives to learn from: use mining.negatives=5.",
        )
        check(
            self.relative_margin is None or not self.relative_margin >= 1,  # NaN is refused by another rule
            "mining.relative_margin",
            "be below 1, a share of the positive's score",
            self.relative_margin,
            "Use 0.05.",
        )
        room = self.range_max - self.range_min
        check(
            room >= self.negatives,
            "mining.range_max",
            f"leave room for mining.negatives={self.negatives} after mining.range_min={self.range_min}",
            self.range_max,
            f"Use at least {self.range_min + self.negatives}, or fewer negatives.",
        )
        check(self.dev_depth >= 1, "mining.dev_depth", "be at least 1", self.dev_depth, "Use 30.")
