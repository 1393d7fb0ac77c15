"""What a training run writes beside its weights while it goes: metrics and energy. Knows no model."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.core import artifacts
from pipeline.core.fingerprint import plain
from pipeline.stages.plan import Run
from pipeline.telemetry.emissions import MEASURE_SECONDS
from pipeline.telemetry.tracking import Tracker, start

NOTE_SECONDS = 1.0
"""How much of a process's time a kill may leave unrecorded."""


class MetricsLog:
    """metrics.jsonl of a run, and its mirror in W&B: every row once, also across resumes."""

    def __init__(self, run: Run) -> None:
        self.path = run.folder / "metrics.jsonl"
        self._written: int | None = None
        name = run.folder / "tracking.json"
        if not name.exists():
            artifacts.write_json(name, {"id": f"{run.folder.name}-{secrets.token_hex(4)}"})
        self._tracker: Tracker = start(
            run.config.tracking, artifacts.read_json(name)["id"], run.folder, plain(run.config)
        )

    def update(self, rows: Sequence[dict[str, Any]]) -> None:
        """Bring the file to these rows: rewritten whole the first time (a resume may have fewer), then appended."""
        lines = [json.dumps(row, allow_nan=False) + "\n" for row in rows[self._written or 0 :]]
        if self._written is None:
            artifacts.write_text(self.path, "".join(lines))
        else:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.writelines(lines)
        for row in rows[self._written or 0 :]:
            self._tracker.log(row["step"], dict(_flat(row)))
        self._written = len(rows)

    def finish(self) -> str | None:
        """Close the tracker; what went wrong with it, if anything."""
        return self._tracker.finish()


class EnergyLog:
    """energy.json of a run in training: time and energy of each of its processes, so that a kill loses a second."""

    def __init__(self, path: Path, snapshot: Callable[[], dict[str, Any]]) -> None:
        self._path, self._snapshot = path, snapshot
        self.before: list[dict[str, Any]] = artifacts.read_json(path) if path.exists() else []
        """The records of earlier processes, those that were killed too."""
        self._began = time.monotonic()
        self._record: dict[str, Any] = {}
        self._measured = self._written = -math.inf

    def note(self) -> None:
        """Write the record so far, at most every `NOTE_SECONDS`; newer energy only exists every `MEASURE_SECONDS`."""
        if time.monotonic() - self._measured >= MEASURE_SECONDS:
            self.now()
        elif time.monotonic() - self._written >= NOTE_SECONDS:
            self._write()

    def now(self) -> list[dict[str, Any]]:
        """This process's record so far, measured now and written too: at every checkpoint."""
        self._record = self._snapshot()
        self._measured = time.monotonic()
        return self._write()

    def _write(self) -> list[dict[str, Any]]:
        self._record = {**self._record, "seconds": time.monotonic() - self._began}
        artifacts.write_json(self._path, [*self.before, self._record])
        self._written = time.monotonic()
        return [self._record]

    def facts(self) -> dict[str, Any]:
        """For training.json: `processes`, and `wall_seconds` of them all, what a kill made them repeat included."""
        earlier = sum(float(record.get("seconds", 0.0)) for record in self.before)
        return {"processes": len(self.before) + 1, "wall_seconds": earlier + time.monotonic() - self._began}

    def close(self) -> None:
        """The model's emissions.json and training.json hold the sums now."""
        self._path.unlink(missing_ok=True)


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
