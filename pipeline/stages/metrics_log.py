"""What a training run writes beside its weights while it goes: its metrics. Knows no model."""

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
from pipeline.stages.plan import Run
from pipeline.telemetry.tracking import Tracker, start

log = logging.getLogger(__name__)


class MetricsLog:
    """metrics.jsonl of a run, and its mirror in W&B: every row once, also across resumes."""

    def __init__(self, run: Run) -> None:
        self.path = run.folder / "metrics.jsonl"
        self._written: int | None = None
        self._tracker: Tracker = start(run.config.tracking, _tracked_as(run.folder), run.folder, plain(run.config))

    def update(self, rows: Sequence[dict[str, Any]]) -> None:
        """Bring the file to these rows: rewritten whole the first time (a resume may have fewer), then appended."""
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
        """Close the tracker; what went wrong with it, if anything. A run without a row has an empty file."""
        if self._written is None:
            self.update([])
        return self._tracker.finish()


def _tracked_as(folder: Path) -> str:
    """The W&B id of a run, the same after every resume; a broken record of it is no reason not to train."""
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
    """A row's numbers under the names W&B users know: `train/loss`, `eval/gooaq-dev_ndcg@10`."""
    if row["kind"] == "evaluation":
        for name, measures in row["evaluation"].items():
            for measure, value in measures.items():
                yield f"eval/{name}_{measure}", value
    else:
        for name, value in row.items():
            if name not in ("kind", "step"):
                yield f"train/{name}", value
