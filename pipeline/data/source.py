"""From a configured source to a split: read, take the first rows, draw a subset, split, and only then clean.

Knows the sources and their rules; not how candidates are found or what a stage is.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config.data import DataConfig, Source
from pipeline.core.errors import DataError, must
from pipeline.core.records import PairRows, Split, fold
from pipeline.data.beir import QRELS_FILES
from pipeline.data.cleaning import clean, describe, usable_questions
from pipeline.data.own_corpus import read_corpus, say_placed
from pipeline.data.packaged_docs import extract
from pipeline.data.readers import Loaded, read, read_hub
from pipeline.data.row_builder import PUT_RIGHT
from pipeline.data.splitting import Held, hold_out, hold_out_rows, subset, whole_questions

log = logging.getLogger(__name__)

FEWEST_QUESTIONS = 100
"""Usable questions below which nothing is trained."""

FEWEST_DEV_QUESTIONS = 20

HELD_OUT_ONE_IN = 5
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
    usable = usable_questions(rows, config.positive_threshold)
    if len(usable) < FEWEST_QUESTIONS:
        remedy = "Give more rows, raise data.rows or data.limit, or check the columns and data.positive_threshold."
        raise DataError(must(_name(config), f"hold at least {FEWEST_QUESTIONS} usable questions", len(usable), remedy))
    split = _split(config, rows, usable)
    whole = {name: len(part) + sum(split.dropped[name].values()) for name, part in split.parts.items()}
    cleaned = {name: clean(part, config, split.dropped[name]) for name, part in split.parts.items()}
    if split.dev_file is not None:
        _refuse_the_same(config, cleaned["train"], cleaned["dev"])
    for name, part in cleaned.items():
        if not len(part):
            remedy = "Use fewer data.dev_queries and data.validation_queries, or more or smaller groups."
            if split.dev_file is not None:
                remedy = "Use fewer data.validation_queries, or more or smaller groups."
            raise DataError(must(f"the {name} part of {_name(config)}", "hold usable rows", "none", remedy))
    if config.corpus_path is None and loaded.corpus is None:
        _refuse_one_text(config, cleaned["train"])
    _warn_of_a_wide_interval(cleaned["dev"])
    unused = [clean(part, config, Counter()) for part in split.surplus]
    renamed: list[str] = []
    sources = [loaded, *([split.dev_file] if split.dev_file else [])]
    counts = sum((source.counts for source in sources), Counter[str]())
    if config.corpus_path is not None:
        own = read_corpus(Path(config.corpus_path), config, [*cleaned.values(), *unused])
        statistics["corpus"] = say_placed(own, config, cleaned.values())
        cleaned = {name: own.placed(part) for name, part in cleaned.items()}
        unused = [own.placed(part) for part in unused]
        corpus, ids = own.texts, own.ids
        counts += own.counts
    else:
        corpus, ids, renamed = _corpus(sources, [*cleaned.values(), *unused])
    statistics["reading"] = dict(sorted(counts.items()))
    statistics["parts"] = {
        name: describe(split.parts[name], part, split.dropped[name]) for name, part in cleaned.items()
    }
    _say_cleaned(counts, cleaned, whole, split.dropped)
    aliases = {dropped: kept for source in reversed(sources) for dropped, kept in source.aliases.items()}
    return Split(
        cleaned["train"], cleaned["dev"], cleaned.get("validation"), corpus, ids, statistics,
        dev_file=config.dev_path or "", unused=PairRows.joined(unused), aliases=aliases, renamed=renamed,
    )  # fmt: skip


def _say_cleaned(
    counts: Counter[str], cleaned: dict[str, PairRows], whole: dict[str, int], dropped: dict[str, Counter[str]]
) -> None:
    """What was put right while reading, and of each part how many of its rows are usable and why others are not."""
    if mended := "; ".join(f"{counts[kind]} {words}" for kind, words in PUT_RIGHT.items() if counts[kind]):
        log.info("put right while reading: %s", mended)
    for name, part in cleaned.items():
        reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(dropped[name].items())) or "none"
        log.info("%s: %d of %d rows usable; dropped: %s", name, len(part), whole[name], reasons)


def _warn_of_a_wide_interval(dev: PairRows) -> None:
    questions = len({fold(question) for question in dev.questions})
    if questions < WIDE_INTERVAL_BELOW:
        width = 2 * 1.96 * PAIRED_SPREAD / math.sqrt(questions)
        message = "only %d dev questions: a 95 %% interval of an nDCG@10 difference will be about %.2f wide"
        log.warning(message, questions, width)


def _name(config: DataConfig) -> str:
    return config.path or "+".join(config.packages)


def _read(config: DataConfig, source: Path | None, cache: Path, workers: int | None) -> Loaded:
    """The rows as loaded, the first `data.rows` of them."""
    if config.source is Source.packaged_docs:
        extraction = extract(config.packages, cache, workers)
        rows = extraction.rows
        if config.rows is not None:
            rows = rows.take(list(range(min(config.rows, len(rows)))))
        return Loaded(rows, counts=Counter(extraction.counts))
    path = source or Path(config.path or "")
    if config.source is Source.hub:
        return read_hub(path, config, cache)
    return read(path, config)


@dataclass(slots=True)
class _SplitRows:
    """Rows split into parts, none of them cleaned yet."""

    parts: dict[str, PairRows]
    dropped: dict[str, Counter[str]]
    """What the split itself dropped of each part, by reason."""
    dev_file: Loaded | None
    """What `data.dev_path` holds, where it is given."""
    surplus: list[PairRows]
    """Rows of held-out groups that no part takes: their passages are searched."""


def _split(config: DataConfig, rows: PairRows, usable: dict[str, None]) -> _SplitRows:
    """Train and dev, the user's own or split off, and a validation part where one is asked for."""
    dev_file = None
    surplus: list[PairRows] = []
    dropped = {name: Counter[str]() for name in ("train", "dev", "validation")}
    if config.dev_path is not None:
        dev_file = read(Path(config.dev_path), replace(config, rows=None), QRELS_FILES)
        train, dev = rows, dev_file.rows
        questions = len(usable_questions(dev, config.positive_threshold))
        if questions < FEWEST_DEV_QUESTIONS:
            rule = f"hold at least {FEWEST_DEV_QUESTIONS} usable questions"
            remedy = "Give more, or remove the key to split some off."
            raise DataError(must(f"data.dev_path={config.dev_path}", rule, questions, remedy))
    else:
        size = _held_out_size("data.dev_queries", config.dev_queries, len(usable))
        held = _hold_out(config, rows, size, usable, salt=0)
        train, dev = rows.take(held.rest), rows.take(held.held)
        surplus.append(rows.take(held.surplus))
        dropped["train"].update(_surplus(held))
    parts = {"train": train, "dev": dev}
    if config.validation_queries:
        # A dev file's questions may be in train too: dropped there as leaks, they must not choose a checkpoint either.
        # One with rows in dev's groups, which are in no part, would lack judgements.
        asked = {fold(question) for part in (dev, *surplus) for question in part.questions}
        trained = usable_questions(train, config.positive_threshold)
        usable = {q: None for q in trained if q not in asked}
        if not usable and dev_file is not None:
            got, remedy = f"all {len(trained)} of them in it", "Give it others, or remove the key to split some off."
            raise DataError(must(f"data.dev_path={config.dev_path}", "leave questions to train on", got, remedy))
        size = _held_out_size("data.validation_queries", config.validation_queries, len(usable))
        held = _hold_out(config, train, size, usable, salt=1)
        surplus.append(train.take(held.surplus))
        parts = {"train": train.take(held.rest), "validation": train.take(held.held), "dev": dev}
        dropped["train"].update(_surplus(held))
    return _SplitRows(parts, dropped, dev_file, surplus)


