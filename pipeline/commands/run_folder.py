"""Runs on this disk: find a run, its model, and every folder that it depends on or made.

Computes nothing; knows nothing of what commands do with a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.core import artifacts, atomic
from pipeline.core.errors import ArtifactError, must


def find_run(run: str | None, outputs_dir: str) -> Path:
    """Return a run's folder: `outputs/latest` for None, else a path (of the run or its model/) or a name in `runs`.

    Raises:
        ArtifactError: when there is no such run, naming those that exist; or when `latest` is not a link.
    """
    root = Path(outputs_dir)
    if run is None:
        atomic.require_link(root / "latest")
    for folder in [root / "latest"] if run is None else [Path(run), root / "runs" / run]:
        if folder.is_dir():
            found = folder.resolve()
            # A run's model/ stands for the run too, because other commands take that path.
            return found.parent if found.name == "model" and not (found / "model").exists() else found
    runs = sorted(folder.parent.name for folder in (root / "runs").glob("*/model"))
    remedy = f"Choose among {', '.join(runs)}." if runs else "Run `make train` first."
    if run is None:
        raise ArtifactError(must(str(root / "latest"), "point at a finished run", "none", remedy))
    raise ArtifactError(must("run", f"name a folder of {root / 'runs'} or a path", repr(run), remedy))


def model_folder(run: Path) -> Path:
    """Return the folder of the run's saved model, after verifying every file against its manifest.

    Raises:
        ArtifactError: when the model is missing, incomplete or altered.
    """
    folder = run / "model"
    if found := artifacts.problems(folder):
        raise ArtifactError(f"{folder} must be complete, got: {found[0]}. Run its training again.")
    return folder


def folders_of(run: Path) -> list[Path]:
    """Return every folder with a manifest that a run depends on or made, in the order they were made.

    Includes missing evaluations that the card names, and folders whose manifest was altered.
    """
    from pipeline.engine import checkpoints  # late: it loads torch, which the other functions here do without

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
        pass  # `artifacts.problems` reports an altered manifest
    return [*found, run / "card"]


def mined_of(run: Path, model: dict[str, Any]) -> Path | None:
    """Return the mined set a model was trained on, found by the fingerprint in its key; None if it is missing."""
    return next(iter(sorted((run.parent.parent / "mined").glob(f"*-{model['key']['mine']}"))), None)


def _tokens(run: Path, model: dict[str, Any]) -> list[Path]:
    """Return the token tables of the mined set; they may have been deleted, since they are rebuilt when needed."""
    found = []
    for folder in sorted((run.parent.parent / "tokens").glob("[!.]*")):
        try:
            manifest = artifacts.manifest_of(folder) if folder.is_dir() else None
        except ArtifactError:
            found.append(folder)  # its mined set is unknown; included, so that it is reported as altered
            continue
        if manifest is not None and manifest.get("key", {}).get("mine") == model["key"]["mine"]:
            found.append(folder)
    return found
