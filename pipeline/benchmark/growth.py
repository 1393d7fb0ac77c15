"""How our time and memory grow with the rows: tokenise, train, evaluate, mine. Each point has a process of its own.

The parent process writes the texts once and reads only each point's figures; `cases` describes the texts.
"""

from __future__ import annotations

import itertools
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.benchmark.cases import ANSWER, CASES, DEPTH, QUESTION, SEED, Benchmark, Case, Writer, words_of
from pipeline.benchmark.curves import Panel, svg
from pipeline.benchmark.growth_point import BATCH, QUESTIONS, STEPS
from pipeline.benchmark.measured_run import cross_encoder, packaged_model, static_model
from pipeline.benchmark.processes import apart
from pipeline.core import atomic, provenance
from pipeline.core.errors import Interrupted
from pipeline.data.storage import CHUNK

log = logging.getLogger(__name__)

SIZES = (1_000, 10_000, 100_000, 1_000_000)
"""Training rows (tokenise, train), pairs (evaluate), passages (mine)."""

DIMENSIONS = 256
"""Dimensions of the embeddings used for mining."""

WORK = {
    "tokenise": "rows/6 questions and as many answers, streamed from and to disk",
    "train": f"{STEPS} steps of {BATCH} pairs of bert-tiny; seconds are per step, without the first",
    "evaluate": f"rows/{DEPTH} queries with {DEPTH} candidates, bert-tiny",
    "mine": f"up to {QUESTIONS:,} questions against that many passages, {DIMENSIONS} dimensions, embedding included",
}
"""Kind of point → its work, in the order of measurement."""


def growth(asked: Benchmark) -> Path:
    """Measure every kind at every size and write `<outputs_dir>/benchmarks/growth.{json,svg}`, again after every point.

    Raises:
        ResourceError: when a point fails, with the last line it printed.
        Interrupted: after a signal; the files hold the points that were finished.
    """
    most = asked.rows or SIZES[-1]
    sizes = [*(size for size in SIZES if size < most), most]
    path = Path(asked.outputs_dir) / "benchmarks" / f"{Case.growth.name}.json"
    made = provenance.record(sys.argv, {"case": Case.growth.name, "rows": most})
    curves: dict[str, list[dict[str, Any]]] = {kind: [] for kind in WORK}
    points = list(itertools.product(WORK, sizes))
    try:
        with tempfile.TemporaryDirectory(prefix="growth-") as name:
            work = Path(name)
            prepare(most, work)
            for number, (kind, size) in enumerate(points, start=1):
                found = point(kind, size, work)
                log.info(
                    "%-9s %11s rows %10.3f s %8.2f GiB", kind, f"{size:,}", found["seconds"], found["peak_rss_gib"]
                )
                curves[kind].append(found)
                result = {
                    "case": Case.growth.name, "note": asked.note, "work": WORK, "points": number,
                    "points_asked": len(points), "curves": curves,
                    **{key: made[key] for key in ("started_at", "command", "git", "versions", "hardware", "threads")},
                }  # fmt: skip
                atomic.write_json(path, result)
                atomic.write_text(path.with_suffix(".svg"), plot(curves))
    except KeyboardInterrupt:
        done = sum(map(len, curves.values()))
        kept = f"{done} of {len(points)} points are in {path}" if done else "no point was finished"
        raise Interrupted(f"{kept}. The same command starts over; rows=10000 takes less time.") from None
    return path


def prepare(most: int, work: Path) -> None:
    """Write both models and enough texts for `most` rows, one per line; smaller sizes read the first lines."""
    packaged, tokenizer = packaged_model(work)
    cross_encoder(CASES[Case.train_bert_tiny], packaged, tokenizer, work)
    static_model(tokenizer, work / "static", DIMENSIONS)
    writer = Writer(words_of(tokenizer.get_vocab()), SEED)
    for name, count, shape in (("questions", max(QUESTIONS, most // 6 + 1), QUESTION), ("passages", most, ANSWER)):
        with (work / name).open("w") as stream:
            for start in range(0, count, CHUNK):
                stream.writelines(text + "\n" for text in writer.texts(min(CHUNK, count - start), shape))


def point(kind: str, rows: int, work: Path) -> dict[str, Any]:
    """Measure one kind at one size in a fresh process."""
    folder = work / f"{kind}-{rows}"
    folder.mkdir()
    return {"rows": rows, **apart("pipeline.benchmark.growth_point", {"kind": kind, "rows": rows, "work": str(work),
                                  "folder": str(folder)}, folder, f"{kind} of {rows:,} rows")}  # fmt: skip


def plot(curves: dict[str, list[dict[str, Any]]]) -> str:
    """Plot time and peak memory over rows."""
    panels = [
        Panel(
            title, {kind: [(at["rows"], max(at[key], 1e-6)) for at in found] for kind, found in curves.items() if found}
        )
        for title, key in (
            ("seconds (train: per step)", "seconds"),
            ("peak memory of the process, GiB", "peak_rss_gib"),
        )
    ]
    return svg("How time and memory grow with the rows", "rows, pairs or passages", panels)


def table(result: dict[str, Any]) -> str:
    """Return the curves as a table for the console, and the spread of training's peak memory."""
    lines = [f"{'':9}  {'rows':>11}  {'seconds':>10}  {'peak GiB':>8}  {'before GiB':>10}  others"]
    for kind, found in result["curves"].items():
        lines += [
            f"{kind:9}  {at['rows']:>11,}  {at['seconds']:>10.3f}  {at['peak_rss_gib']:>8.2f}  "
            f"{at['base_rss_gib']:>10.2f}  {at['others_cpu_share']:>6.0%}"
            for at in found
        ]
    peaks = [at["peak_rss_gib"] for at in result["curves"]["train"]]
    lines.append(f"training: {max(peaks) - min(peaks):.3f} GiB between the lowest and the highest peak")
    return "\n".join(lines)
