"""Ours and the reference in turn on the same work: ratios pair by pair, and the conditions they were measured under.

Each run is a process of its own (`benchmark_side`); this module decides their order and makes the figures.
"""

from __future__ import annotations

import logging
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.benchmark.cases import CASES, DEPTH, Benchmark
from pipeline.benchmark.side import prepare
from pipeline.core import artifacts, provenance
from pipeline.core.errors import ResourceError, must

log = logging.getLogger(__name__)

Found = dict[str, Any]
Setting = dict[str, object]

SHARED = ("precision", "precision_reason", "threads", "device")
"""Conditions that both sides must report equally."""

RATIOS = {
    "ratio": "the fastest reference",
    "ratio_recipe": "the recipe's setting",
    "ratio_cpu": "the fastest reference in CPU seconds, which other load on the machine hardly changes",
}
"""Keys of a result that hold ratios, and what they are over."""

FIGURES = (
    "seconds", "cpu_seconds", "pairs_per_second", "tokens_per_second", "padding_share", "peak_rss_gib", "peak_gpu_gib",
    "share_of_attainable", "attainable_gflops",
)  # fmt: skip
"""What is summed up by its median over the runs of a side."""


def benchmark(asked: Benchmark) -> Path:
    """Measure a case and write `<outputs_dir>/benchmarks/<case>.json`.

    Order: every setting of the reference once, to find its fastest; then warm-up pairs, of which the last measures
    energy; then the counted pairs: ours, the fastest, and the recipe's own where that is another.

    Raises:
        ResourceError: when a run fails, with the last line it said.
    """
    settings = CASES[asked.case]
    rows = asked.rows or settings.rows
    made = provenance.record(sys.argv, {"case": asked.case.name, "rows": rows, "pairs": asked.pairs})
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        work = Path(name)
        prepare(asked.case, rows, work)
        runner = _Runner(asked, work)
        tried = [(setting, runner.run(setting)) for setting in settings.reference]
        fastest = min(tried, key=lambda item: item[1]["seconds"])[0]
        recipe = settings.reference[0]
        sides = [None, fastest, *([recipe] if recipe != fastest else [])]
        energy: list[Found] = []
        for left in range(asked.warmup, 0, -1):
            energy = [runner.run(setting, energy=left == 1) for setting in sides]
        rounds = [[runner.run(setting) for setting in sides] for _ in range(asked.pairs)]
    by_side = [list(runs) for runs in zip(*rounds, strict=True)]
    result = _result(asked, rows, made, by_side, energy)
    result["reference"]["setting"], result["recipe"]["setting"] = fastest, recipe
    result["reference_settings"] = [
        {**setting, **{key: found[key] for key in ("seconds", "pairs_per_second", "peak_rss_gib")}}
        for setting, found in tried
    ]
    path = Path(asked.outputs_dir) / "benchmarks" / f"{asked.case.name}.json"
    artifacts.write_json(path, result)
    return path


class _Runner:
    """Starts runs of a case one after another and says each one's time."""

    def __init__(self, asked: Benchmark, work: Path) -> None:
        self._asked, self._work, self._count = asked, work, 0

    def run(self, setting: Setting | None, energy: bool = False) -> Found:
        """One run in a fresh process and a fresh folder for what it writes."""
        self._count += 1
        folder = self._work / f"run-{self._count}"
        folder.mkdir()
        for shared in ("model", "texts.json"):
            (folder / shared).symlink_to(self._work / shared)
        job = {"case": self._asked.case.name, "setting": setting, "work": str(folder), "energy": energy}
        artifacts.write_json(folder / "job.json", {**job, "result": str(folder / "result.json")})
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.benchmark.side", str(folder / "job.json")],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, check=False,
        )  # fmt: skip
        side = "ours" if setting is None else "reference " + " ".join(f"{k}={v}" for k, v in setting.items())
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise ResourceError(must(f"a run of {side}", "finish", said, 'Try fewer rows: ARGS="… rows=<number>".'))
        found: Found = artifacts.read_json(folder / "result.json")
        log.info("%-44s %8.2f s %10.1f pairs/s", side, found["seconds"], found["pairs_per_second"])
        return found


