"""The metrics that a training run writes as it goes. Knows no model."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.core import atomic
from pipeline.core.console import shown
from pipeline.core.errors import ArtifactError
from pipeline.core.fingerprint import plain
from pipeline.stages.plan import RunPlan
from pipeline.telemetry.tracking import Tracker, start

log = logging.getLogger(__name__)


class MetricsLog:
    """A run's metrics.jsonl and its mirror in W&B. Both hold each row once, also across resumes."""

    def __init__(self, run: RunPlan) -> None:
        self.path = run.folder / "metrics.jsonl"
        self._written: int | None = None
        self._tracker: Tracker = start(run.config.tracking, _tracked_as(run.folder), run.folder, plain(run.config))

    def update(self, rows: Sequence[dict[str, Any]]) -> None:
        """Make the file hold `rows`: rewrite it the first time (a resume may have fewer rows), then append."""
        lines = [json.dumps(row, allow_nan=False) + "\n" for row in rows[self._written or 0 :]]
        if self._written is None:
            atomic.write_text(self.path, "".join(lines))
        else:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.writelines(lines)
        for row in rows[self._written or 0 :]:
            self._tracker.log(row["step"], dict(_flat(row)))
        self._written = len(rows)

    def finish(self) -> str | None:
        """Close the tracker; return what went wrong with it, if anything. A run without rows gets an empty file."""
        if self._written is None:
            self.update([])
        return self._tracker.finish()


def _tracked_as(folder: Path) -> str:
    """Return a run's W&B id, the same after every resume. If its record is broken, warn and make a new id."""
    path = folder / "tracking.json"
    if path.exists():
        try:
            match atomic.read_json(path):
                case {"id": str(known)} if known:
                    return known
        except ArtifactError:
            pass
        log.warning("%-9s made again: %s holds no id. In W&B a resumed run is a new one", "tracking", shown(path))
    fresh = f"{folder.name}-{secrets.token_hex(4)}"
    atomic.write_json(path, {"id": fresh})
    return fresh


def _flat(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield a row's numbers under names that W&B users know: `train/loss`, `eval/gooaq-dev_ndcg@10`."""
    if row["kind"] == "evaluation":
        for name, measures in row["evaluation"].items():
            for measure, value in measures.items():
                yield f"eval/{name}_{measure}", value
    else:
        for name, value in row.items():
            if name not in ("kind", "step"):
                yield f"train/{name}", value
