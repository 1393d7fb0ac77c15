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

_SHARE_OF_IDS, _FEWEST_IDS = 0.1, 3
"""From this share and number of a source's answers on, answers that are ids of passages are not so by chance."""

_LONGEST_ID = 64
"""Characters beyond which a text without white space is taken for prose in a script without spaces."""


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
        return all(answer in self.by_id for answer in part.answers)


def read_corpus(path: Path, config: DataConfig, sources: Sequence[Sequence[PairRows]]) -> OwnCorpus:
    """Read the passages of a JSON-lines file and match the texts of `sources`, the parts of each file, with them.

    The text stands under the key `text`, else under the answer column. A title beside `text` is put before it, as in
    BEIR. A text of the parts matches the passage that it equals with its title, else the first that it equals without;
    both are compared folded. Other passages with this text under another title are left out, since each would be taken
    for a wrong answer, unless a text of the parts equals them with their title. If no answer of a source
    matches and some are ids of passages, all of them are taken for ids.

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
    column.check(path)
    passage = {form: texts[0] for form, texts in untitled.items()} | whole
    by_id: dict[str, str] = {}
    for source in sources:
        by_id |= _by_id(named, source, passage, path)
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
    """Whether a text has white space or, as in scripts without spaces, more characters than an id."""
    others: set[str] = field(default_factory=set)
    """Further keys with strings, which may be the passages' texts."""

    def count(self, record: Record, text: str) -> None:
        """Count a record's text."""
        self.texts += 1
        self.is_prose = self.is_prose or len(text.split()) > 1 or len(text) > _LONGEST_ID
        if not self.is_prose:
            config = self.config
            known = {"id", "_id", "title", config.question_column, config.answer_column, config.group_column}
            self.others |= {key for key, value in record.items() if isinstance(value, str) and key not in known}

    def check(self, path: Path) -> None:
        """Log which key is read; refuse one that reads as ids beside another key.

        Raises:
            DataError: naming the keys.
        """
        key = self.config.answer_column
        if self.texts:
            log.info("%s: passages without the key text, which are read from the key %s: %d", path, key, self.texts)
        if self.others and not self.is_prose:
            others = ", ".join(map(repr, sorted(self.others)))
            got = f"only short texts without white space beside the key{'s' * (len(self.others) > 1)} {others}"
            remedy = "Rename the passages' key to `text`, and that of their ids, if any, to `id`."
            raise DataError(must(f"{path}, key {key}", "hold the passages' texts", got, remedy))


def _by_id(named: dict[str, str], parts: Sequence[PairRows], passage: dict[str, str], path: Path) -> dict[str, str]:
    """Return the passages that texts of `parts`, those of one source, name by their ids.

    There are none if an answer is the text of a passage, or if too few answers are ids for this to be no chance.

    Raises:
        DataError: if enough answers are ids, but other answers or listed negatives are not.
    """
    answers = {answer for part in parts for answer in part.answers}
    known = answers & named.keys()
    is_chance = len(known) < max(len(answers) * _SHARE_OF_IDS, _FEWEST_IDS)
    if is_chance or any(fold(answer) in passage for answer in answers):
        return {}
    negatives = {text for part in parts for texts in part.negatives or [] for text in texts}
    unknown = (answers - known) | {text for text in negatives - named.keys() if fold(text) not in passage}
    if unknown:
        total, example = len(answers | negatives), min(unknown)[:80]
        got = f"{total - len(unknown)} that are ids, but {len(unknown)} that are not, such as {example!r}"
        remedy = "Add the passages of these ids, leave their rows out, or write the texts in place of the ids."
        kind = "answers and negatives" if negatives else "answers"
        raise DataError(must(str(path), f"hold a passage for each of {total} {kind}", got, remedy))
    return {text: named[text] for text in (answers | negatives) & named.keys()}


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
