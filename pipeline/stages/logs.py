"""What a training run writes beside its weights while it goes: its metrics. Knows no model."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.core import atomic
from pipeline.core.fingerprint import plain
from pipeline.stages.plan import Run
from pipeline.telemetry.tracking import Tracker, start


class MetricsLog:
    """metrics.jsonl of a run, and its mirror in W&B: every row once, also across resumes."""

    def __init__(self, run: Run) -> None:
        self.path = run.folder / "metrics.jsonl"
        self._written: int | None = None
        name = run.folder / "tracking.json"
        if not name.exists():
            atomic.write_json(name, {"id": f"{run.folder.name}-{secrets.token_hex(4)}"})
        self._tracker: Tracker = start(run.config.tracking, atomic.read_json(name)["id"], run.folder, plain(run.config))

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
        """Close the tracker; what went wrong with it, if anything."""
        return self._tracker.finish()


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
