"""Turn a docstring into a query (its first sentence) and a passage (what follows), or say why it gives none.

Works on plain text; knows neither markup nor files.
"""

from __future__ import annotations

import re

from pipeline.data.docstring_paragraphs import paragraphs

PASSAGE_CHARACTERS = 400
"""A passage ends at the last sentence that fits into this many characters."""

QUERY_CHARACTERS = (20, 200)
PASSAGE_MINIMUM = 80
QUERY_WORDS = 4
PASSAGE_WORDS = 12

_SIGNATURE = re.compile(r"^[\w.]+\(.*\)(\s*(->|→|--|=).*)?$")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9`])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|viz|resp|al|eq|eqs|fig|figs|sec|no|vol|pp|dr|prof|approx|ref|refs|ch|st|mr|def)"
    r"|\b[A-Z]|\bw\.r\.t|\ba\.k\.a)\.[\"')\]]*$",
    re.I,
)
_TEMPLATE = re.compile(r"%\(\w+\)s|\{\w*\}|\$\w*\{|@\w+@")
_BOILERPLATE = re.compile(
    r"^(see\b|deprecated|alias\b|todo|fixme|xxx|notes?:|warning:|tests?\b|testing\b|same as|overrid|override|internal"
    r"|auto-?generated|automatically generated|copied|adapted from|copyright|licen[sc]e|created on|author|this file"
    r"|this module$|this is an? (?:auto|internal|private|temporary)|undocumented|not implemented|placeholder|dummy|stub"
    r"|part of|for internal|private|implementation of|helper\b|base class\b.{0,20}$|\(?experimental"
    r"|initiali[sz]es? self|this class method|built-in|\w+\s*(?:\([^)]*\))?:)",
    re.I,
)


def sentences(text: str) -> list[str]:
    """Return the sentences of one paragraph in order. The full stop of an abbreviation does not end a sentence."""
    found: list[str] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if not _ABBREVIATION.search(text, start, match.start()):
            found.append(text[start : match.end()].strip())
            start = match.end()
    if text[start:].strip():
        found.append(text[start:].strip())
    return found


def _cut(texts: list[str]) -> str:
    """Join sentences until the next would exceed `PASSAGE_CHARACTERS`; a first sentence that does is cut at a word.

    Sentences that end with a colon, contain a template placeholder or consist mostly of symbols are skipped.
    """
    taken: list[str] = []
    length = 0
    for text in texts:
        for sentence in sentences(text):
            if (
                sentence.endswith(":")
                or _TEMPLATE.search(sentence)
                or sum(c.isalpha() or c == " " for c in sentence) < 0.7 * len(sentence)
            ):
                continue
            if length + len(sentence) > PASSAGE_CHARACTERS:
                if taken:
                    return " ".join(taken)
                return sentence[: sentence.rfind(" ", 0, PASSAGE_CHARACTERS)]
            taken.append(sentence)
            length += len(sentence) + 1
    return " ".join(taken)


def query_and_passage(doc: str) -> tuple[str, str] | str:
    """Return a docstring's first sentence and the passage after it, or the reason why there is no such pair.

    The passage consists of prose (the text before the sections, then notes), then the descriptions of parameters and
    results, up to the last sentence end within `PASSAGE_CHARACTERS`. Examples, references, tables and formulas are left
    out.
    """
    if len(doc) < QUERY_CHARACTERS[0] + PASSAGE_MINIMUM:
        return "passage_short"
    text = paragraphs(doc)
    while text.prose and (_SIGNATURE.match(text.prose[0]) or _TEMPLATE.fullmatch(text.prose[0])):
        text.prose.pop(0)
    if not text.prose:
        return "no_prose"
    first = sentences(text.prose[0])
    query = first[0]
    shortest, longest = QUERY_CHARACTERS
    if not shortest <= len(query) <= longest or len(query.split()) < QUERY_WORDS:
        return "query_length"
    letters = sum(c.isalpha() or c == " " for c in query)
    if not query[0].isalpha() or letters < 0.85 * len(query) or _TEMPLATE.search(query) or _BOILERPLATE.match(query):
        return "query_boilerplate"
    passage = _cut([" ".join(first[1:]), *text.prose[1:], *text.entries])
    if len(passage) < PASSAGE_MINIMUM or len(passage.split()) < PASSAGE_WORDS:
        return "passage_short"
    return query, passage
