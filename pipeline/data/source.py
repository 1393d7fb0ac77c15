"""From a configured source to a split: read, take the first rows, draw a subset, split, and only then clean.

Knows the sources and their rules; knows nothing of retrieval or of stages.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config.data import DataConfig, Format, Source
from pipeline.core.errors import DataError, must
from pipeline.core.records import PairRows, Split, fold
from pipeline.data import checks
from pipeline.data.beir import QRELS_FILES
from pipeline.data.cleaning import clean, describe, usable_questions
from pipeline.data.own_corpus import read_corpus, say_placed
from pipeline.data.packaged_docs import extract
from pipeline.data.readers import Loaded, read, read_hub
from pipeline.data.splitting import Held, hold_out, hold_out_rows, subset, whole_questions

log = logging.getLogger(__name__)

FEWEST_QUESTIONS = 100
"""Fewest usable questions to train on."""

FEWEST_DEV_QUESTIONS = 20

HELD_OUT_ONE_IN = 5
"""At most one question in this many is held out for each of the dev and validation parts, unless that gives too few."""


def load(config: DataConfig, *, source: Path | None, cache: Path, workers: int | None = None) -> Split:
    """Load the source and return its training, dev and validation parts, its corpus and statistics.

    Args:
        config: The `data` section.
        source: The located file or folder, for a hub data set its local copy; None takes `data.path`.
        cache: Folder for extracted docstrings and for the files that `datasets` converts.
        workers: Number of processes that read docstrings; no result depends on it.

    Raises:
        DataError: naming file, line, key and remedy in one sentence.
    """
    for key, path in (("data.dev_path", config.dev_path), ("data.corpus_path", config.corpus_path)):
        if path is not None and not Path(path).exists():
            raise DataError(must(f"{key}={path}", "exist", "nothing there", "Correct the path."))
    loaded = _read(config, source, cache, workers)
    statistics: dict[str, object] = {"rows_read": len(loaded.rows)}
    rows = _limited(config, loaded.rows)
    if len(rows) < len(loaded.rows):
        statistics["rows_after_limit"] = len(rows)
    split = _split(config, rows, _usable(config, rows))
    whole = {name: len(part) + sum(split.dropped[name].values()) for name, part in split.parts.items()}
    cleaned = _cleaned(config, split)
    if config.corpus_path is None and loaded.corpus is None:
        checks.refuse_one_text(config, cleaned["train"])
    checks.warn_of_a_wide_interval(cleaned["dev"])
    unused = [clean(part, config, Counter()) for part in split.surplus]
    aliases: dict[str, str] = {}
    renamed: list[str] = []
    sources = [loaded, *([split.dev_file] if split.dev_file else [])]
    counts = sum((source.counts for source in sources), Counter[str]())
    if config.corpus_path is not None:
        dev_only = [cleaned["dev"]] if split.dev_file else []
        others = [part for name, part in cleaned.items() if name != "dev" or not dev_only]
        own = read_corpus(Path(config.corpus_path), config, [[*others, *unused], dev_only])
        statistics["corpus"] = say_placed(own, config, cleaned.values())
        cleaned = {name: own.placed(part) for name, part in cleaned.items()}
        unused = [own.placed(part) for part in unused]
        corpus, ids = own.texts, own.ids
        counts += own.counts
    else:
        corpus, ids, aliases, renamed = _corpus(sources, [*cleaned.values(), *unused])
    statistics["reading"] = dict(sorted(counts.items()))
    statistics["parts"] = {
        name: describe(split.parts[name], part, split.dropped[name]) for name, part in cleaned.items()
    }
    checks.say_cleaned(counts, cleaned, whole, split.dropped)
    return Split(
        cleaned["train"], cleaned["dev"], cleaned.get("validation"), corpus, ids, statistics,
        dev_file=config.dev_path or "", unused=PairRows.joined(unused), aliases=aliases, renamed=renamed,
    )  # fmt: skip


def _read(config: DataConfig, source: Path | None, cache: Path, workers: int | None) -> Loaded:
    """Read the source, at most its first `data.rows` rows."""
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


def _limited(config: DataConfig, rows: PairRows) -> PairRows:
    """Return the rows, or a random subset of at most `data.limit` if there are more."""
    if config.limit is None or config.limit >= len(rows):
        return rows
    return rows.take(subset(rows, config.limit, config.split_seed))


def _usable(config: DataConfig, rows: PairRows) -> dict[str, None]:
    """Return the usable questions; refuse fewer than `FEWEST_QUESTIONS`."""
    if config.format is Format.labelled and rows.labels is not None:
        checks.say_labels(rows.labels, config.positive_threshold)
    usable = usable_questions(rows, config.positive_threshold)
    if len(usable) < FEWEST_QUESTIONS:
        rule = f"hold at least {FEWEST_QUESTIONS} usable questions"
        raise DataError(must(checks.name_of(config), rule, len(usable), checks.more_questions(config)))
    return usable


@dataclass(slots=True)
class _SplitRows:
    """Rows split into parts, before cleaning."""

    parts: dict[str, PairRows]
    dropped: dict[str, Counter[str]]
    """Counts of rows that the split dropped from each part, by reason; cleaning adds its own."""
    dev_file: Loaded | None
    """Content of `data.dev_path`, if that is given."""
    surplus: list[PairRows]
    """Rows of held-out groups that are in no part; their passages are still searched."""


def _split(config: DataConfig, rows: PairRows, usable: dict[str, None]) -> _SplitRows:
    """Split into train, dev (read from `data.dev_path` if given) and, if asked for, validation."""
    dev_file = None
    surplus: list[PairRows] = []
    dropped = {name: Counter[str]() for name in ("train", "dev", "validation")}
    if config.dev_path is not None:
        dev_file = read(Path(config.dev_path), replace(config, rows=None), QRELS_FILES)
        train, dev = rows, dev_file.rows
        questions = len(usable_questions(dev, config.positive_threshold))
        if questions < FEWEST_DEV_QUESTIONS:
            rule = f"hold at least {FEWEST_DEV_QUESTIONS} usable questions"
            remedy = "Give more, or remove the key to split some off the training rows."
            raise DataError(must(f"data.dev_path={config.dev_path}", rule, questions, remedy))
    else:
        size = _held_out_size("data.dev_queries", config.dev_queries, len(usable), "questions")
        held = _hold_out(config, rows, size, usable, salt=0)
        train, dev = rows.take(held.rest), rows.take(held.held)
        surplus.append(rows.take(held.surplus))
        dropped["train"].update(_surplus(held))
    parts = {"train": train, "dev": dev}
    if config.validation_queries:
        # A dev file's questions may be in train too. They are dropped from train as leaks and must not choose a
        # checkpoint either. A question with surplus rows in dev's groups would lack their judgements.
        asked = {fold(question) for part in (dev, *surplus) for question in part.questions}
        trained = usable_questions(train, config.positive_threshold)
        usable = {q: None for q in trained if q not in asked}
        if not usable and dev_file is not None:
            got = f"all {len(trained)} of them in it"
            remedy = "Give it other questions, or remove the key to split some off the training rows."
            raise DataError(must(f"data.dev_path={config.dev_path}", "leave questions to train on", got, remedy))
        left = "questions that are not in the dev part or its groups"
        size = _held_out_size("data.validation_queries", config.validation_queries, len(usable), left)
        held = _hold_out(config, train, size, usable, salt=1)
        surplus.append(train.take(held.surplus))
        parts = {"train": train.take(held.rest), "validation": train.take(held.held), "dev": dev}
        dropped["train"].update(_surplus(held))
    return _SplitRows(parts, dropped, dev_file, surplus)


def _cleaned(config: DataConfig, split: _SplitRows) -> dict[str, PairRows]:
    """Return each part's usable rows and count the others in `split.dropped`; refuse a part without usable rows."""
    cleaned = {name: clean(part, config, split.dropped[name]) for name, part in split.parts.items()}
    if split.dev_file is not None:
        checks.refuse_the_same(config, cleaned["train"], cleaned["dev"])
    for name, part in cleaned.items():
        if not len(part):
            remedy = "Lower data.dev_queries and data.validation_queries, or use more or smaller groups."
            if split.dev_file is not None:
                remedy = "Lower data.validation_queries, or use more or smaller groups."
            got = "none"
            if name == "train" and split.parts["train"].groups == []:
                held = "validation" if split.dev_file else "dev or validation" if config.validation_queries else "dev"
                got = f"none, because all rows are in groups held out for {held}"
            raise DataError(must(f"the {name} part of {checks.name_of(config)}", "hold usable rows", got, remedy))
    return cleaned


