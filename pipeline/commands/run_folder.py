"""Runs on this disk: where a command finds one, its model, and every folder it stands on or made.

Computes nothing; knows nothing of what is done with a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.core import artifacts, atomic
from pipeline.core.errors import ArtifactError, must


def find_run(run: str | None, outputs_dir: str) -> Path:
    """A run's folder: `outputs/latest` for None, else a path (also of the model in it), or a name below `outputs/runs`.

    Raises:
        ArtifactError: when there is none, naming the runs there are, or `latest` is a folder of its own.
    """
    root = Path(outputs_dir)
    if run is None:
        atomic.require_link(root / "latest")
    for folder in [root / "latest"] if run is None else [Path(run), root / "runs" / run]:
        if folder.is_dir():
            found = folder.resolve()
            # Its model's own folder stands for a run too: other commands take that one.
            return found.parent if found.name == "model" and not (found / "model").exists() else found
    runs = sorted(folder.parent.name for folder in (root / "runs").glob("*/model"))
    remedy = f"Choose among {', '.join(runs)}." if runs else "Run `make train` first."
    if run is None:
        raise ArtifactError(must(str(root / "latest"), "point at a finished run", "none", remedy))
    raise ArtifactError(must("run", f"name a folder of {root / 'runs'} or a path", repr(run), remedy))


def model_folder(run: Path) -> Path:
    """The run's saved model, every file verified against its manifest.

    Raises:
        ArtifactError: when the model is missing, incomplete or altered.
    """
    folder = run / "model"
    if found := artifacts.problems(folder):
        raise ArtifactError(f"{folder} must be complete, got: {found[0]}. Run its training again.")
    return folder


def folders_of(run: Path) -> list[Path]:
    """Every folder with a manifest that a run stands on or made, in the order they were made.

    Those that its card names and that are gone are among them, as are those whose own manifest was altered.
    """
    from pipeline.engine import checkpoints  # late: a run is found, and a model scored with, without loading torch

    found = [*(checkpoints.folder_of(run / "checkpoints", step) for step in checkpoints.steps(run / "checkpoints"))]
    found += [run / "model", *sorted(path for path in (run / "evaluations").glob("[!.]*") if path.is_dir())]
    try:
        if (model := artifacts.manifest_of(run / "model")) is not None:
            mined = mined_of(run, model)
            found = [*([] if mined is None else [mined]), *_tokens(run, model), *found]
        if (card := artifacts.manifest_of(run / "card")) is not None:
            found += [path for name in card["key"]["evaluations"].values()
                      if not (path := run / "evaluations" / name).is_dir()]  # fmt: skip
    except ArtifactError:
        pass  # an altered manifest is named by `artifacts.problems`
    return [*found, run / "card"]


def mined_of(run: Path, model: dict[str, Any]) -> Path | None:
    """The mined set a model was trained on, by the fingerprint in its key; None where it is not beside the run."""
    return next(iter(sorted((run.parent.parent / "mined").glob(f"*-{model['key']['mine']}"))), None)


def _tokens(run: Path, model: dict[str, Any]) -> list[Path]:
    """Token tables of the mined set; they may have been deleted, for they are made again at need."""
    found = []
    for folder in sorted((run.parent.parent / "tokens").glob("[!.]*")):
        try:
            manifest = artifacts.manifest_of(folder) if folder.is_dir() else None
        except ArtifactError:
            found.append(folder)  # nobody knows whose it is: named among what differs
            continue
        if manifest is not None and manifest.get("key", {}).get("mine") == model["key"]["mine"]:
            found.append(folder)
    return found
