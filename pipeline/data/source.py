"""From a configured source to a split: read, take the first rows, draw a subset, split, and only then clean.

Knows the sources and their rules; not how candidates are found or what a stage is.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.config import data as settings
from pipeline.config.data import DataConfig, Format
from pipeline.core.errors import DataError, must
from pipeline.core.fingerprint import file_digest
from pipeline.core.records import PairRows, Split, fold
from pipeline.data.beir import QRELS_FILES, TRAIN_QRELS_FILES, judgements_file
from pipeline.data.packaged_docs import extract
from pipeline.data.readers import Source, read, read_corpus, read_hub
from pipeline.data.splitting import Held, hold_out, hold_out_rows, subset, whole_questions

log = logging.getLogger(__name__)

FEWEST_QUESTIONS = 100
"""Usable questions below which nothing is trained."""

FEWEST_DEV_QUESTIONS = 20
LARGEST_SHARE = 5
"""At most one question in this many is held out, for the dev and for the validation part each."""

WIDE_INTERVAL_BELOW = 200
PAIRED_SPREAD = 0.31
"""Standard deviation over queries of an nDCG@10 difference, as measured on docstrings; for the warning only."""


def load(config: DataConfig, *, source: Path | None, cache: Path, workers: int | None = None) -> Split:
    """The source's training, dev and validation parts, its corpus and what was counted.

    Args:
        config: The `data` section.
        source: The located file or folder; None takes `data.path`. For a data set of the hub, its local copy.
        cache: Folder for extracted docstrings and for what `datasets` converts.
        workers: Processes that read docstrings; no result depends on it.

    Raises:
        DataError: one sentence with file, line, key and remedy, before any other work.
    """
    for key, path in (("data.dev_path", config.dev_path), ("data.corpus_path", config.corpus_path)):
        if path is not None and not Path(path).exists():
            raise DataError(must(f"{key}={path}", "exist", "nothing there", "Correct the path."))
    loaded = _read(config, source, cache, workers)
    rows = loaded.rows
    statistics: dict[str, object] = {"rows_read": len(rows)}
    if config.limit is not None and config.limit < len(rows):
        rows = rows.take(subset(rows, config.limit, config.split_seed))
        statistics["rows_after_limit"] = len(rows)
    usable = _usable_questions(rows, config.positive_threshold)
    if len(usable) < FEWEST_QUESTIONS:
        remedy = "Give more rows, raise data.rows or data.limit, or check the columns and data.positive_threshold."
        raise DataError(must(_name(config), f"hold at least {FEWEST_QUESTIONS} usable questions", len(usable), remedy))
    parts, dropped, other, surplus = _split(config, rows, usable)
    cleaned = {name: _clean(part, config, dropped[name]) for name, part in parts.items()}
    if other is not None:
        _refuse_the_same(config, cleaned["train"], cleaned["dev"])
    for name, part in cleaned.items():
        if not len(part):
            remedy = "Use fewer dev_queries and validation_queries, or more or smaller groups."
            raise DataError(must(f"the {name} part of {_name(config)}", "hold usable rows", "none", remedy))
    dev_questions = len({fold(question) for question in cleaned["dev"].questions})
    if dev_questions < WIDE_INTERVAL_BELOW:
        width = 2 * 1.96 * PAIRED_SPREAD / math.sqrt(dev_questions)
        log.warning(
            "only %d dev questions: a 95 %% interval of an nDCG@10 difference will be about %.2f wide",
            dev_questions,
            width,
        )
    unused = [_clean(part, config, Counter()) for part in surplus]
    sources = [loaded, *([other] if other else [])]
    corpus, ids, counts = _corpus(config, sources, [*cleaned.values(), *unused])
    statistics["reading"] = dict(sorted(sum((source.counts for source in sources), counts).items()))
    statistics["parts"] = {name: _describe(parts[name], part, dropped[name]) for name, part in cleaned.items()}
    for name, part in cleaned.items():
        reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(dropped[name].items())) or "none"
        log.info("%s: %d of %d rows used; dropped: %s", name, len(part), len(parts[name]), reasons)
    never = [answer for part in unused for answer in part.answers]
    return Split(cleaned["train"], cleaned["dev"], cleaned.get("validation"), corpus, ids, statistics, never)


def content_digest(
    config: DataConfig, *, source: Path | None, cache: Path, workers: int | None = None
) -> dict[str, str]:
    """sha256 of every outside input by what it is; empty for the hub, whose commit says the same.

    Raises:
        DataError: when a file is missing or unreadable, or a package is not installed.
    """
    if config.source is settings.Source.packaged_docs:
        found = {"packaged_docs": extract(config.packages, cache, workers).digest}
    elif config.source is settings.Source.local:
        found = _digests("path", source or Path(config.path or ""), config)
    else:
        found = {}
    if config.dev_path is not None:
        found |= _digests("dev_path", Path(config.dev_path), config)
    if config.corpus_path is not None:
        found["corpus_path"] = _file_digest(Path(config.corpus_path), "corpus_path")
    return found


def _digests(key: str, path: Path, config: DataConfig) -> dict[str, str]:
    if config.format is not Format.beir:
        return {key: _file_digest(path, key)}
    names = QRELS_FILES if key == "dev_path" else TRAIN_QRELS_FILES
    judgements = judgements_file(path, names) or names[0]
    return {f"{key}/{name}": _file_digest(path / name, key) for name in ("queries.jsonl", "corpus.jsonl", judgements)}


def _file_digest(path: Path, key: str) -> str:
    if path.exists() and not path.is_file() and not path.is_dir():  # read twice, and a pipe may never end
        remedy = f"Write its content to a file and pass data.{key}=<file>."
        raise DataError(must(str(path), "be a file", "a pipe or device", remedy))
    try:
        return file_digest(path)
    except OSError as error:
        got = error.strerror or str(error)
        raise DataError(must(str(path), "be a readable file", got, f"Correct data.{key} or data.format.")) from None


def _name(config: DataConfig) -> str:
    return config.path or "+".join(config.packages)


def _read(config: DataConfig, source: Path | None, cache: Path, workers: int | None) -> Source:
    """The rows as loaded, the first `data.rows` of them."""
    if config.source is settings.Source.packaged_docs:
        extraction = extract(config.packages, cache, workers)
        rows = extraction.rows
        if config.rows is not None:
            rows = rows.take(list(range(min(config.rows, len(rows)))))
        return Source(rows, counts=Counter(extraction.counts))
    path = source or Path(config.path or "")
    if config.source is settings.Source.hub:
        return read_hub(path, config, cache)
    return read(path, config)


def _usable(rows: PairRows) -> list[bool]:
    return [bool(q.strip() and a.strip()) for q, a in zip(rows.questions, rows.answers, strict=True)]


def _usable_questions(rows: PairRows, threshold: float) -> dict[str, None]:
    """Folded questions with at least one positive of usable text, in first-occurrence order."""
    return {
        fold(rows.questions[row]): None
        for row, is_usable in enumerate(_usable(rows))
        if is_usable and (rows.labels is None or rows.labels[row] >= threshold)
    }


def _split(
    config: DataConfig, rows: PairRows, usable: dict[str, None]
) -> tuple[dict[str, PairRows], dict[str, Counter[str]], Source | None, list[PairRows]]:
    """Parts by name as loaded, what the split dropped of each, the dev file's source if any, and groups' surplus."""
    other = None
    surplus: list[PairRows] = []
    dropped = {name: Counter[str]() for name in ("train", "dev", "validation")}
    if config.dev_path is not None:
        other = read(Path(config.dev_path), replace(config, rows=None), QRELS_FILES)
        train, dev = rows, other.rows
        questions = len(_usable_questions(dev, config.positive_threshold))
        if questions < FEWEST_DEV_QUESTIONS:
            rule = f"hold at least {FEWEST_DEV_QUESTIONS} usable questions"
            remedy = "Give more, or remove the key to split some off."
            raise DataError(must(f"data.dev_path={config.dev_path}", rule, questions, remedy))
    else:
        size = _held_out_size("data.dev_queries", config.dev_queries, len(usable))
        held = _hold_out(config, rows, size, usable, salt=0)
        train, dev = rows.take(held.rest), rows.take(held.held)
        surplus.append(rows.take(held.surplus))
        dropped["train"].update(held.dropped)
    parts = {"train": train, "dev": dev}
    if config.validation_queries:
        # A dev file's questions may be in train too: dropped there as leaks, they must not choose a checkpoint either.
        asked = {fold(question) for question in dev.questions}
        usable = {q: None for q in _usable_questions(train, config.positive_threshold) if q not in asked}
        size = _held_out_size("data.validation_queries", config.validation_queries, len(usable))
        held = _hold_out(config, train, size, usable, salt=1)
        surplus.append(train.take(held.surplus))
        parts = {"train": train.take(held.rest), "validation": train.take(held.held), "dev": dev}
        dropped["train"].update(held.dropped)
    return parts, dropped, other, surplus


def _held_out_size(key: str, wish: int, questions: int) -> int:
    """How many questions to hold out: the wish, at most a fifth, at least `FEWEST_DEV_QUESTIONS`."""
    size = max(min(wish, questions // LARGEST_SHARE), min(FEWEST_DEV_QUESTIONS, questions // 2))
    if size != wish:
        log.info("%s: %d instead of %d, of %d questions", key, size, wish, questions)
    return size


def _hold_out(config: DataConfig, rows: PairRows, size: int, usable: dict[str, None], *, salt: int) -> Held:
    """Rows to hold out; `salt` tells the validation draw from the dev draw."""
    if config.source is settings.Source.hub:
        drawn = hold_out_rows(len(rows), size, seed=config.split_seed)
        return whole_questions(drawn, rows, usable) if config.dedupe else drawn  # not: as the published recipe has it
    seed: int | list[int] = config.split_seed if not salt else [config.split_seed, salt]
    return hold_out(rows, size, usable=usable, seed=seed, per_group=config.queries_per_group)


def _clean(rows: PairRows, config: DataConfig, dropped: Counter[str]) -> PairRows:
    """Rows that can be used, in order; `dropped` is counted up by reason."""
    kept: list[int] = []
    seen: set[tuple[object, ...]] = set()
    for row in range(len(rows)):
        if not rows.questions[row].strip():
            dropped["blank_or_null_question"] += 1
        elif not rows.answers[row].strip():
            dropped["blank_or_null_answer"] += 1
        else:
            content = (
                rows.questions[row],
                rows.answers[row],
                None if rows.labels is None else rows.labels[row],
                None if rows.negatives is None else tuple(rows.negatives[row]),
            )
            if config.dedupe and content in seen:
                dropped["exact_duplicate_row"] += 1
                continue
            if config.dedupe:
                seen.add(content)
            kept.append(row)
    if rows.labels is not None:
        positive = {fold(rows.questions[row]) for row in kept if rows.labels[row] >= config.positive_threshold}
        judged = [row for row in kept if fold(rows.questions[row]) in positive]
        if len(judged) < len(kept):
            dropped["question_without_positive"] += len(kept) - len(judged)
        kept = judged
    return rows.take(kept)


def _refuse_the_same(config: DataConfig, train: PairRows, dev: PairRows) -> None:
    """Refuse a dev file whose every pair is a training pair too."""
    pairs = {(fold(q), fold(a)) for q, a in zip(train.questions, train.answers, strict=True)}
    if len(dev) and all((fold(q), fold(a)) in pairs for q, a in zip(dev.questions, dev.answers, strict=True)):
        got = f"{len(dev)} rows that are all in {_name(config)}"
        remedy = "Give other questions, or remove the key to split some off."
        raise DataError(must(f"data.dev_path={config.dev_path}", "hold pairs that are not trained on", got, remedy))


def _corpus(
    config: DataConfig, sources: Sequence[Source], parts: Sequence[PairRows]
) -> tuple[list[str], list[str] | None, Counter[str]]:
    """What is searched: the user's own corpus, the collection's, or every passage of `parts`; distinct by text.

    With ids where there are any, and what was counted while the user's was read.
    """
    if config.corpus_path is not None:
        return read_corpus(Path(config.corpus_path), config)
    given: dict[str, str] = {}
    taken: set[str] = set()
    for number, source in enumerate(sources):
        for text, identifier in zip(source.corpus or [], source.corpus_ids or [], strict=True):
            if text not in given:
                own = identifier if identifier not in taken else f"{identifier}@{number}"
                given[text] = own
                taken.add(own)
    if given:
        return list(given), list(given.values()), Counter()
    passages: dict[str, None] = {}
    for part in parts:
        for row, answer in enumerate(part.answers):
            passages[answer] = None
            if part.negatives is not None:
                passages.update(dict.fromkeys(part.negatives[row]))
    return list(passages), None, Counter()


def _describe(loaded: PairRows, used: PairRows, dropped: Counter[str]) -> dict[str, object]:
    """Counts and lengths (characters) of one part."""
    described: dict[str, object] = {
        "rows_loaded": len(loaded),
        "rows_used": len(used),
        "dropped": dict(sorted(dropped.items())),
        "questions": len({fold(question) for question in used.questions}),
        "question_characters": _lengths(used.questions),
        "answer_characters": _lengths(used.answers),
    }
    if used.groups is not None:
        described["groups"] = len(set(used.groups))
    return described


def _lengths(texts: list[str]) -> dict[str, float]:
    lengths = [len(text) for text in texts]
    return {"min": min(lengths), "mean": round(sum(lengths) / len(lengths), 2), "max": max(lengths)}
