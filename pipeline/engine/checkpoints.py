"""Checkpoints on disk; those that do not verify are skipped. Knows artefact folders and tensors, not training."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.core import artifacts, atomic
from pipeline.core.errors import ArtifactError, must, raise_shortage

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Checkpoint:
    """Everything a run needs to resume: weights, optimizer, random number generators, and plain facts."""

    step: int
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    generators: dict[str, torch.Tensor]
    facts: dict[str, Any]
    identity: dict[str, Any] = field(default_factory=dict)
    """The checkpoint's manifest, with the run's key and scope. Filled when read."""


def folder_of(root: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` finished steps."""
    return root / f"step-{step:07d}"


def steps(root: Path) -> list[int]:
    """Return the steps that have a checkpoint folder, ascending, verified or not."""
    found = (re.fullmatch(r"step-(\d{7})", path.name) for path in root.glob("step-*") if path.is_dir())
    return sorted(int(match[1]) for match in found if match)


def write(root: Path, checkpoint: Checkpoint, identity: Mapping[str, Any]) -> Path:
    """Publish a checkpoint, complete or not at all. `identity` (the run's key and scope) goes into its manifest."""
    folder = folder_of(root, checkpoint.step)
    with artifacts.publish(folder, {"artifact": "checkpoint", **identity}) as work:
        save_file(
            {name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}, work / "model.safetensors"
        )
        torch.save(checkpoint.optimizer, work / "optimizer.pt")
        torch.save(checkpoint.generators, work / "generators.pt")
        atomic.write_json(work / "facts.json", {"step": checkpoint.step, **checkpoint.facts})
    return folder


def read(folder: Path) -> Checkpoint:
    """Verify and read a checkpoint; pickles are loaded only with `weights_only`.

    Raises:
        ArtifactError: naming what is missing, torn or altered.
    """
    wrong = artifacts.problems(folder)
    if wrong:
        raise ArtifactError("; ".join(wrong))
    facts = atomic.read_json(folder / "facts.json")
    try:
        return Checkpoint(
            step=int(facts.pop("step")),
            weights=load_file(folder / "model.safetensors"),
            optimizer=torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu"),
            generators=torch.load(folder / "generators.pt", weights_only=True, map_location="cpu"),
            facts=facts,
            identity=artifacts.manifest_of(folder) or {},
        )
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, UnpicklingError, SafetensorError) as error:
        raise_shortage(error)
        # The digests agree, so another program wrote it; torch's own advice (weights_only=False) must not be shown.
        raise ArtifactError(
            f"{folder} holds something other than a checkpoint of this pipeline ({type(error).__name__})"
        ) from None


def newest(root: Path) -> Checkpoint | None:
    """Return the newest checkpoint that verifies, None if there are none; log each skipped one with the reason.

    Raises:
        ArtifactError: when there are checkpoints but none verifies: a restart from step 0 is for the user to decide.
    """
    skipped = []
    for step in reversed(steps(root)):
        try:
            return read(folder_of(root, step))
        except ArtifactError as error:
            skipped.append(str(error))
            log.warning("skipping the checkpoint of step %d: %s", step, error)
    if skipped:
        raise ArtifactError(
            f"{root} must hold a checkpoint that verifies, got none of {len(skipped)}: {skipped[0]}. "
            f"Restore one, or delete {root} to train from the start."
        )
    return None


def read_best(root: Path, step: int) -> Checkpoint:
    """Read the checkpoint of the step that a run chose.

    Raises:
        ArtifactError: when it does not verify: no other checkpoint holds those weights.
    """
    folder = folder_of(root, step)
    try:
        return read(folder)
    except ArtifactError as error:
        remedy = f"Restore it, or delete {root} to train from the start."
        raise ArtifactError(must(str(folder), "hold the best step's weights", str(error), remedy)) from None


def prune(root: Path, keep: int, also: int | None = None) -> None:
    """Delete old checkpoints: the newest `keep` stay, and that of step `also`.

    Unless the newest verifies, all stay, so that a torn write never costs the good checkpoint before it.
    """
    present = steps(root)
    if not present or artifacts.problems(folder_of(root, present[-1])):
        return
    for step in present[:-keep]:
        if step != also:
            shutil.rmtree(folder_of(root, step), ignore_errors=True)
