"""A corpus of the user's own, and which answers are passages of it. Knows nothing of retrieval."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.config.data import DataConfig
from pipeline.core.errors import DataError, must
from pipeline.core.progress import counted
from pipeline.core.records import PairRows, fold, titled
from pipeline.data.beir import passage_id, read_passage
from pipeline.data.row_builder import mended
from pipeline.data.tables import Record, json_objects

log = logging.getLogger(__name__)

BLANK, REPEATED = "corpus_passages_without_text", "corpus_passages_with_an_earlier_text"
RETITLED = "corpus_passages_with_an_answers_text_under_another_title"
"""Reasons for which passages are left out: texts to search are distinct, and each answer is a single passage."""

_LONGEST_ID = 64
"""Characters beyond which a text is not taken for an id."""


@dataclass(slots=True)
class OwnCorpus:
    """Passages with distinct texts, their ids if all passages have one, and counts of what was left out or repaired.

    `passage` maps a folded answer or listed negative to the passage that it equals, if there is one; `by_id` maps the
    ids to their passages, of the sources whose answers are all ids.
    """

    texts: list[str]
    ids: list[str] | None
    counts: Counter[str]
    passage: dict[str, str]
    by_id: dict[str, str]

    def placed(self, part: PairRows) -> PairRows:
        """Replace a part's answers and listed negatives by the passages that they equal or name, titles included."""
        named = self.by_id if self.has_ids(part) else {}

        def placed(texts: list[str]) -> list[str]:
            return [named.get(text) or self.passage.get(fold(text), text) for text in texts]

        negatives = None if part.negatives is None else [placed(texts) for texts in part.negatives]
        return replace(part, answers=placed(part.answers), negatives=negatives)

    def has_ids(self, part: PairRows) -> bool:
        """Return whether a part's answers are ids of passages."""
        return bool(part.answers) and all(answer in self.by_id for answer in part.answers)


def read_corpus(path: Path, config: DataConfig, sources: Sequence[Sequence[PairRows]]) -> OwnCorpus:
    """Read the passages of a JSON-lines file and match the texts of `sources`, the parts of each file, with them.

    The text stands under the key `text`, else under the answer column. A title beside `text` is put before it, as in
    BEIR. A text of the parts matches the passage that it equals with its title, else the first that it equals without;
    both are compared folded. Other passages with this text under another title are left out, since each would be taken
    for a wrong answer, unless a text of the parts equals them with their title. If half of a source's answers or more
    are ids of passages, all of them are taken for ids.

    Raises:
        DataError: if a line lacks the key, its text or title is not a string, an id occurs twice, no passage is left,
        the answer column reads as ids beside another column, or one of the answers taken for ids is none.
    """
    first: dict[str, str | None] = {}
    seen: set[str] = set()
    parts = [part for source in sources for part in source]
    given = {text for part in parts for texts in (part.answers, *(part.negatives or [])) for text in texts}
    wanted, named = set(map(fold, given)), dict[str, str]()
    whole, untitled = dict[str, str](), dict[str, list[str]]()
    counts, column = Counter[str](), _AnswerColumn(config)
    for line, record in counted(json_objects(path), "reading passages"):
        key = "text" if "text" in record or config.answer_column not in record else config.answer_column
        title, own = read_passage(record, f"{path}, line {line}", key, with_title=key == "text")
        if key != "text":
            column.count(record, own)
        title, own = mended(title, counts), mended(own, counts)
        text, identifier = titled(title, own), passage_id(record)
        if identifier is not None:
            if identifier in seen:
                got = repr(identifier)
                raise DataError(must(f"{path}, line {line}", "have a unique id", got, "Rename it."))
            seen.add(identifier)
        folded = fold(text)
        if identifier in given and folded:
            named[identifier] = text
        if not folded:
            counts[BLANK] += 1
        elif text in first:
            counts[REPEATED] += 1
        else:
            first[text] = identifier
            if folded in wanted:
                whole.setdefault(folded, text)
            if title and (form := fold(own)) in wanted:
                untitled.setdefault(form, []).append(text)
    passage = {form: texts[0] for form, texts in untitled.items()} | whole
    column.check(path, is_matched=bool(passage))
    by_id: dict[str, str] = {}
    for found in sorted((_matches(named, source, passage) for source in sources), key=lambda found: -found.share):
        by_id |= _by_id(named, found, passage, path, is_certain=bool(by_id))
    meant = set(by_id.values())
    for form, texts in untitled.items():
        for text in texts:
            if text != passage[form] and fold(text) not in whole and text not in meant:
                counts[RETITLED] += 1
                del first[text]
    if not first:
        raise DataError(must(str(path), "hold passages", "none", 'Write {"text": …} on each line (data.corpus_path).'))
    ids = [identifier for identifier in first.values() if identifier is not None]
    log.info(
        "%s: %d passages to search; left out: %d without text, %d that repeat an earlier one, %d with an answer's text "
        "under another title", path, len(first), counts[BLANK], counts[REPEATED], counts[RETITLED],
    )  # fmt: skip
    return OwnCorpus(list(first), ids if len(ids) == len(first) else None, +counts, passage, by_id)


