"""What made an artefact: command, configuration, commit, versions, machine. Knows no stage and hashes nothing.

The record is written into manifests and rendered in the card; it never enters a fingerprint. It holds no environment
variables, and values that look like credentials are masked.
"""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from pipeline.core.credentials import masked, masked_command
from pipeline.core.packages import version_of

LIBRARIES = (
    "accelerate",
    "bm25s",
    "codecarbon",
    "datasets",
    "faiss-cpu",
    "huggingface_hub",
    "hydra-core",
    "ir-measures",
    "numpy",
    "omegaconf",
    "safetensors",
    "scipy",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
    "wandb",
)
"""Distributions whose versions are recorded, as None where one is not installed."""

CODE = ("pipeline", "scripts", "conf", "pyproject.toml")
"""Paths of the checkout that decide a result: a change outside them does not make it dirty."""


def _git(root: Path, *arguments: str) -> str | None:
    """Return the output of a git command in `root`, or None if git, the repository or the permission is missing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def checkout(root: Path | None = None) -> dict[str, Any]:
    """Return commit and dirty flag of the checkout that holds this package (or of `root`); both None without one.

    A package that merely lies inside another repository (an environment folder, say) has no commit of its own:
    the top level of the repository must be the folder that holds `pipeline/`.
    """
    root = (root or Path(__file__).resolve().parents[2]).resolve()
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD") if top and Path(top).resolve() == root else None
    if commit is None:
        return {"commit": None, "dirty": None}
    present = [path for path in CODE if (root / path).exists()]
    status = _git(root, "status", "--porcelain", "--", *present)
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def versions() -> dict[str, str | None]:
    """Return Python's and the libraries' versions, from metadata: no library is imported."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in LIBRARIES}}


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Return how many logical cores this process may use: in a container, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def hardware() -> dict[str, Any]:
    """Return CPU model, usable logical cores, RAM in GiB, GPU names (or None), instruction set, bf16 unit, platform."""
    import torch

    from pipeline.core.processor import bf16_unit

    gpus = None
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "cpu_model": _cpu_model(),
        "cpu_cores": _cores(),
        "ram_gib": round(psutil.virtual_memory().total / 2**30, 2),
        "gpus": gpus,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "bf16_unit": bf16_unit(),
        "platform": platform.platform(),
    }


def threads() -> dict[str, int]:
    """Return torch's current numbers of threads within one operation and between operations."""
    import torch

    return {"intra_op": torch.get_num_threads(), "inter_op": torch.get_num_interop_threads()}


def record(command: list[str], config: dict[str, Any]) -> dict[str, Any]:
    """Return the provenance of what a stage is about to write, as plain JSON.

    Args:
        command: the words of the command, program first; credentials in it are masked.
        config: the composed configuration as plain data; credentials in it are masked.

    Returns:
        keys `started_at` (UTC, ISO 8601, seconds), `command`, `config`, `git` (`commit`, `dirty`), `versions`,
        `hardware` and `threads`.
    """
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": masked_command(command),
        "config": masked(config),
        "git": checkout(),
        "versions": versions(),
        "hardware": hardware(),
        "threads": threads(),
    }
