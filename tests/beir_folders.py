"""Folders in the BEIR layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pair_files import write_jsonl


def write_beir(
    folder: Path,
    queries: Mapping[str, str],
    passages: Mapping[str, str | tuple[str, str]],
    **qrels: Iterable[tuple[str, str, int]],
) -> Path:
    """Write queries.jsonl, corpus.jsonl and, for each keyword, qrels/<keyword>.tsv.

    Args:
        folder: Where to write; made if absent.
        queries: id → text.
        passages: id → text, or title and text.
        qrels: (query, passage, grade) of each judgement, by file: `test=[("q1", "d1", 1)]`.
    """
    (folder / "qrels").mkdir(parents=True)
    write_jsonl(folder / "queries.jsonl", [{"_id": query, "text": text} for query, text in queries.items()])
    titled = {passage: ("", given) if isinstance(given, str) else given for passage, given in passages.items()}
    lines = [{"_id": passage, "title": title, "text": text} for passage, (title, text) in titled.items()]
    write_jsonl(folder / "corpus.jsonl", lines)
    for name, judgements in qrels.items():
        table = "".join(f"{query}\t{passage}\t{grade}\n" for query, passage, grade in judgements)
        (folder / "qrels" / f"{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + table)
    return folder
