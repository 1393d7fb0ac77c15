"""Faults on purpose, counted: runs killed at random moments, and each file of what they wrote damaged.

Nothing may be lost: a run started again ends with the undisturbed one's results, and a damaged file is made again or
refused, never used.
"""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.commands.victim import Place, Server, kill, used
from pipeline.config.asked import Faults
from pipeline.core import artifacts
from pipeline.core.errors import EXIT_REQUEUE, EXIT_STATUS, ArtifactError, ConfigError, must

ONE_THREAD = ("runtime=cpu", "runtime.threads=1", "runtime.workers=1")

CUTS = {
    "smoke": (
        "data.limit=150", "data.dev_queries=20", "data.validation_queries=20", "mining.dev_depth=5",
        "training.max_steps=12", "training.eval_steps=4", *ONE_THREAD,
        "evaluation.bi_encoder=false", "evaluation.fusion=false", "emissions=off",
    ),
    "quickstart": (
        "data.packages=[pandas,networkx]", "data.dev_queries=40", "data.validation_queries=10", "mining.dev_depth=10",
        "training.max_steps=60", "training.eval_steps=20", *ONE_THREAD,
    ),
}  # fmt: skip
"""Experiment → what makes it short: `smoke` seconds, `quickstart` (real weights, rivals, energy) about two minutes.

Every stage and three checkpoints remain.
"""

MODEL = "model/model.safetensors"

POWER = "power loss"
KINDS = ("SIGKILL", "SIGKILL", "SIGKILL", "SIGTERM", POWER)
"""What a kill is, drawn evenly: a power loss is a SIGKILL after which unsynced files lose their end."""

STAGES = {"mine": "mined/*", "train": "runs/*/model", "evaluate": "runs/*/evaluations/*", "card": "runs/*/card"}
"""Stage → where what it makes lies, in the order they run."""

RENDERED = ("README.md", "summary.json")
"""Files beside the artefacts that are made of them."""

POLL_SECONDS = 0.005

SLACK = 0.05
"""Share of a run's remaining time without kills at its end, for a run that takes less than the undisturbed one."""

PATIENCE_SECONDS = 600.0
"""How long a run may take to leave after SIGTERM."""


@dataclass(slots=True)
class Record:
    """What was done, what was noticed and what was lost."""

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
    """What a file fault came to → how many."""
    lost: list[str] = field(default_factory=list)
    """One sentence for each thing that was lost, altered or used though damaged."""

    def as_json(self) -> dict[str, Any]:
        """Plain data for a record."""
        return {
            "kills": self.kills.total(), "kills_by_stage": dict(sorted(self.kills.items())),
            "kills_by_kind": dict(sorted(self.kinds.items())), "kills_of_each_run": self.chains,
            "models_of_the_runs": dict(sorted(self.models.items())),
            "requeued_after_sigterm": self.requeued, "file_faults": self.faults.total(),
            "file_faults_by_outcome": dict(sorted(self.faults.items())), "lost": self.lost,
        }  # fmt: skip


@dataclass(slots=True)
class Undisturbed:
    """A run without faults: its results, its processor seconds, and the share of its time each artefact was made at."""

    place: Place
    results: dict[str, Any]
    seconds: float
    complete: dict[str, float]

    def remaining(self, place: Place) -> float:
        """Processor seconds of work that another place still has before it."""
        return self.seconds * (1 - max((self.complete.get(name, 0.0) for name in place.complete()), default=0.0))


def undisturbed(place: Place) -> Undisturbed:
    """Run to the end.

    Raises:
        ArtifactError: when it fails without any fault.
    """
    began = time.time()
    if (status := place.finish()) != 0:
        raise ArtifactError(f"an undisturbed run must end well, got exit status {status}: {place.said()}")
    length = time.time() - began
    complete = {name: (moment - began) / length for name, moment in place.complete().items()}
    return Undisturbed(place, place.results(), place.server.seconds, complete)


def stage_of(place: Place) -> str:
    """The stage that is not complete yet."""
    for name, pattern in STAGES.items():
        if not any((path / artifacts.MANIFEST).is_file() for path in place.outputs.glob(pattern)):
            return name
    return "end"


def chain(place: Place, reference: Undisturbed, draw: random.Random, kills: int, record: Record) -> None:
    """Kill one run up to `kills` times at random moments of what it has still to do, let it end, compare."""
    done = 0
    for number in range(kills):
        # What is complete is not done again: early kills come early enough for the later ones to come at all.
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
            print(f"{place.root.name}: {kind} in {stage} after {moment:.1f} s of processor time", flush=True)
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
    elif status not in (0, -signal.SIGTERM):  # it had ended just then, or had not read its command line yet
        record.lost.append(f"{place.root.name}: exit status {status} after SIGTERM: {place.said()[-500:]}")
    if status is None:
        kill(pid, signal.SIGKILL)
        place.server.ended(None)


# --- Files ------------------------------------------------------------------------------------------------------------


def damages(data: bytes, draw: random.Random) -> Iterator[tuple[str, bytes | None]]:
    """A file missing, cut short, with one bit flipped."""
    yield "missing", None
    yield "truncated", data[: draw.randrange(len(data))] if data else b"x"
    at = draw.randrange(len(data)) if data else 0
    yield "flipped", data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :] if data else b"y"


