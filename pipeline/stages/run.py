"""Run MINE, TRAIN, EVALUATE and CARD in order, as far as their results are missing."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from pathlib import Path

from pipeline.config.schema import Config, Stage
from pipeline.core import atomic
from pipeline.reporting import report
from pipeline.stages.banner import announce
from pipeline.stages.card import card, log_without_card
from pipeline.stages.evaluate import check_inputs, evaluate
from pipeline.stages.mine import check_data, mine
from pipeline.stages.models import check_base
from pipeline.stages.plan import RunPlan
from pipeline.stages.train import train
from pipeline.telemetry.emissions import check_country

log = logging.getLogger(__name__)


def run(config: Config, stop_after: Stage | None = None, commits: Mapping[str, str] | None = None) -> Path | None:
    """Run a configuration's stages whose results are missing, up to `stop_after` (default: the configuration's own).

    `commits` is as in `RunPlan`.

    Returns:
        The run's folder, or None when it stopped after mining.

    Raises:
        PipelineError: for every error that the user can act on.
    """
    last = stop_after or config.stop_after
    mines_only, evaluates = last is Stage.mine, last in (Stage.evaluate, Stage.card)
    this = RunPlan(config, commits)
    if not mines_only:
        atomic.require_link(this.outputs / "latest")
    if config.emissions.enabled:
        check_country(config.emissions.country_iso_code)
    check_data(this)
    announce(this, mines_only=mines_only)
    if not mines_only:
        check_base(this)
    if evaluates:
        check_inputs(this)
    mine(this)
    if mines_only:
        return None
    train(this)
    if evaluates:
        evaluate(this)
    if last is Stage.card:
        card(this)
    elif evaluates:
        log_without_card(this)
    _point_latest(this)
    return this.folder


def _point_latest(run: RunPlan) -> None:
    try:
        atomic.point(run.outputs / "latest", run.folder)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
            raise
        log.warning(
            "cannot make the link %s (%s): name this run with run=%s",
            run.outputs / "latest",
            error.strerror,
            run.folder,
        )


def headline(folder: Path) -> str | None:
    """Return a finished run's figures in one line, or None if the run has no summary yet."""
    path = folder / "summary.json"
    return report.headline(atomic.read_json(path)) if path.is_file() else None