@dataclass(slots=True)
class _AnswerColumn:
    """Counts of the texts that are read from the answer column, for want of a key `text`."""

    config: DataConfig
    texts: int = 0
    is_prose: bool = False
    """Whether a text is no id: it has white space, characters beyond ASCII or more of them than an id."""
    others: set[str] = field(default_factory=set)
    """Further keys with strings, which may be the passages' texts."""

    def count(self, record: Record, text: str) -> None:
        """Count a record's text."""
        self.texts += 1
        self.is_prose = self.is_prose or len(text.split()) > 1 or len(text) > _LONGEST_ID or not text.isascii()
        if not self.is_prose:
            config = self.config
            known = {"id", "_id", "title", config.question_column, config.answer_column, config.group_column}
            self.others |= {key for key, value in record.items() if isinstance(value, str) and key not in known}

    def check(self, path: Path, *, is_matched: bool) -> None:
        """Log which key is read; refuse one that reads as ids beside another key, unless a text of it `is_matched`.

        Raises:
            DataError: naming the keys.
        """
        key = self.config.answer_column
        if self.texts:
            log.info("%s: passages without the key text, which are read from the key %s: %d", path, key, self.texts)
        if self.others and not self.is_prose and not is_matched:
            others = ", ".join(map(repr, sorted(self.others)))
            got = f"only short texts without white space beside the key{'s' * (len(self.others) > 1)} {others}"
            remedy = "Rename the passages' key to `text`, and that of their ids, if any, to `id`."
            raise DataError(must(f"{path}, key {key}", "hold the passages' texts", got, remedy))


@dataclass(slots=True)
class _Matches:
    """Distinct answers and listed negatives of a source.

    `ids` are the answers that are ids of passages; `texts` is the number of answers that are texts of passages, counted
    only if some are ids.
    """

    answers: set[str]
    negatives: set[str]
    ids: set[str]
    texts: int

    @property
    def share(self) -> float:
        """The share of answers that are ids, 0 if as many are texts: some texts may be ids by chance."""
        return len(self.ids) / len(self.answers) if len(self.ids) > self.texts else 0.0


def _matches(named: dict[str, str], parts: Sequence[PairRows], passage: dict[str, str]) -> _Matches:
    answers = {answer for part in parts for answer in part.answers}
    negatives = {text for part in parts for texts in part.negatives or [] for text in texts}
    ids = answers & named.keys()
    return _Matches(answers, negatives, ids, sum(fold(answer) in passage for answer in answers) if ids else 0)


def _by_id(
    named: dict[str, str], found: _Matches, passage: dict[str, str], path: Path, *, is_certain: bool
) -> dict[str, str]:
    """Return the passages that a source's texts name by their ids.

    There are none unless half of the answers are ids, or any if another source's answers are (`is_certain`), and more
    than are texts of passages. A listed negative that is neither an id nor a text of a passage stays a text.

    Raises:
        DataError: if so many answers are ids, but others are not.
    """
    if not found.share or (found.share < 0.5 and not is_certain):
        if found.ids and not found.texts:
            log.warning(
                "%s: %d of %d answers are ids of its passages, such as %r, but all are read as texts", path,
                len(found.ids), len(found.answers), min(found.ids)[:80],
            )  # fmt: skip
        return {}
    if unknown := found.answers - found.ids:
        got = f"{len(found.ids)} that are ids, but {len(unknown)} that are not, such as {min(unknown)[:80]!r}"
        remedy = "Add the passages of these ids, leave their rows out, or write the texts in place of the ids."
        raise DataError(must(str(path), f"hold a passage for each of {len(found.answers)} answers", got, remedy))
    if strange := {text for text in found.negatives - named.keys() if fold(text) not in passage}:
        log.warning(
            "%s: %d of %d listed negatives are neither ids nor texts of its passages, such as %r: they are read as "
            "texts", path, len(strange), len(found.negatives), min(strange)[:80],
        )  # fmt: skip
    return {text: named[text] for text in (found.answers | found.negatives) & named.keys()}


def say_placed(corpus: OwnCorpus, config: DataConfig, parts: Iterable[PairRows]) -> dict[str, int]:
    """Log how many distinct answers are passages of the corpus, by text or id; warn if none is. Return the counts."""
    by_id, texts = set[str](), set[str]()
    for part in parts:
        if corpus.has_ids(part):
            by_id.update(part.answers)
        else:
            texts.update(map(fold, part.answers))
    total, found = len(by_id) + len(texts), len(by_id) + sum(text in corpus.passage for text in texts)
    place = f"data.corpus_path={config.corpus_path}"
    if not texts:
        log.info("%s: all %d answers are ids of its passages", place, total)
    elif found:
        ids = f", {len(by_id)} of them by their ids" if by_id else ""
        log.info("%s: %d of %d answers are among its passages%s", place, found, total, ids)
    else:
        log.warning(
            "%s: none of %d answers is among its passages, with the title or without. They are added to the passages, "
            "and a passage that answers a question in other words is taken for a wrong answer. If the answers are ids, "
            "the corpus must have them under the key `id` or `_id`", place, total,
        )  # fmt: skip
    return {"answers": total, "answers_in_corpus": found}
