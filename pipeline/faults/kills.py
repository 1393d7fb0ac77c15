"""Runs that are killed at random moments of their remaining work and then left to end, and the record of the losses.

Knows nothing of how many kills are asked for; `damage` damages files.
"""

from __future__ import annotations

import logging
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.core import artifacts
from pipeline.core.errors import EXIT_REQUEUE, ArtifactError, must
from pipeline.faults.victim import Place, kill, used

log = logging.getLogger(__name__)

MODEL = "model/model.safetensors"

POWER = "power loss"
KINDS = ("SIGKILL", "SIGKILL", "SIGKILL", "SIGTERM", POWER)
"""Kinds of kill, drawn evenly. A power loss is a SIGKILL after which unsynced files lose half or vanish."""

STAGES = {"mine": "mined/*", "train": "runs/*/model", "evaluate": "runs/*/evaluations/*", "card": "runs/*/card"}
"""Stage → pattern of the folders it makes, in the order the stages run."""

POLL_SECONDS = 0.005

SLACK = 0.05
"""Share of a run's remaining time, at its end, without kills: the run may be quicker than the undisturbed one."""

PATIENCE_SECONDS = 600.0
"""Time a run may take to end after SIGTERM."""


@dataclass(slots=True)
class Record:
    """What was done to runs and files, how they reacted, and what was lost."""

    kills: Counter[str] = field(default_factory=Counter)
    """Stage under way → processes killed in it."""
    kinds: Counter[str] = field(default_factory=Counter)
    chains: list[int] = field(default_factory=list)
    """Kills of each run before it was left to end."""
    models: Counter[str] = field(default_factory=Counter)
    """sha256 of a final model.safetensors → runs that ended with it."""
    requeued: int = 0
    """SIGTERMs answered with the documented exit status and one sentence."""
    faults: Counter[str] = field(default_factory=Counter)
    """Outcome of a file fault → number of faults."""
    lost: list[str] = field(default_factory=list)
    """One sentence for each thing that was lost, altered or used though damaged."""

    def as_json(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return {
            "kills": self.kills.total(), "kills_by_stage": dict(sorted(self.kills.items())),
            "kills_by_kind": dict(sorted(self.kinds.items())), "kills_of_each_run": self.chains,
            "models_of_the_runs": dict(sorted(self.models.items())),
            "requeued_after_sigterm": self.requeued, "file_faults": self.faults.total(),
            "file_faults_by_outcome": dict(sorted(self.faults.items())), "lost": self.lost,
        }  # fmt: skip


@dataclass(slots=True)
class Undisturbed:
    """A run without faults: results, processor seconds, and when each artefact was made, as a share of its time."""

    place: Place
    results: dict[str, Any]
    seconds: float
    complete: dict[str, float]

    def remaining(self, place: Place) -> float:
        """Return the processor seconds of work that the run in `place` still has to do."""
        return self.seconds * (1 - max((self.complete.get(name, 0.0) for name in place.complete()), default=0.0))


def undisturbed(place: Place) -> Undisturbed:
    """Run to the end without faults.

    Raises:
        ArtifactError: when the run fails.
    """
    began = time.time()
    if (status := place.finish()) != 0:
        said = (place.said().strip().splitlines() or ["nothing"])[-1]
        raise ArtifactError(
            must("an undisturbed run", "end well", f"exit status {status}", f"Its last line was: {said}")
        )
    length = time.time() - began
    complete = {name: (moment - began) / length for name, moment in place.complete().items()}
    return Undisturbed(place, place.results(), place.server.seconds, complete)


def stage_of(place: Place) -> str:
    """Return the first stage that is not complete yet, or `end`."""
    for name, pattern in STAGES.items():
        if not any((path / artifacts.MANIFEST).is_file() for path in place.outputs.glob(pattern)):
            return name
    return "end"


def chain(place: Place, reference: Undisturbed, draw: random.Random, kills: int, record: Record) -> None:
    """Kill one run up to `kills` times at random moments of its remaining work, let it end, and compare its results."""
    done = 0
    for number in range(kills):
        # Complete work is not repeated. The range of moments shrinks with each kill, so that later kills still happen.
        moment = draw.uniform(0, reference.remaining(place) * (1 - SLACK - number / (kills + 1)))
        kind = draw.choice(KINDS)
        pid = place.start()
        while (status := place.server.ended(POLL_SECONDS)) is None and used(pid) < moment:
            pass
        if status is None:
            stage = stage_of(place)
            record.kills[stage] += 1
            record.kinds[kind] += 1
            done += 1
            log.info("%s: %s in %s after %.1f s of processor time", place.root.name, kind, stage, moment)
            _kill(place, pid, kind, record)
        elif status == 0:
            break
        else:
            record.lost.append(f"{place.root.name}: exit status {status} without a kill: {place.said()[-500:]}")
    record.chains.append(done)
    if (status := place.finish()) != 0:
        record.lost.append(f"{place.root.name}: exit status {status} after its kills: {place.said()[-500:]}")
    record.lost += [f"{place.root.name}: {sentence}" for sentence in place.wrong(reference.results)]
    record.models.update(digest for name, digest in place.results().items() if name.endswith(MODEL))


def _kill(place: Place, pid: int, kind: str, record: Record) -> None:
    kill(pid, signal.SIGTERM if kind == "SIGTERM" else signal.SIGKILL)
    status = place.server.ended(PATIENCE_SECONDS)
    if kind == POWER:
        place.lose_unsynced()
    if kind != "SIGTERM":
        return
    if status == EXIT_REQUEUE and place.one_sentence("interrupted: "):
        record.requeued += 1
    elif status not in (0, -signal.SIGTERM):  # the run had just ended, or had not read its command line yet
        record.lost.append(f"{place.root.name}: exit status {status} after SIGTERM: {place.said()[-500:]}")
    if status is None:
        kill(pid, signal.SIGKILL)
        place.server.ended(None)
