"""Figures of a side-by-side result, and their table. Pure: plain records of runs in, numbers and text out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

Found = dict[str, Any]
"""The record of a run, of a side or of a whole result, as plain JSON."""

RATIOS = {
    "ratio": "the fastest reference",
    "ratio_recipe": "the recipe's setting",
    "ratio_cpu": "the fastest reference in CPU seconds, which other load on the machine hardly changes",
}
"""Key of each ratio in a result → what this pipeline is compared with."""

PHASE_RATIOS = {"ratio_train": "train_seconds", "ratio_evaluate": "evaluate_seconds"}
"""Key of each further ratio in a case with phases → the figure that is compared."""

FIGURES = (
    "seconds", "cpu_seconds", "pairs_per_second", "tokens_per_second", "padding_share", "peak_rss_gib", "peak_gpu_gib",
    "share_of_attainable", "attainable_gflops", "mine_seconds", "train_seconds", "evaluate_seconds",
    "upkeep_hash_seconds", "upkeep_sync_seconds", "upkeep_verify_seconds", "upkeep_seconds", "upkeep_share",
    "load_before", "others_cpu_share",
)  # fmt: skip
"""Figures given as medians over the runs of a side; see `side.run`, and `processes.apart` for the last two."""


def ratio(ours: Sequence[Found], other: Sequence[Found], of: str = "seconds") -> dict[str, Any]:
    """Return how many times as fast ours is in the figure `of`: `median`, `min`, `max`, and `pairs` in order."""
    pairs = [b[of] / a[of] for a, b in zip(ours, other, strict=True)]
    return {"median": statistics.median(pairs), "min": min(pairs), "max": max(pairs), "pairs": pairs}


def side(runs: Sequence[Found], energy: Found | None) -> Found:
    """Return the medians of a side's figures, the range of its speed, and the energy of the last warm-up run."""
    speeds = [run["pairs_per_second"] for run in runs]
    return {
        **{key: median(runs, key) for key in FIGURES if key in runs[0]},
        "pairs_per_second_min": min(speeds),
        "pairs_per_second_max": max(speeds),
        "others_cpu_share_max": max(
            (run["others_cpu_share"] for run in runs if "others_cpu_share" in run), default=None
        ),
        "watt_hours_per_1000_pairs": (energy or {}).get("watt_hours_per_1000_pairs"),
        "energy_method": (energy or {}).get("energy_method"),
        "same": runs[0]["same"],
    }


def median(runs: Sequence[Found], key: str) -> float:
    """Return the median of a figure over runs."""
    return float(statistics.median(run[key] for run in runs))


def reckoned(trial: Found, times: int) -> float:
    """Estimate the seconds of a job of `times` evaluations from a trial of fewer.

    The trial's first evaluation counts once, because oneDNN compiles its kernels in it; its quickest later one stands
    for all the others. Jobs without repeated evaluations are tried whole.
    """
    if "later_seconds" not in trial:
        return float(trial["seconds"])
    return float(trial["first_seconds"] + (times - 1) * trial["later_seconds"])


def agreement(ours: Found, reference: Found) -> Found:
    """Return the largest absolute difference between both sides' values, by name, over all losses or measures."""
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
    """Return a result as a table for the console: both sides, the recipe's setting, and the ratios."""
    on_gpu = "peak_gpu_gib" in result["ours"]
    gpu = ["GPU GiB"] if on_gpu else []
    rows = [["side", "setting", "pairs/s", "tokens/s", "padding", "of attainable", "peak GiB", *gpu]]
    for name in ("ours", "reference", "recipe"):
        found = result[name]
        setting = " ".join(f"{key}={value}" for key, value in found.get("setting", {}).items())
        figures = [("pairs_per_second", ",.1f"), ("tokens_per_second", ",.0f"), ("padding_share", ".1%")]
        figures += [("share_of_attainable", ".1%"), ("peak_rss_gib", ".2f")]
        figures += [("peak_gpu_gib", ".2f")] if on_gpu else []
        rows.append([name, setting, *(format(found[key], form) if key in found else "-" for key, form in figures)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for key, words in RATIOS.items():
        value = result[key]
        lines.append(f"{value['median']:.2f} x {words} ({value['min']:.2f} to {value['max']:.2f})")
    ours = result["ours"]
    for name in ("ours", "reference", "recipe") if "mine_seconds" in ours else ():
        spent = [f"{phase} {result[name][f'{phase}_seconds']:.1f} s" for phase in ("mine", "train", "evaluate")]
        lines.append(f"{name}: {', '.join(spent)}")
    if "upkeep_share" in ours:
        kinds = ", ".join(f"{kind} {ours[f'upkeep_{kind}_seconds']:.2f} s" for kind in ("hash", "sync", "verify"))
        lines.append(f"upkeep: {ours['upkeep_share']:.2%} of our run ({kinds})")
    others = [
        share for name in ("ours", "reference") if (share := result[name].get("others_cpu_share_max")) is not None
    ]
    lines += [f"other processes took up to {max(others):.0%} of the processors during a run"] if others else []
    return "\n".join(lines)
