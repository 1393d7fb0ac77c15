"""MINE: training rows, dev set and validation set from a configuration's data."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.config.data import Retriever, Source
from pipeline.core import atomic
from pipeline.core.console import shown
from pipeline.core.fingerprint import fingerprint
from pipeline.data import content, source, storage
from pipeline.engine import model_kinds
from pipeline.hub import location
from pipeline.mining.miner import mine as mine_pairs
from pipeline.stages.plan import RunPlan
from pipeline.stages.stage_folder import is_done, stage

log = logging.getLogger(__name__)


def check_data(run: RunPlan) -> None:
    """Read and hash the pairs if they are local files, before any request to the hub.

    Raises:
        DataError: naming the key and the missing file.
    """
    if run.config.data.source is Source.local:
        fingerprint(run.mine_key)


def mine(run: RunPlan) -> Path:
    """Mine training rows, dev set and validation set unless they are complete; return their folder.

    Raises:
        PipelineError: for any fault in the data or the first stage, such as a cross-encoder as embedding model.
    """
    folder, config = run.mined_folder, run.config
    if config.mining.retriever is Retriever.embedding and run.retriever is not None:
        model_kinds.must_be_bi_encoder(run.retriever.folder, "mining.path")
    with atomic.locked(folder):
        if is_done(folder, "mine"):
            return folder
        with stage(run, folder, run.mine_key) as (work, _):
            split = source.load(config.data, source=run.data_path, cache=run.cache, workers=config.runtime.workers)
            mined = mine_pairs(
                split, config.mining, run.cache / "embeddings",
                retriever=None if run.retriever is None else run.retriever.folder,
                dev_name=config.data.dev_name, positive_threshold=config.data.positive_threshold,
                device=run.device.type,
            )  # fmt: skip
            mined.statistics = {**split.statistics, **mined.statistics}
            storage.write_mined(work, mined)
            content.refuse_changed(config.data, run.mine_key["content"], source=run.data_path)
            location.refuse_changed(run.lock, run.source, run.retriever)
        log.info("%-9s %s rows in %s", "mine", f"{len(mined.train):,}", shown(folder))
    return folder