def _surplus(held: Held) -> dict[str, int]:
    return {checks.SURPLUS: len(held.surplus)} if held.surplus else {}


def _held_out_size(key: str, wish: int, questions: int, what: str) -> int:
    """Return `wish`, at most one question in `HELD_OUT_ONE_IN`, at least `FEWEST_DEV_QUESTIONS` or half of all.

    `what` says in the log which questions are counted.
    """
    size = max(min(wish, questions // HELD_OUT_ONE_IN), min(FEWEST_DEV_QUESTIONS, questions // 2))
    if size != wish:
        log.info("%s: %d instead of %d, because there are only %d %s", key, size, wish, questions, what)
    return size


def _hold_out(config: DataConfig, rows: PairRows, size: int, usable: dict[str, None], *, salt: int) -> Held:
    """Choose the rows to hold out.

    `salt` makes the validation draw differ from the dev draw. Hub rows without groups are drawn without it.
    """
    if config.source is Source.hub and rows.groups is None:
        drawn = hold_out_rows(len(rows), size, seed=config.split_seed)
        return whole_questions(drawn, rows, usable) if config.dedupe else drawn  # else as the published recipe does
    seed: int | list[int] = config.split_seed if not salt else [config.split_seed, salt]
    most, threshold = config.queries_per_group, config.positive_threshold
    return hold_out(rows, size, usable=usable, seed=seed, per_group=most, threshold=threshold)


def _corpus(
    sources: Sequence[Loaded], parts: Sequence[PairRows]
) -> tuple[list[str], list[str] | None, dict[str, str], list[str]]:
    """Return the passages to search (distinct by text), their ids if any, the aliases and the renamed ids.

    The passages are those of the sources' collections or, without a collection, every passage of `parts`. An alias maps
    another id of a text to the id used here. Renamed ids are those that a later collection gives to other texts than an
    earlier one; a text that is new in the later collection then gets a new id.
    """
    given: dict[str, str] = {}
    known: dict[str, str] = {}
    taken: set[str] = set()
    renamed: list[str] = []
    for number, source in enumerate(sources):
        here: dict[str, str] = {}
        for text, identifier in zip(source.corpus or [], source.corpus_ids or [], strict=True):
            if text not in given:
                own = identifier
                while own in known or own in taken:
                    own = f"{own}@{number}"
                given[text] = own
                taken.add(own)
            here[identifier] = given[text]
        here |= {dropped: here[kept] for dropped, kept in source.aliases.items()}
        renamed += [identifier for identifier, name in here.items() if known.setdefault(identifier, name) != name]
    if given:
        aliases = {identifier: name for identifier, name in known.items() if identifier != name}
        return list(given), list(given.values()), aliases, renamed
    passages: dict[str, None] = {}
    for part in parts:
        for row, answer in enumerate(part.answers):
            passages[answer] = None
            if part.negatives is not None:
                passages.update(dict.fromkeys(part.negatives[row]))
    return list(passages), None, {}, renamed
