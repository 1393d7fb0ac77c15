"""Messages, warnings and refusals about mined rows and sets. Knows counts and the configuration; mines nothing."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from pipeline.config.data import MiningConfig, Retriever
from pipeline.core.errors import DataError, must
from pipeline.core.records import LabelledPairs, PairRows, RerankingSet, Split
from pipeline.mining.judged import Corpus, Questions
from pipeline.mining.leaks import positive_folds

log = logging.getLogger(__name__)

NOTABLE_SHARE = 0.1
"""Share of rows or questions at which a message becomes a warning or names a remedy: above it for what is dropped,
merged, missing or repeated, below it for what is found."""

FEWEST_ALIKE = 20
"""A passage that answers no more questions than this is not taken for a placeholder, whatever their share."""


def say_leaks(split: Split, leaks: Mapping[str, Any]) -> None:
    """Log how many training rows are held out as well and, if they are many, how to drop fewer."""
    rows = len(split.train)
    questions, passages = (leaks[f"train_rows_with_a_held_out_{what}"] for what in ("question", "positive"))
    if negatives := leaks["listed_negatives_that_are_held_out_positives"]:
        said = "dropped" if leaks["dropped"] else "kept, because mining.drop_leaks=false"
        are = "listed negative is a positive" if negatives == 1 else "listed negatives are positives"
        log.info("train: %d %s of a held-out part: %s", negatives, are, said)
    leaked = questions + passages
    if not leaked:
        return
    told = f"dropped, {rows - leaked} are left" if leaks["dropped"] else "kept, because mining.drop_leaks=false"
    if leaks["dropped"] and rows > leaked > rows * NOTABLE_SHARE:  # if no row is left, `without_positive` explains
        ways = _fewer_leaks(split.train, leaked)
        if split.dev_file:
            ways = [f"leave them out of data.dev_path={split.dev_file} to keep them"]
        told += f" ({'; '.join(ways)})"
    log.info(
        "train: %d of %d rows share%s a question (%d) or a positive (%d more) with a held-out part: %s",
        leaked, rows, "s" * (leaked == 1), questions, passages, told,
    )  # fmt: skip


def _fewer_leaks(train: PairRows, leaked: int) -> list[str]:
    """Return the ways to drop fewer than `leaked` rows. Groups cannot help where very many rows share an answer."""
    answer, count = Counter(train.answers).most_common(1)[0]
    if count > max(leaked / 2, FEWEST_ALIKE):
        ways = [f"{count} have the answer {answer[:80]!r}: leave them out if it is a placeholder"]
    else:
        ways = ["fewer data.dev_queries drop fewer"]
        if train.groups is None:
            ways.insert(0, "data.group_column=<column> keeps rows of one passage together")
    return [*ways, "mining.drop_leaks=false keeps them"] if leaked > len(train) / 2 else ways


def without_positive(split: Split, left: PairRows, leaks: Mapping[str, Any], threshold: float) -> DataError:
    """Return the error for a training part that has no row, or no positive, `left`."""
    got, remedy = f"{len(left)} rows, none positive", "Check data.label_column and data.positive_threshold."
    if leaked := len(split.train) - len(left):
        answers = len(positive_folds([split.train], threshold))
        if split.dev_file:
            shared = leaks["train_rows_with_a_held_out_question"]
            got += f", after {leaked} that share a question ({shared}) or positive with data.dev_path={split.dev_file}"
            remedy = "Give it other questions, or remove the key to split some off the training rows."
        else:
            got += f", after {leaked} that share a question or positive with a held-out part"
            remedy = "Lower data.dev_queries and data.validation_queries, or pass mining.drop_leaks=false."
            if answers < leaked * NOTABLE_SHARE:
                remedy = f"They have {answers} different answers: give passages that tell one question from another."
    return DataError(must("the training part", "hold a positive", got, remedy))


def say_repeats(
    parts: Mapping[str, Questions], corpus: Corpus, config: MiningConfig, threshold: float
) -> dict[str, int]:
    """Log repeated pairs and answers that many questions share; return how many rows of each part repeat a pair."""
    merged = {name: _say_merged(name, part, config) for name, part in parts.items()}
    for name, part in parts.items():
        _say_one_answer(name, part, corpus, threshold)
    return merged


def _say_merged(name: str, part: Questions, config: MiningConfig) -> int:
    """Log how many rows of a part repeat an earlier pair, and return their number; warn of pairs with two labels."""
    if part.contradicted:
        number = len(part.contradicted)
        pairs = "pair has" if number == 1 else "pairs have"
        log.warning("%s: %d %s two labels: the lower one is not used", name, number, pairs)
    rows = sum(part.sizes)
    if part.merged:
        level = logging.WARNING if part.merged > rows * NOTABLE_SHARE else logging.INFO
        message = "%s: %d of %d rows repeat an earlier pair, as mining.positive_match=%s compares them: %d are used"
        log.log(level, message, name, part.merged, rows, config.positive_match.name, rows - part.merged)
    return part.merged


def _say_one_answer(name: str, part: Questions, corpus: Corpus, threshold: float) -> None:
    """Warn of a passage that answers many of a part's questions: a model learns to prefer such a placeholder."""
    answers = Counter(chain.from_iterable(part.positives(threshold)))
    (position, count), of = answers.most_common(1)[0] if answers else (-1, 0), len(part.texts)
    if count > max(of * NOTABLE_SHARE, FEWEST_ALIKE) and of * NOTABLE_SHARE > of / len(answers):
        log.warning(
            "%s: %d of %d questions have the answer %r. Leave their rows out if it is a placeholder",
            name, count, of, corpus.texts[position][:80],
        )  # fmt: skip


