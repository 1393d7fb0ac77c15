"""The first lines of a run: what will run, on what, and what it needs. Renders a plan; decides nothing."""

from __future__ import annotations

import logging

import torch

from pipeline.config.data import Source
from pipeline.core.console import number_of, shown
from pipeline.stages.plan import RunPlan

log = logging.getLogger(__name__)


def announce(run: RunPlan, *, mines_only: bool = False) -> None:
    """Log experiment, base model, data, device, precision and needs, before any work.

    With `mines_only`, the base model is not needed: it is named but not located.
    """
    config = run.config
    local = config.model.path if mines_only else run.base.description
    located = [run.retriever, *([] if mines_only else [run.base])]
    needs_hub = config.data.source is Source.hub or any(of is not None and "hub" in of.identity for of in located)
    needs_hub = needs_hub or (not mines_only and bool(config.evaluation.nano_beir))
    device = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else "CPU"
    data = config.data.title or config.data.name
    where = "no hub" if config.data.source is not Source.hub else f"hub data set {config.data.path}"
    log.info("experiment  %s", config.name)
    log.info("base model  %s (%s)", config.model.title or config.model.name, local)
    log.info("data        %s (%s)", data, where)
    log.info("device      %s, %s", device, number_of(torch.get_num_threads(), "thread"))
    log.info("precision   %s (%s)", config.training.precision.name, run.precision_reason)
    log.info("outputs     %s", shown(run.outputs))
    # An experiment's `needs` and `note` describe its own data and sets: with other ones they would mislead.
    packaged = config.data.source is Source.packaged_docs
    note_applies = config.data.source is Source.hub or (packaged and not needs_hub)
    log.info("needs       %s", config.needs if config.needs and note_applies else _needs(run, needs_hub, mines_only))
    for line in config.note.splitlines() if packaged else ():
        log.info("            %s", line)


def _needs(run: RunPlan, needs_hub: bool, mines_only: bool) -> str:
    """Return what a configuration needs when the experiment's own text does not apply."""
    trains_from_hub = not mines_only and "hub" in run.base.identity
    gpu = "a GPU is advised" if run.device.type == "cpu" and trains_from_hub else "no GPU asked for"
    hub = "a hub" if needs_hub else "no hub"
    return f"{hub}, {gpu}; time and disk grow with the rows (try data.limit=2000 first)"
