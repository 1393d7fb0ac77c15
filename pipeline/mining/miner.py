"""Mining of training rows and reranking sets from a split. Knows nothing of where pairs came from or results go."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import numpy as np

from pipeline.config.data import Match, MiningConfig, Retriever
from pipeline.core.records import Mined, RerankingSet, Split, fold
from pipeline.mining import checks
from pipeline.mining.bm25 import Bm25
from pipeline.mining.dense_search import Nearest
from pipeline.mining.embeddings import Embedder
from pipeline.mining.imported_run import imported_first_stage
from pipeline.mining.judged import Corpus, Questions, elsewhere, questions_of, train_corpus
from pipeline.mining.leaks import without_leaks
from pipeline.mining.stems import Stems
from pipeline.mining.topk import FirstStage, Searcher
from pipeline.mining.training_rows import training_rows

log = logging.getLogger(__name__)


def mine(
    split: Split,
    config: MiningConfig,
    cache: Path,
    *,
    retriever: Path | None = None,
    dev_name: str = "dev",
    positive_threshold: float = 1.0,
    device: str = "cpu",
) -> Mined:
    """Mine the training rows and reranking sets of a split.

    Args:
        cache: Folder of cached embeddings, which outlive the call; BM25 and imported runs write nothing.
        retriever: The embedding model's local folder, or the run file; by default `config.path`.
        positive_threshold: A label of at least this is a positive.
        device: Device that runs an embedding model; its embeddings are always searched on the CPU.

    Returns:
        Training rows by question, in order of first occurrence: the question's positives, its hard negatives best
        first, its random negatives. If the source gives a question negatives (in a list, or by a label below
        `positive_threshold`), these follow its positives as rows, and the question is not mined.

        A question's positives in rows outside all parts (`Split.unused`) are neither mined nor drawn as its negatives.
        Nor is a passage that is the question itself, unless it is judged a positive: it is no candidate either, but if
        the source lists it, its row stays.

        A reranking set holds the first stage's `dev_depth` best passages of the whole corpus for each question that
        has a positive. Positives are neither added nor moved.

    Raises:
        DataError: when no positive or no negative is left to train on, the first stage finds nothing for any question
            of a set, or the ids of an imported run are another collection's or ambiguous.
    """
    held_out = [part for part in (split.dev, split.validation) if part is not None]
    train, leaks = without_leaks(split.train, held_out, positive_threshold, drop=config.drop_leaks)
    checks.say_leaks(split, leaks)
    corpus = Corpus.of(split, fold if config.positive_match is Match.folded else str)
    questions = questions_of(train, corpus, "t", by_id=False)
    log.info("train: %d distinct questions; %d distinct passages to search", len(questions.texts), corpus.searched)
    if not any(questions.positives(positive_threshold)):
        raise checks.without_positive(split, train, leaks, positive_threshold)
    reranked = _reranked_questions(split, corpus, dev_name)
    parts = {"train": questions, **reranked}
    located = retriever or Path(config.path or "")
    if config.retriever is Retriever.run:
        stage = imported_first_stage(located, split, corpus, list(parts.values()))
    else:
        stage = _first_stage(config, corpus, located, cache, device)
    others = elsewhere(questions, split, corpus, positive_threshold)
    questions.forget_negatives(others, positive_threshold)
    merged = checks.say_repeats(parts, corpus, config, positive_threshold)
    minable = train_corpus(split, train, corpus, positive_threshold, drop_leaks=config.drop_leaks)
    pairs, statistics = training_rows(questions, others, corpus, minable, stage, config, positive_threshold)
    sets = _reranking_sets(reranked, corpus, stage, config.dev_depth, positive_threshold)
    checks.check_rows(questions, pairs, statistics, config)
    covered = checks.check_sets(sets, config)
    statistics |= {"contradicted_pairs": len(questions.contradicted), "merged_rows": merged, "leaks": leaks}
    statistics |= {"corpus_passages": corpus.searched, "train_corpus_passages": len(minable)}
    statistics["first_stage"] = covered
    return Mined(pairs, sets[dev_name], sets.get("validation"), statistics)


def _reranked_questions(split: Split, corpus: Corpus, dev_name: str) -> dict[str, Questions]:
    """Return the questions of the held-out parts by name."""
    reranked = {dev_name: questions_of(split.dev, corpus, "q", by_id=True)}
    if split.validation is not None:
        reranked["validation"] = questions_of(split.validation, corpus, "v", by_id=True)
    return reranked


def _first_stage(config: MiningConfig, corpus: Corpus, located: Path, cache: Path, device: str) -> FirstStage:
    """Return BM25 or the embedding model at `located` as the first stage."""
    searched = corpus.texts[: corpus.searched]
    if config.retriever is Retriever.bm25:
        stems = functools.cache(lambda: Stems(searched))  # passages are read once, for the first searcher
        return lambda positions: Bm25(stems(), positions)
    embedder = Embedder(
        located, cache, query_prompt=config.query_prompt, passage_prompt=config.passage_prompt, device=device
    )
    return lambda positions: Nearest(embedder, searched, positions)


def _reranking_sets(
    parts: dict[str, Questions], corpus: Corpus, stage: FirstStage, depth: int, threshold: float
) -> dict[str, RerankingSet]:
    """Return the reranking sets of the held-out parts by name; their first stage searches the whole corpus."""
    whole = stage(np.arange(corpus.searched))
    return {name: _reranking_set(name, part, corpus, whole, depth, threshold) for name, part in parts.items()}


def _reranking_set(
    name: str, part: Questions, corpus: Corpus, searcher: Searcher, depth: int, threshold: float
) -> RerankingSet:
    """Return the candidates and judgements of the questions with a positive; a label below the threshold is grade 0."""
    positives = part.positives(threshold)
    asked = [q for q, own in enumerate(positives) if own]
    ranking = searcher.search([part.texts[q] for q in asked], min(depth + 1, corpus.searched))
    ids = [part.ids[q] for q in asked]
    candidates, qrels = {}, {}
    passages: dict[str, str] = {}
    for row, (q, identifier) in enumerate(zip(asked, ids, strict=True)):
        hidden = part.hidden(q, positives[q])
        found = [int(p) for p in ranking.indices[row] if p >= 0 and p != hidden][:depth]
        candidates[identifier] = [corpus.ids[p] for p in found]
        qrels[identifier] = {
            corpus.ids[p]: max(1, int(label)) if label >= threshold else 0 for p, label in part.judged[q].items()
        }
        passages |= {corpus.ids[p]: corpus.texts[p] for p in (*found, *part.judged[q])}
    queries = {identifier: part.texts[q] for identifier, q in zip(ids, asked, strict=True)}
    groups = {identifier: part.groups[q] for identifier, q in zip(ids, asked, strict=True)} if part.groups else None
    if len(asked) < len(part.texts):
        log.warning("%s: %d questions without a positive are left out", name, len(part.texts) - len(asked))
    return RerankingSet(name, queries, passages, candidates, qrels, groups)