def files_of(outputs: Path) -> list[Path]:
    """Every file a later command reads, of artefacts and beside them, from `outputs` on."""
    named = [path.relative_to(outputs) for path in outputs.rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(path for path in named if path.parts[0] != "logs" and path.suffix != ".lock")


def _artefacts(reference: Undisturbed) -> list[str]:
    return [folder for folder in reference.complete if "checkpoints" not in folder]


def damage(place: Place, reference: Undisturbed, name: Path, fault: str, data: bytes | None) -> tuple[str, list[str]]:
    """Damage one file of a finished run where the next command must read it; what came of it, and what was wrong."""
    shutil.rmtree(place.root)
    (place.root / "here").mkdir(parents=True)
    shutil.copytree(reference.place.outputs, place.outputs, symlinks=True)
    if "checkpoints" in name.parts or name.parts[0] in ("tokens", "cache"):
        for pattern in ("runs/*/model", "runs/*/evaluations", "runs/*/card"):  # else nothing would read the file
            for folder in place.outputs.glob(pattern):
                shutil.rmtree(folder)
    path = place.outputs / name
    path.unlink() if data is None else path.write_bytes(data)
    status = place.finish()
    if status == EXIT_STATUS and place.one_sentence("error: "):
        return "refused", []
    if status != 0:
        return "failed", [f"{name} {fault}: exit status {status}: {place.said()[-500:]}"]
    wrong = place.wrong(reference.results)
    wrong += [f"{folder} was not made again" for folder in _artefacts(reference) if folder not in place.complete()]
    if data is not None and name.name in RENDERED and path.read_bytes() == data:
        wrong.append("it is still as damaged")
    return ("made again or not needed", []) if not wrong else ("used", [f"{name} {fault}: {s}" for s in wrong])


def damage_files(reference: Undisturbed, place: Place, draw: random.Random, count: int, record: Record) -> None:
    """Damage `count` files, each alone: every file once before any a second time, with another fault."""
    outputs = reference.place.outputs
    planned = []
    for name in files_of(outputs):
        faults = list(damages((outputs / name).read_bytes(), draw))
        draw.shuffle(faults)
        planned += [(turn, draw.random(), name, *fault) for turn, fault in enumerate(faults)]
    for _, _, name, fault, data in sorted(planned, key=lambda plan: plan[:2])[:count]:
        outcome, wrong = damage(place, reference, name, fault, data)
        record.faults[outcome] += 1
        record.lost += wrong


# --- A campaign -------------------------------------------------------------------------------------------------------


def arguments(asked: Faults) -> list[str]:
    """The words of the run that is broken.

    Raises:
        ConfigError: when an experiment is to be cut that has no cut.
    """
    is_cut = asked.experiment == "smoke" if asked.cut is None else asked.cut
    if is_cut and asked.experiment not in CUTS:
        remedy = "Pass cut=false to run it as it is."
        raise ConfigError(must("cut=true", f"go with experiment={' or '.join(CUTS)}", asked.experiment, remedy))
    return [f"experiment={asked.experiment}", *(CUTS[asked.experiment] if is_cut else ())]


def campaign(asked: Faults) -> tuple[Record, Path]:
    """Kills until `asked.kills`, in chains of `asked.chain`, then file faults; the record and where it was written."""
    draw, record, words = random.Random(asked.seed), Record(), arguments(asked)
    folder, began = Path(asked.outputs_dir).resolve() / "faults", time.time()
    artifacts.make_folder(folder)
    with (
        tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as work,
        closing(Server(Path(work) / "home")) as server,
    ):

        def place(name: str) -> Place:
            return Place(Path(work) / name, words, server)

        reference = undisturbed(place("undisturbed"))
        print(f"undisturbed: {reference.seconds:.1f} s of processor time, {len(reference.results)} results", flush=True)
        while record.kills.total() < asked.kills:
            run = place(f"run-{len(record.chains) + 1}")
            chain(run, reference, draw, min(asked.chain, asked.kills - record.kills.total()), record)
            print(f"{run.root.name}: {record.chains[-1]} kills, {len(record.lost)} lost so far", flush=True)
            shutil.rmtree(run.root)
            if record.lost and not record.chains[-1]:  # it fails by itself: kills would never come
                break
        damage_files(reference, place("damaged"), draw, asked.files, record)
    cut = "-cut" if len(words) > 1 else ""
    path = folder / f"{asked.experiment}{cut}-kills{asked.kills}-files{asked.files}-seed{asked.seed}.json"
    facts = {
        "experiment": asked.experiment, "arguments": words, "seed": asked.seed,
        "undisturbed_seconds_of_processor_time": round(reference.seconds, 1),
        "undisturbed_model": next(iter(digest for name, digest in reference.results.items() if name.endswith(MODEL))),
        **record.as_json(),
    }  # fmt: skip
    artifacts.write_json(path, {**facts, "seconds": round(time.time() - began, 1)})
    return record, path


def status(record: Record) -> int:
    """0 only when nothing was lost."""
    return EXIT_STATUS if record.lost else 0