def _result(
    asked: Benchmark, rows: int, made: dict[str, Any], by_side: Sequence[list[Found]], energy: Sequence[Found]
) -> Found:
    ours, reference = by_side[0], by_side[1]
    recipe = by_side[-1]
    settings = CASES[asked.case]
    return {
        "case": asked.case.name,
        "ratio": ratio(ours, reference),
        "ratio_recipe": ratio(ours, recipe),
        "ratio_cpu": ratio(ours, reference, "cpu_seconds"),
        "note": asked.note,
        "work": {
            "rows": rows,
            "default_rows": settings.rows,
            "model": settings.model,
            "batch_size": settings.batch_size or None,
            "dropout": settings.dropout,
            "times": settings.times,
            "candidates": DEPTH if settings.job == "evaluate" else None,
            "texts": "synthetic: words of the tokenizer's vocabulary with Zipf's frequencies, GooAQ's lengths",
        },
        **{key: ours[0][key] for key in SHARED},
        "pairs": asked.pairs,
        "warmup": asked.warmup,
        "ours": side(ours, energy[0] if energy else None),
        "reference": side(reference, energy[1] if energy else None),
        "recipe": side(recipe, energy[-1] if energy else None),
        "peak_rss_ratio": _median(ours, "peak_rss_gib") / _median(reference, "peak_rss_gib"),
        "same_work": agreement(ours[0]["same"], reference[0]["same"]),
        **{key: made[key] for key in ("started_at", "command", "git", "versions", "hardware")},
    }


def ratio(ours: Sequence[Found], other: Sequence[Found], of: str = "seconds") -> dict[str, Any]:
    """How many times as fast ours is, pair by pair: `median`, `min`, `max`, and `pairs` in the order measured."""
    pairs = [b[of] / a[of] for a, b in zip(ours, other, strict=True)]
    return {"median": statistics.median(pairs), "min": min(pairs), "max": max(pairs), "pairs": pairs}


def side(runs: Sequence[Found], energy: Found | None) -> Found:
    """Medians of a side's figures, the spread of its speed, and energy from the last warm-up run."""
    speeds = [run["pairs_per_second"] for run in runs]
    return {
        **{key: _median(runs, key) for key in FIGURES if key in runs[0]},
        "pairs_per_second_min": min(speeds),
        "pairs_per_second_max": max(speeds),
        "watt_hours_per_1000_pairs": (energy or {}).get("watt_hours_per_1000_pairs"),
        "energy_method": (energy or {}).get("energy_method"),
        "same": runs[0]["same"],
    }


def _median(runs: Sequence[Found], key: str) -> float:
    return float(statistics.median(run[key] for run in runs))


def agreement(ours: Found, reference: Found) -> Found:
    """The largest difference between what both sides computed, by name; losses and measures step by step."""
    found: Found = {}
    for name, value in ours.items():
        other = reference[name]
        if isinstance(value, dict):
            value, other = list(value.values()), [other[key] for key in value]
        if not isinstance(value, list):
            value, other = [value], [other]
        found[f"{name}_largest_difference"] = max(abs(a - b) for a, b in zip(value, other, strict=True))
    return found


def table(result: Found) -> str:
    """A result for the console: both sides, the recipe's setting, and the ratios."""
    rows = [["side", "setting", "pairs/s", "tokens/s", "padding", "of attainable", "peak GiB"]]
    for name in ("ours", "reference", "recipe"):
        found = result[name]
        setting = " ".join(f"{key}={value}" for key, value in found.get("setting", {}).items())
        figures = [("pairs_per_second", ",.1f"), ("tokens_per_second", ",.0f"), ("padding_share", ".1%")]
        figures += [("share_of_attainable", ".1%"), ("peak_rss_gib", ".2f")]
        rows.append([name, setting, *(format(found[key], form) if key in found else "-" for key, form in figures)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for key, words in RATIOS.items():
        value = result[key]
        lines.append(f"{value['median']:.2f} x {words} ({value['min']:.2f} to {value['max']:.2f})")
    return "\n".join(lines)
