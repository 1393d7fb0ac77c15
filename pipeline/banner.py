"""The first lines of a run: what will run, on what, and what it needs. Renders a plan; decides nothing."""

from __future__ import annotations

import logging

import torch

from pipeline.config import Source
from pipeline.plan import Run, shown

log = logging.getLogger(__name__)


def announce(run: Run) -> None:
    """Log experiment, base model, data, device, precision and needs, before any work."""
    config = run.config
    local = run.base.description
    device = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else "CPU"
    data = config.data.title or config.data.name
    where = "no hub" if config.data.source is not Source.hub else f"hub data set {config.data.path}"
    log.info("experiment  %s", config.name)
    log.info("base model  %s (%s)", config.model.title or config.model.name, local)
    log.info("data        %s (%s)", data, where)
    log.info("device      %s, %d threads", device, torch.get_num_threads())
    log.info("precision   %s (%s)", config.training.precision.name, run.precision_reason)
    log.info("outputs     %s", shown(run.outputs))
    log.info("needs       %s", config.needs)
    for line in config.note.splitlines():
        log.info("            %s", line)
