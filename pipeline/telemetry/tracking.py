"""Mirrors metrics to Weights & Biases, or nowhere. The only module that imports `wandb`, and only if it is configured.

The facts of a run are in its JSON files; a tracker only copies them. So no failure of a tracker (no login, no network,
its service process killed) ever stops a run: it is warned about once and reported at the end.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pipeline.config.runtime import TrackingConfig, Wandb
from pipeline.core.credentials import masked
from pipeline.core.errors import named

log = logging.getLogger(__name__)

INIT_TIMEOUT_S = 60
"""Seconds W&B may take to open an online run before the run goes on without it."""


class Tracker(Protocol):
    """The interface of a tracker."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Mirror one row of metrics at an optimizer step (0 is the untrained model)."""

    def finish(self) -> str | None:
        """Close the tracker; return None if everything was mirrored, else one sentence about what was not."""


class NoTracker:
    """Mirrors nothing."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def finish(self) -> str | None:
        """Return None: nothing was to be mirrored."""
        return None


class WandbTracker:
    """One W&B run, continued under its id after a resume.

    W&B ignores a row at a step that the run already has, so steps repeated after a resume do no harm.
    """

    def __init__(self, config: TrackingConfig, run_id: str, folder: Path, settings: dict[str, Any]) -> None:
        self._run: Any = None
        self._wandb: Any = None
        self._failure: str | None = None
        self._lost = 0
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            import wandb

            self._wandb = wandb
            self._run = wandb.init(
                project=config.project,
                entity=config.entity,
                id=run_id,
                name=run_id,
                resume="allow" if config.wandb is Wandb.online else None,
                mode="online" if config.wandb is Wandb.online else "offline",
                dir=str(folder),
                config=settings,
                # Metadata would hold the command line, and the console capture all output: both may hold a credential.
                settings=wandb.Settings(
                    console="off",
                    silent=True,
                    disable_git=True,
                    save_code=False,
                    x_disable_meta=True,
                    init_timeout=INIT_TIMEOUT_S,
                ),
            )
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._failure = named(error)
        self._run = None
        log.warning(
            "W&B stopped working (%s); the run continues without it, and metrics.jsonl keeps every figure. "
            "Run `wandb login`, or use tracking=wandb_offline or tracking=none",
            self._failure,
        )
        if self._wandb is not None:
            # A dead service would otherwise raise once more, with a traceback, when the interpreter exits.
            try:
                self._wandb.teardown()
            except Exception as again:
                log.debug("W&B could not be shut down: %s", again)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Mirror one row; after a failure, only count the row as lost."""
        if self._run is None:
            self._lost += 1
            return
        try:
            self._run.log({key: value for key, value in values.items() if math.isfinite(value)}, step=step)
        except Exception as error:
            self._lost += 1
            self._fail(error)

    def finish(self) -> str | None:
        """Close the run; in offline mode its files stay in the folder until `wandb sync` uploads them."""
        if self._run is not None:
            try:
                self._run.finish()
            except Exception as error:
                self._fail(error)
        self._run = None
        if self._failure is None:
            return None
        return f"W&B failed ({self._failure}); at least {self._lost} rows were not mirrored to {self._folder}"


def start(config: TrackingConfig, run_id: str, folder: Path, settings: dict[str, Any]) -> Tracker:
    """Open the tracker that the configuration names.

    Args:
        config: the tracking group.
        run_id: name of the W&B run: letters, digits, `.`, `_`, `-`. The same id continues the same run.
        folder: where W&B keeps its files; created if missing, used by nothing else.
        settings: the composed configuration as plain data; credentials in it are masked.
    """
    if config.wandb is Wandb.none:
        return NoTracker()
    return WandbTracker(config, run_id, folder, masked(settings))
