"""The sets that a run evaluates on, by name: dev, validation, NanoBEIR splits, collections."""

from __future__ import annotations

import logging

from pipeline.config.schema import Config
from pipeline.config.set_names import DEV, NANO, VALIDATION, nano_beir_name
from pipeline.core.records import RerankingSet
from pipeline.data import storage
from pipeline.data.beir import read_beir
from pipeline.data.nano_beir import read as read_nano_beir
from pipeline.evaluation import reranking
from pipeline.mining.bm25 import bm25_run
from pipeline.mining.checks import NOTABLE_SHARE, coverage
from pipeline.stages.plan import RunPlan

log = logging.getLogger(__name__)


def nano_names(config: Config) -> list[str]:
    """Return the split names of the configured NanoBEIR sets."""
    return [nano_beir_name(short) for short in config.evaluation.nano_beir]


def fixed_sets(config: Config) -> list[str]:
    """Return the names of the sets that `training.eval_sets` asks for, in its order."""
    meant = {DEV: [config.data.dev_name], VALIDATION: [VALIDATION], NANO: nano_names(config)}
    return [name for asked in config.training.eval_sets for name in meant[asked]]


def final_sets(run: RunPlan) -> list[str]:
    """Return the names of the reported sets in display order, without the NanoBEIR mean, which follows from them."""
    return [run.config.data.dev_name, *run.collections, *nano_names(run.config)]


def evaluation_set(run: RunPlan, name: str) -> RerankingSet:
    """Return a set by name: the dev set, `validation`, a NanoBEIR split, or a folder of `evaluation.collections`."""
    if name == run.config.data.dev_name:
        return storage.read_set(run.mined_folder / "dev")
    if name == VALIDATION:
        return storage.read_set(run.mined_folder / VALIDATION)
    if name in nano_names(run.config):
        collection, found = read_nano_beir(run.nano_beir.folder, name, run.cache)
        made = reranking.collection_set(collection, found, name)
        made.first_stage = "BM25, from the lists that come with NanoBEIR"
        return made
    collection = read_beir(run.collections[name].folder, name)
    depth, itself = run.config.evaluation.depth, reranking.queries_among_passages(collection)
    if itself:
        log.info(
            "%s: %d queries are passages too and are left out of their own candidates, as in BEIR", name, len(itself)
        )
    ranked = collection.run
    if ranked is None:
        asked = {query: text for query, text in collection.queries.items() if query in collection.qrels}
        ranked = bm25_run(asked, collection.passages, depth + bool(itself))
    made = reranking.collection_set(collection, reranking.run_candidates(ranked, depth, itself), name)
    made.first_stage = "BM25" if collection.run is None else "the run.trec in its folder"
    covered = coverage(made)
    without, queries = covered["queries_without_candidates"], covered["queries"]
    if without > NOTABLE_SHARE * queries:
        of = f"{without} of {queries} queries"
        made.remarks.append(f"the first stage finds no passage for {of}, which count 0 for it and for every reranker")
        log.warning("%s: %s", name, made.remarks[-1])
    return made
