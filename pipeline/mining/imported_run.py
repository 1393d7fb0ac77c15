"""A first stage that ranks as a run file says: a ranking made elsewhere, by the ids of this data."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import DataError, must
from pipeline.core.records import Run, Split, fold
from pipeline.data.trec import read_run
from pipeline.mining.judged import Corpus, Questions
from pipeline.mining.topk import FirstStage, Positions, Ranking, Searcher

log = logging.getLogger(__name__)


class ImportedRun:
    """A ranking made elsewhere. A passage that it does not list scores -inf, worse than every listed passage.

    Args:
        rankings: Query text → index of a listed passage → score.
    """

    def __init__(self, rankings: Mapping[str, Mapping[int, float]]) -> None:
        self._rankings = rankings

    def search(self, queries: Sequence[str], depth: int, rows: Positions | None = None) -> Ranking:
        """Return the run's best `depth` passages of each query, or of the queries at `rows`."""
        asked = queries if rows is None else [queries[row] for row in rows]
        indices = np.full((len(asked), depth), -1, np.int32)
        scores = np.full((len(asked), depth), -np.inf, np.float32)
        for row, query in enumerate(asked):
            best = sorted(self._rankings.get(query, {}).items(), key=lambda item: (-item[1], item[0]))[:depth]
            indices[row, : len(best)] = [index for index, _ in best]
            scores[row, : len(best)] = [score for _, score in best]
        return Ranking(indices, scores)

    def score(self, queries: Sequence[str], query: Positions, passage: Positions) -> npt.NDArray[np.float32]:
        """Return the run's own scores (pairs,)."""
        pairs = zip(query.tolist(), passage.tolist(), strict=True)
        found = [self._rankings.get(queries[q], {}).get(p, -np.inf) for q, p in pairs]
        return np.array(found, np.float32)


def imported_first_stage(path: Path, split: Split, corpus: Corpus, parts: list[Questions]) -> FirstStage:
    """Return the first stage of a run file whose ids are those of the split's questions and passages.

    Unknown ids are skipped and counted.

    Raises:
        DataError: if an id stands for two texts, or the run ranks no known passage, or no question of some part.
    """
    _refuse_renamed(split)
    texts, positions = _texts_by_id(parts), corpus.searched_ids()
    run = read_run(path, known={*positions, *texts})
    _refuse_foreign(path, run, positions, parts)
    rankings = _rankings(path, run, texts, positions)

    def over(subset: Positions) -> Searcher:
        local = {int(p): number for number, p in enumerate(subset)}
        return ImportedRun(
            {q: {local[p]: score for p, score in ranked.items() if p in local} for q, ranked in rankings.items()}
        )

    return over


def _refuse_renamed(split: Split) -> None:
    """Refuse passages of the dev file and of the training data that share an id but not their text."""
    if split.renamed:
        got = f"{split.renamed[0]!r} with two (of {len(split.renamed)} such)"
        remedy = "Rename the passages of one file: a run cannot tell them apart."
        raise DataError(must(f"ids of {split.dev_file} and of the training data", "have one text each", got, remedy))


def _texts_by_id(parts: list[Questions]) -> dict[str, str]:
    """Map the ids of all parts' questions to their texts; refuse an id that stands for two questions."""
    texts: dict[str, str] = {}
    for part in parts:
        by_alias = ((identifier, part.texts[q]) for identifier, q in part.aliases.items())
        for identifier, text in chain(zip(part.ids, part.texts, strict=True), by_alias):
            if fold(texts.setdefault(identifier, text)) != fold(text):
                got = f"{identifier!r} for {texts[identifier][:40]!r} and for {text[:40]!r}"
                remedy = "Rename the questions of one part: a run cannot tell them apart."
                raise DataError(must("a question's id", "stand for one question in all parts", got, remedy))
    return texts


def _refuse_foreign(path: Path, run: Run, positions: Mapping[str, int], parts: list[Questions]) -> None:
    """Refuse a run that ranks no question of some part, or none of the passages with `positions`."""
    for part in parts:
        if not any(identifier in run for identifier in chain(part.ids, part.aliases)):
            rule = f"rank questions of this data, such as {part.ids[0]!r}"
            remedy = (
                "Rank training, validation and dev questions in it, with the data's ids (those of the BEIR folder)."
            )
            raise DataError(must(str(path), rule, repr(next(iter(run))), remedy))
    if not any(passage in positions for ranked in run.values() for passage in ranked):
        rule = f"rank passages of this data, such as {next(iter(positions))!r}"
        got = next(passage for ranked in run.values() for passage in ranked)
        raise DataError(must(str(path), rule, repr(got), "Give the run the corpus's passage ids."))


def _rankings(
    path: Path, run: Run, texts: Mapping[str, str], positions: Mapping[str, int]
) -> dict[str, dict[int, float]]:
    """Return the run as query text → position of a passage → score; warn of ids that are skipped."""
    rankings: dict[str, dict[int, float]] = {}
    strangers, foreign, twins = len(run.keys() - texts.keys()), 0, 0
    for query, ranked in run.items():
        if query not in texts:
            continue
        best = dict[int, float]()
        for passage, score in ranked.items():
            position = positions.get(passage)
            if position is None:
                foreign += 1
            else:  # several ids may have one text: the best score counts
                best[position] = max(score, best.get(position, score))
        twins += rankings.get(texts[query], best) != best
        rankings[texts[query]] = best
    if strangers or foreign:
        log.warning(
            "%s: skipped %d questions, and %d ranked passages of the other questions: their ids are not used here",
            path, strangers, foreign,
        )  # fmt: skip
    if twins:
        message = "%s: %d questions repeat another's text with a different ranking: the later ranking counts for both"
        log.warning(message, path, twins)
    return rankings