def check_rows(questions: Questions, pairs: LabelledPairs, statistics: Mapping[str, Any], config: MiningConfig) -> None:
    """Refuse training rows without a negative; warn of what a user is unlikely to have meant.

    Warnings are about many questions without a negative, hard negatives that are asked for but hardly found, and a
    question with a large share of the rows.
    """
    mined, found = statistics["questions_mined"], statistics["questions_with_hard_negatives"]
    if not statistics["negatives"]:
        contradicted = len(questions.contradicted)
        got = f"none, after {contradicted} pairs with two labels got the higher one" if contradicted else "none"
        remedy = "Add rows that are wrong answers: questions that come with their own are not mined."
        if mined:
            remedy = _remedy(config)
        raise DataError(must("the training part", "hold negatives", got, remedy))
    without, of = statistics["questions_without_negatives"], len(questions.texts)
    if without > of * NOTABLE_SHARE:
        log.warning("train: %d of %d questions have positives but no negative", without, of)
    if config.negatives and found < mined * NOTABLE_SHARE:
        log.warning("train: %d of %d mined questions have a hard negative. %s", found, mined, _remedy(config))
    rows = np.bincount(pairs.question, minlength=of)
    largest = int(rows.argmax())
    if rows[largest] > len(pairs) * NOTABLE_SHARE > len(pairs) / of:
        log.warning(
            "train: %d of %d rows are of one question, %r. Leave it out if it is a placeholder",
            rows[largest], len(pairs), questions.texts[largest][:80],
        )  # fmt: skip


def _remedy(config: MiningConfig) -> str:
    """Return the advice that gives mined questions more negatives."""
    limits = {"absolute_margin": config.absolute_margin, "relative_margin": config.relative_margin}
    if config.range_min:
        limits["range_min"] = config.range_min
    named = [f"mining.{key}={value:g}" for key, value in limits.items() if value is not None]
    if config.negatives and named:
        return f"Lower {' or '.join(named)}, or unset it."
    more = "Give more passages: data.corpus_path=<file>."
    return more if config.random_negatives else f"Pass mining.random_negatives=2. {more}"


def coverage(reranking: RerankingSet) -> dict[str, Any]:
    """Count what the first stage found for a set.

    `recall` is the share of a query's positives that are among its candidates, averaged over all queries (0 for a query
    without candidates); None without queries.
    """
    shares = []
    for query, judged in reranking.qrels.items():
        positives = {passage for passage, grade in judged.items() if grade > 0}
        shares.append(len(positives & set(reranking.candidates[query])) / len(positives))
    return {
        "queries": len(shares),
        "candidates": sum(map(len, reranking.candidates.values())),
        "queries_without_candidates": sum(not found for found in reranking.candidates.values()),
        "queries_with_a_positive_found": sum(share > 0 for share in shares),
        "recall": sum(shares) / len(shares) if shares else None,
    }


def check_sets(sets: Mapping[str, RerankingSet], config: MiningConfig) -> dict[str, dict[str, Any]]:
    """Refuse sets for which the first stage finds nothing, and return the `coverage` of each."""
    covered = {name: coverage(reranking) for name, reranking in sets.items()}
    for name, counts in covered.items():
        _check_candidates(name, counts, config)
    return covered


def _check_candidates(name: str, covered: Mapping[str, Any], config: MiningConfig) -> None:
    """Refuse a set if the first stage finds no passage for any question.

    Warn if the first stage often finds no passage, or rarely a right one. `covered` is the set's `coverage`.
    """
    without, queries = covered["queries_without_candidates"], covered["queries"]
    of = f"{without} of {queries} questions"
    remedy = "Give it passages for these questions."
    if config.retriever is Retriever.bm25:
        remedy = (
            "BM25 finds only passages that share a word: pass mining=embedding mining.path=<a model for your language>."
        )
    if without and without == queries:
        raise DataError(must("the first stage", f"find a passage for a question of {name}", f"none for {of}", remedy))
    if without > queries * NOTABLE_SHARE:
        log.warning("%s: the first stage finds no passage for %s. %s", name, of, remedy)
        return
    if (found := covered["queries_with_a_positive_found"]) < queries * NOTABLE_SHARE:
        if config.retriever is Retriever.embedding:
            remedy = f"Check that mining.path={config.path} is an embedding model for your language."
        log.warning(
            "%s: the first stage finds a right passage for %d of %d questions; what it misses counts as 0. %s",
            name, found, queries, remedy,
        )  # fmt: skip
