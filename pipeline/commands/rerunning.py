"""Repeat exactly the run of a manifest, and report beforehand which inputs have changed since."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import recorded
from pipeline.config.command_arguments import Rerun
from pipeline.config.paths import KEYS
from pipeline.config.schema import Config
from pipeline.core.console import shown
from pipeline.core.errors import ArtifactError, must
from pipeline.hub.lock_file import LOCK
from pipeline.hub.repo_files import looks_local
from pipeline.stages.plan import RunPlan
from pipeline.stages.run import run as run_stages

log = logging.getLogger(__name__)


def configuration(asked: Rerun) -> tuple[Config, dict[str, Any]]:
    """Return the manifest's configuration, with `outputs_dir` replaced if one is given, and the manifest.

    Raises:
        ArtifactError: when there is no such manifest, it was altered, or it records no configuration.
    """
    config, manifest = recorded.of_manifest(Path(asked.manifest))
    # A run with hub.refresh is repeated with the commits it resolved then.
    config = dataclasses.replace(config, hub=dataclasses.replace(config.hub, refresh=False))
    if asked.outputs_dir is not None:
        config = dataclasses.replace(config, outputs_dir=asked.outputs_dir)
    return config, manifest


def rerun(asked: Rerun) -> None:
    """Run the manifest's configuration; whatever is already complete in the outputs folder is not made again."""
    config, manifest = configuration(asked)
    # Copy the lock file too, so that the same commits are used.
    recorded = Path(manifest["provenance"]["config"]["outputs_dir"]) / LOCK
    lock = Path(config.outputs_dir) / LOCK
    if recorded.is_file() and not lock.exists():
        lock.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(recorded, lock)
    # Record the original command instead of this one, whose `outputs/latest` may mean another run tomorrow.
    elsewhere = [] if asked.outputs_dir is None else [f"outputs_dir={asked.outputs_dir}"]
    sys.argv[:] = [*manifest["provenance"]["command"], *elsewhere]
    run = RunPlan(config)
    _find_inputs(config)
    key = {"mine": run.mine_key, "train": run.train_key}.get(manifest["artifact"])
    if key is not None and (changed := _changed(manifest["key"], key)):
        log.warning("not the same run: %s differ from the manifest's, so its folder has a different name", changed)
    log.info("runs again   %s, into %s", config.name, shown(run.folder))
    run_stages(config)


def _find_inputs(config: Config) -> None:
    """Refuse a run whose local files have moved: only the run's own command accepts their new paths.

    Raises:
        ArtifactError: naming the first key whose path does not exist.
    """
    for key in KEYS:
        group, _, name = key.partition(".")
        values = getattr(getattr(config, group), name) if name else None
        for path in values if isinstance(values, list) else [values]:
            if isinstance(path, str) and looks_local(path) and not Path(path).exists():
                remedy = f"Put it back, or give the run's own command {key}=<where it is now>."
                raise ArtifactError(must(f"{key}={path}", "be where the run read it", "nothing there", remedy))


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """Return the dotted names of the parts of a key that differ."""
    found = []
    for name in {**before, **now}:
        a, b = before.get(name), now.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found.append(_changed(a, b, f"{prefix}{name}."))
        elif a != b:
            found.append(prefix + name)
    return ", ".join(part for part in found if part)
