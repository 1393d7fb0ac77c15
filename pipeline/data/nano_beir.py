"""NanoBEIR from a snapshot of its hub repository: queries, passages, judgements and BM25 candidates, by id.

Reads with `datasets`; knows nothing of the hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.set_names import NANO_CANDIDATES
from pipeline.core.errors import DataError, first_line, must
from pipeline.core.records import Collection

_COLUMNS = {
    "corpus": ("_id", "text"),
    "queries": ("_id", "text"),
    "qrels": ("query-id", "corpus-id"),
    "bm25": ("query-id", "corpus-ids"),
}


def read(folder: Path, split: str, cache: Path) -> tuple[Collection, dict[str, list[str]]]:
    """Read one set: its collection and, for each query of the BM25 subset, its candidates' ids, best first.

    A passage that is listed twice counts once, at its better rank. As in the published evaluation, the collection has
    only queries with candidates, in the order of the queries subset. A query's positives are sorted by id: the
    reference keeps them in a Python set, so that with tied scores its figures change with the hash seed. `datasets`
    writes its converted files below `cache`.

    Raises:
        DataError: if a subset, split or column is missing, an id is unknown, or a query has no positive.
    """
    tables = {subset: _columns(folder, subset, split, cache) for subset in _COLUMNS}
    passages = dict(zip(tables["corpus"]["_id"], tables["corpus"]["text"], strict=True))
    texts = dict(zip(tables["queries"]["_id"], tables["queries"]["text"], strict=True))
    positives: dict[str, set[str]] = {}
    for query, judged in zip(tables["qrels"]["query-id"], tables["qrels"]["corpus-id"], strict=True):
        positives.setdefault(query, set()).update(judged if isinstance(judged, list) else [judged])
    ranked = dict(zip(tables["bm25"]["query-id"], tables["bm25"]["corpus-ids"], strict=True))
    candidates = {query: list(dict.fromkeys(ranked[query][:NANO_CANDIDATES])) for query in texts if query in ranked}
    _must_lead_somewhere(split, passages, texts, positives, ranked, candidates)
    collection = Collection(
        name=split,
        queries={query: texts[query] for query in candidates},
        passages=passages,
        qrels={query: dict.fromkeys(sorted(positives[query]), 1) for query in candidates},
    )
    return collection, candidates


def _columns(folder: Path, subset: str, split: str, cache: Path) -> dict[str, list[Any]]:
    import datasets

    try:
        table = datasets.load_dataset(str(folder), subset, split=split, cache_dir=str(cache / "datasets"))
    except (datasets.exceptions.DatasetsError, ValueError, KeyError, OSError) as error:
        remedy = "Check evaluation.nano_beir_path, or pass hub.refresh=true."
        rule = f"hold subset {subset} with split {split}"
        raise DataError(must(str(folder), rule, first_line(error), remedy)) from None
    missing = [column for column in _COLUMNS[subset] if column not in table.column_names]
    if missing:
        remedy = "Check evaluation.nano_beir_path."
        raise DataError(must(f"subset {subset} of {folder}", f"have {missing}", table.column_names, remedy))
    return {column: list(table[column]) for column in _COLUMNS[subset]}


def _must_lead_somewhere(
    split: str,
    passages: dict[str, str],
    texts: dict[str, str],
    positives: dict[str, set[str]],
    ranked: dict[str, list[str]],
    candidates: dict[str, list[str]],
) -> None:
    """Refuse a set with an unknown id or an unjudged query, naming the first."""
    stray = next((query for query in ranked if query not in texts), None)
    unjudged = next((query for query in candidates if not positives.get(query)), None)
    lost = next(
        (p for q in candidates for p in [*candidates[q], *sorted(positives.get(q, ()))] if p not in passages), None
    )
    for name, rule in (
        (stray, "name known queries only"),
        (unjudged, "judge every query"),
        (lost, "name known passages"),
    ):
        if name is not None:
            raise DataError(
                must(f"NanoBEIR set {split}", rule, repr(name), "The download is damaged: pass hub.refresh=true.")
            )
