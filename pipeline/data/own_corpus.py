"""A corpus of the user's own, and which answers are passages of it. Knows nothing of retrieval."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config.data import DataConfig
from pipeline.core.errors import DataError, must
from pipeline.core.progress import counted
from pipeline.core.records import PairRows, fold, titled
from pipeline.data.beir import passage_id, read_passage
from pipeline.data.row_builder import mended
from pipeline.data.tables import json_objects

log = logging.getLogger(__name__)

BLANK, REPEATED = "corpus_passages_without_text", "corpus_passages_with_an_earlier_text"
RETITLED = "corpus_passages_with_an_answers_text_under_another_title"
"""Reasons for which passages are left out: texts to search are distinct, and each answer is a single passage."""


@dataclass(slots=True)
class OwnCorpus:
    """Passages with distinct texts, their ids if all passages have one, and counts of what was left out or repaired.

    `passage` maps a folded answer or listed negative to the passage that it equals, if there is one; `by_id` maps one
    that is a passage's id to that passage, and is empty unless all answers are ids.
    """

    texts: list[str]
    ids: list[str] | None
    counts: Counter[str]
    passage: dict[str, str]
    by_id: dict[str, str]

    def placed(self, part: PairRows) -> PairRows:
        """Replace a part's answers and listed negatives by the passages that they equal or name, titles included."""
        negatives = part.negatives
        return replace(
            part,
            answers=[self._placed(text) for text in part.answers],
            negatives=None if negatives is None else [[self._placed(text) for text in texts] for texts in negatives],
        )

    def _placed(self, text: str) -> str:
        return self.by_id.get(text) or self.passage.get(fold(text), text)


def read_corpus(path: Path, config: DataConfig, parts: Sequence[PairRows] = ()) -> OwnCorpus:
    """Read the passages of a JSON-lines file and match the texts of `parts` with them.

    The text stands under the key `text`, else under the answer column. A title beside `text` is put before it, as in
    BEIR. A text of `parts` matches the passage that it equals with its title, else the first that it equals without;
    both are compared folded. Other passages with this text under another title are left out, since each would be taken
    for a wrong answer, unless a text of `parts` equals them with their title. If no answer matches and most are ids of
    passages, all of them are taken for ids.

    Raises:
        DataError: if a line lacks the key, its text or title is not a string, an id occurs twice, no passage is left,
        or one of the answers taken for ids is none.
    """
    first: dict[str, str | None] = {}
    seen: set[str] = set()
    given = {text for part in parts for texts in (part.answers, *(part.negatives or [])) for text in texts}
    wanted, named = set(map(fold, given)), dict[str, str]()
    whole, untitled = dict[str, str](), dict[str, list[str]]()
    counts = Counter[str]()
    for line, record in counted(json_objects(path), "reading passages"):
        key = "text" if "text" in record or config.answer_column not in record else config.answer_column
        title, own = read_passage(record, f"{path}, line {line}", key, with_title=key == "text")
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
    by_id = _by_id(named, parts, passage, path)
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


def _by_id(named: dict[str, str], parts: Sequence[PairRows], passage: dict[str, str], path: Path) -> dict[str, str]:
    """Return the passages that texts of `parts` name by their ids.

    There are none if an answer is the text of a passage, or unless more than half of the answers are ids.

    Raises:
        DataError: if most answers are ids, but other answers or listed negatives are not.
    """
    answers = {answer for part in parts for answer in part.answers}
    unknown = answers - named.keys()
    if len(unknown) * 2 >= len(answers) or any(fold(answer) in passage for answer in answers):
        return {}
    negatives = {text for part in parts for texts in part.negatives or [] for text in texts}
    unknown |= {text for text in negatives - named.keys() if fold(text) not in passage}
    if unknown:
        total, example = len(answers | negatives), min(unknown)[:80]
        got = f"{total - len(unknown)} that are ids, but {len(unknown)} that are not, such as {example!r}"
        remedy = "Add the passages of these ids, leave their rows out, or write the texts in place of the ids."
        kind = "answers and negatives" if negatives else "answers"
        raise DataError(must(str(path), f"hold a passage for each of {total} {kind}", got, remedy))
    return named


def say_placed(corpus: OwnCorpus, config: DataConfig, parts: Iterable[PairRows]) -> dict[str, int]:
    """Log how many distinct answers are passages of the corpus, by text or id; warn if none is. Return the counts."""
    answers = {fold(answer) for part in parts for answer in part.answers}
    found = sum(answer in corpus.passage for answer in answers)
    if corpus.by_id:
        found = len(answers)
        log.info("data.corpus_path=%s: all %d answers are ids of its passages", config.corpus_path, found)
    elif found:
        log.info(
            "data.corpus_path=%s: %d of %d answers are among its passages", config.corpus_path, found, len(answers)
        )
    else:
        log.warning(
            "data.corpus_path=%s: none of %d answers is among its passages, with the title or without. They are added "
            "to the passages, and a passage that answers a question in other words is taken for a wrong answer",
            config.corpus_path, len(answers),
        )  # fmt: skip
    return {"answers": len(answers), "answers_in_corpus": found}
