"""This pipeline and the reference in turn on the same work: ratios pair by pair, and the conditions of measurement.

Each run is a process of its own (`measured_run`); this module decides the order of the runs and computes the figures.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.benchmark.cases import CASES, DEPTH, FLASH, Benchmark
from pipeline.benchmark.measured_run import prepare
from pipeline.benchmark.processes import apart
from pipeline.benchmark.results import PHASE_RATIOS, Found, agreement, median, ratio, reckoned, side
from pipeline.config.learning import Precision
from pipeline.config.runtime import RuntimeConfig
from pipeline.core import atomic, provenance
from pipeline.core.errors import Interrupted
from pipeline.engine.machine import resolve_device, resolve_precision

log = logging.getLogger(__name__)

Setting = dict[str, object]

SHARED = ("precision", "precision_reason", "threads", "device")
"""Conditions that both sides must report equally."""

SETTING_FIGURES = (
    "seconds", "pairs_per_second", "first_seconds", "later_seconds", "peak_rss_gib", "train_seconds",
    "evaluate_seconds", "load_before", "others_cpu_share",
)  # fmt: skip
"""Figures kept from the one trial run of a setting."""


def benchmark(asked: Benchmark) -> Path:
    """Measure a case and write `<outputs_dir>/benchmarks/<case>.json`, again after every counted pair.

    First, every setting of the reference runs once (`Settings.tried_times` evaluations) to find the fastest. Then come
    the warm-up pairs, the last of which measures energy, and the counted pairs. Each pair runs ours, the fastest
    setting, and the recipe's setting if that is another one.

    Raises:
        ResourceError: when a run fails, with the last line it printed.
        Interrupted: after a signal; the file holds the pairs that were finished.
    """
    path = Path(asked.outputs_dir) / "benchmarks" / f"{asked.case.name}.json"
    done = 0
    try:
        for result in _measured(asked):
            atomic.write_json(path, result)
            done = result["pairs"]
    except KeyboardInterrupt:
        kept = f"{done} of {asked.pairs} pairs are in {path}" if done else "no pair was finished"
        raise Interrupted(f"{kept}. The same command starts over; fewer pairs or rows take less time.") from None
    return path


def runs_here(setting: Setting) -> bool:
    """Return whether the reference can run a setting on this machine: FLASH needs bf16, a GPU and `flash-attn`."""
    from transformers.utils.import_utils import is_flash_attn_2_available

    if setting.get("attention") != FLASH:
        return True
    precision, _ = resolve_precision(Precision.auto, resolve_device(RuntimeConfig()))
    return bool(is_flash_attn_2_available()) and precision is Precision.bf16


def _measured(asked: Benchmark) -> Iterator[Found]:
    """Yield the result after each counted pair."""
    settings = CASES[asked.case]
    rows = asked.rows or settings.rows
    made = provenance.record(sys.argv, {"case": asked.case.name, "rows": rows, "pairs": asked.pairs})
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        work = Path(name)
        prepare(asked.case, rows, work)
        runner = _Runner(asked, work)
        left_out = [setting for setting in settings.reference if not runs_here(setting)]
        tried = [
            (setting, runner.run(setting, trial=True)) for setting in settings.reference if setting not in left_out
        ]
        fastest = min(tried, key=lambda item: reckoned(item[1], settings.times))[0]
        recipe = settings.reference[0]
        sides = [None, fastest, *([recipe] if recipe != fastest else [])]
        energy: list[Found] = []
        for left in range(asked.warmup, 0, -1):
            energy = [runner.run(setting, energy=left == 1) for setting in sides]
        rounds: list[list[Found]] = []
        for _ in range(asked.pairs):
            rounds.append([runner.run(setting) for setting in sides])
            by_side = [list(runs) for runs in zip(*rounds, strict=True)]
            result = _result(asked, rows, made, by_side, energy)
            result["reference"]["setting"], result["recipe"]["setting"] = fastest, recipe
            result["reference_settings"] = [
                {
                    **setting,
                    **{key: found[key] for key in SETTING_FIGURES if key in found},
                    "reckoned_seconds": reckoned(found, settings.times),
                }
                for setting, found in tried
            ]
            result["reference_settings_left_out"] = left_out
            yield result


class _Runner:
    """Starts the runs of a case one after another and logs the time of each."""

    def __init__(self, asked: Benchmark, work: Path) -> None:
        self._asked, self._work, self._count = asked, work, 0
        self._shared = sorted(work.iterdir())

    def run(self, setting: Setting | None, *, energy: bool = False, trial: bool = False) -> Found:
        """Run one side in a fresh process, with a fresh folder for what it writes."""
        self._count += 1
        folder = self._work / f"run-{self._count}"
        folder.mkdir()
        for shared in self._shared:
            (folder / shared.name).symlink_to(shared)
        side = "ours" if setting is None else "reference " + " ".join(f"{k}={v}" for k, v in setting.items())
        job = {
            "case": self._asked.case.name, "setting": setting, "work": str(folder), "energy": energy, "trial": trial,
        }  # fmt: skip
        found = apart("pipeline.benchmark.measured_run", job, folder, side)
        shutil.rmtree(folder)  # the quickstart leaves hundreds of megabytes
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
        **{name: ratio(ours, reference, of) for name, of in PHASE_RATIOS.items() if of in ours[0]},
        "note": asked.note,
        "work": {
            "rows": rows,
            "default_rows": settings.rows,
            "model": settings.model,
            "batch_size": settings.batch_size or None,
            "dropout": settings.dropout,
            "times": settings.times,
            "tried_times": settings.tried_times,
            "candidates": DEPTH if settings.job == "evaluate" else None,
            "about": settings.about,
        },
        **{key: ours[0][key] for key in SHARED},
        "pairs": len(ours),
        "pairs_asked": asked.pairs,
        "warmup": asked.warmup,
        "ours": side(ours, energy[0] if energy else None),
        "reference": side(reference, energy[1] if energy else None),
        "recipe": side(recipe, energy[-1] if energy else None),
        "peak_rss_ratio": median(ours, "peak_rss_gib") / median(reference, "peak_rss_gib"),
        "same_work": agreement(ours[0]["same"], reference[0]["same"]),
        **{key: made[key] for key in ("started_at", "command", "git", "versions", "hardware")},
    }