def _surplus(held: Held) -> dict[str, int]:
    return {"surplus_of_a_held_out_group": len(held.surplus)} if held.surplus else {}


def _held_out_size(key: str, wish: int, questions: int) -> int:
    """How many questions to hold out: the wish, at most one in `HELD_OUT_ONE_IN`, at least `FEWEST_DEV_QUESTIONS`."""
    size = max(min(wish, questions // HELD_OUT_ONE_IN), min(FEWEST_DEV_QUESTIONS, questions // 2))
    if size != wish:
        log.info("%s: %d instead of %d, of %d questions", key, size, wish, questions)
    return size


def _hold_out(config: DataConfig, rows: PairRows, size: int, usable: dict[str, None], *, salt: int) -> Held:
    """Rows to hold out; `salt` tells the validation draw from the dev draw."""
    if config.source is Source.hub:
        drawn = hold_out_rows(len(rows), size, seed=config.split_seed)
        return whole_questions(drawn, rows, usable) if config.dedupe else drawn  # not: as the published recipe has it
    seed: int | list[int] = config.split_seed if not salt else [config.split_seed, salt]
    return hold_out(rows, size, usable=usable, seed=seed, per_group=config.queries_per_group)


def _refuse_the_same(config: DataConfig, train: PairRows, dev: PairRows) -> None:
    """Refuse a dev file whose every pair is a training pair too."""
    pairs = {(fold(q), fold(a)) for q, a in zip(train.questions, train.answers, strict=True)}
    if len(dev) and all((fold(q), fold(a)) in pairs for q, a in zip(dev.questions, dev.answers, strict=True)):
        got = f"{len(dev)} rows that are all in {_name(config)}"
        remedy = "Give other questions, or remove the key to split some off."
        raise DataError(must(f"data.dev_path={config.dev_path}", "hold pairs that are not trained on", got, remedy))


def _refuse_one_text(config: DataConfig, train: PairRows) -> None:
    """Refuse training rows that hold one passage: nothing can be a wrong answer."""
    passages = {fold(text) for texts in (train.answers, *(train.negatives or [])) for text in texts}
    if len(passages) == 1:
        got = f"one in all {len(train)} training rows, {next(iter(passages))[:60]!r}"
        remedy = "Name the column of the passages: data.answer_column=<column>."
        raise DataError(must(_name(config), "hold answers that differ", got, remedy))


def _corpus(sources: Sequence[Loaded], parts: Sequence[PairRows]) -> tuple[list[str], list[str] | None, list[str]]:
    """What is searched: the collection's passages, or every passage of `parts`; distinct by text, with ids if any.

    Last come the ids that a later collection has for other texts: there they get a name of their own.
    """
    given: dict[str, str] = {}
    taken: set[str] = set()
    renamed: list[str] = []
    for number, source in enumerate(sources):
        for text, identifier in zip(source.corpus or [], source.corpus_ids or [], strict=True):
            if text not in given:
                own = identifier
                if identifier in taken:
                    own = f"{identifier}@{number}"
                    renamed.append(identifier)
                given[text] = own
                taken.add(own)
    if given:
        return list(given), list(given.values()), renamed
    passages: dict[str, None] = {}
    for part in parts:
        for row, answer in enumerate(part.answers):
            passages[answer] = None
            if part.negatives is not None:
                passages.update(dict.fromkeys(part.negatives[row]))
    return list(passages), None, renamed
