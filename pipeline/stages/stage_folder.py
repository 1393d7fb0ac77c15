"""The folder that a stage writes: how it is published with its energy and provenance, and whether it is done."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core import artifacts, atomic, upkeep
from pipeline.core.console import shown
from pipeline.core.fingerprint import fingerprint, plain
from pipeline.core.provenance import record
from pipeline.stages.plan import RunPlan
from pipeline.telemetry.emissions import measured
from pipeline.telemetry.energy_records import add
from pipeline.telemetry.stage_energy import Pieces, counted

log = logging.getLogger(__name__)


@contextmanager
def stage(run: RunPlan, folder: Path, key: Mapping[str, Any]) -> Iterator[tuple[Path, Pieces]]:
    """Yield a work folder that becomes `folder`, with manifest, provenance and emissions, if the block succeeds.

    emissions.json is the sum over all processes that worked on the stage, including killed ones. The manifest's
    `upkeep_seconds` count this process alone, within the stage.
    """
    name = str(key["stage"])
    emissions = run.config.emissions
    manifest = {"artifact": name, "fingerprint": fingerprint(key), "key": dict(key)}
    manifest["provenance"] = record(sys.argv, plain(run.config))
    earlier = upkeep.seconds()
    with (
        counted(_pieces(folder)) as pieces,
        artifacts.publish(folder, manifest, lambda: {"upkeep_seconds": upkeep.seconds(earlier)}) as work,
    ):
        with measured(emissions.enabled, emissions.country_iso_code, name) as meter, pieces.metered(meter.snapshot):
            yield work, pieces
        atomic.write_json(work / "emissions.json", {**add([*pieces.before, meter.record]), **pieces.facts()})


def _pieces(folder: Path) -> Path:
    """Return the file that records the processes that have worked on a stage's folder, until it is complete."""
    return folder.parent / f".{folder.name}.pieces.json"


def is_done(folder: Path, name: str) -> bool:
    """Return whether a stage's folder is complete and verifies; log that it does, or why it is made again."""
    if artifacts.is_complete(folder):
        _pieces(folder).unlink(missing_ok=True)  # left if the last process was killed just before deleting it
        log.info("%-9s nothing to do: %s is complete", name, shown(folder))
        return True
    if (folder / artifacts.MANIFEST).exists():
        log.warning("%-9s made again: %s", name, artifacts.problems(folder)[0])
    return False
