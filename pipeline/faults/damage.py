"""Damage to the files of a finished run, one at a time: the next command must make the file again or refuse it.

Knows nothing of how many files are asked for, nor of how runs are killed.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import EXIT_STATUS
from pipeline.faults.kills import Record, Undisturbed
from pipeline.faults.victim import Place

RENDERED = ("README.md", "summary.json", "config.yaml")
"""Files beside the artefacts that are rendered from them."""


def damages(data: bytes, draw: random.Random) -> Iterator[tuple[str, bytes | None]]:
    """Yield each fault with the file's bytes under it: missing (None), cut short, with one bit flipped."""
    yield "missing", None
    yield "truncated", data[: draw.randrange(len(data))] if data else b"x"
    at = draw.randrange(len(data)) if data else 0
    yield "flipped", data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :] if data else b"y"


def files_of(outputs: Path) -> list[Path]:
    """Return every file that a later command reads, in artefacts and beside them, relative to `outputs`."""
    named = [path.relative_to(outputs) for path in outputs.rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(path for path in named if path.parts[0] != "logs" and path.suffix != ".lock")


def _artefacts(reference: Undisturbed) -> list[str]:
    return [folder for folder in reference.complete if "checkpoints" not in folder]


def damage(place: Place, reference: Undisturbed, name: Path, fault: str, data: bytes | None) -> tuple[str, list[str]]:
    """Damage one file of a finished run where the next command must read it; return the outcome and what went wrong."""
    shutil.rmtree(place.root)
    (place.root / "here").mkdir(parents=True)
    shutil.copytree(reference.place.outputs, place.outputs, symlinks=True)
    if "checkpoints" in name.parts or name.parts[0] in ("tokens", "cache"):
        for pattern in ("runs/*/model", "runs/*/evaluations", "runs/*/card"):  # otherwise nothing would read the file
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
        wrong.append("it is still damaged")
    return ("made again or not needed", []) if not wrong else ("used", [f"{name} {fault}: {s}" for s in wrong])


def damage_files(reference: Undisturbed, place: Place, draw: random.Random, count: int, record: Record) -> None:
    """Damage `count` files, one at a time: every file once before any gets a second, different fault."""
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
