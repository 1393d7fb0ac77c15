"""TRAIN: train a run's model on its mined rows and save it."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import recorded
from pipeline.config.set_names import DEV, NANO_MEAN
from pipeline.core import artifacts, atomic, upkeep
from pipeline.core.console import shown
from pipeline.core.credentials import masked
from pipeline.core.errors import ArtifactError, Interrupted, must
from pipeline.core.fingerprint import fingerprint, plain, slug
from pipeline.core.records import AS_RETRIEVED
from pipeline.core.signals import hung_up, restore, stop_signals
from pipeline.data import storage
from pipeline.engine import model_files
from pipeline.engine.modeling import Reranker
from pipeline.engine.steps import TrainingRows
from pipeline.engine.training import Hooks, Trainer
from pipeline.engine.training_state import Measures
from pipeline.evaluation import figures, reranking
from pipeline.evaluation.protocols import fixed_step_protocol
from pipeline.hub import location
from pipeline.inputs import collation
from pipeline.inputs.pair_template import identity
from pipeline.inputs.tokens import TokenTable
from pipeline.stages.metrics_log import MetricsLog
from pipeline.stages.models import load, load_saved, scorer_of
from pipeline.stages.notices import say_cut, say_steps, say_unknown
from pipeline.stages.plan import VERSIONS, RunPlan
from pipeline.stages.sets import evaluation_set, fixed_sets, nano_names
from pipeline.stages.stage_folder import is_done, stage

log = logging.getLogger(__name__)


PROBE_PAIRS = 64
"""Pairs scored before saving and after reloading; every score must be equal."""


def train(run: RunPlan) -> Path:
    """Train unless it is done; return model/ with weights, tokenizer, training.json, metrics.jsonl, emissions.json."""
    folder, config = run.folder / "model", run.config
    with atomic.locked(folder):
        if is_done(folder, "train"):
            # Copies for people: the log, to which training appended without syncing each row, and the configuration.
            atomic.write_if_changed(run.folder / "metrics.jsonl", (folder / "metrics.jsonl").read_bytes())
            atomic.write_if_changed(run.folder / recorded.FILE, recorded.as_yaml(recorded.values_of(folder)))
            return folder
        atomic.write_bytes(run.folder / recorded.FILE, recorded.as_yaml(masked(plain(run.config))))
        with stage(run, folder, run.train_key) as (work, pieces):
            reranker = load(run, run.base.folder, run.config.model)
            rows = training_rows(run, reranker)
            shares = {"cut_share": say_cut(config, rows), "unknown_share": say_unknown(reranker, rows)}
            metrics = MetricsLog(run)
            budget = run.token_budget(reranker.hidden_size, reranker.layers)

            with _signals() as asked:
                trainer = Trainer(
                    reranker, rows, config.training, seed=config.seed, device=run.device,
                    precision=config.training.precision, token_budget=budget, folder=run.folder / "checkpoints",
                    identity={"key": fingerprint(run.train_key), "scope": run.scope(config.training.precision, budget)},
                    hooks=Hooks(
                        evaluate=_fixed_evaluation(run, reranker), on_row=metrics.update,
                        energy=pieces.note, interrupted=asked.is_set,
                        selection_set=config.data.dev_name if config.training.selection_set == DEV else None,
                    ),
                )  # fmt: skip
                # All outside inputs are read by now; a check any later could come after the first checkpoint.
                location.refuse_changed(run.lock, run.base, run.nano_beir if run.train_key["nano_beir"] else None)
                say_steps(config.training, trainer.plan)
                facts = trainer.run()
            if asked.is_set():  # the signal came too late for the loop; the last checkpoint is written all the same
                raise Interrupted("training was asked to stop at its end. Run the same command again to continue.")
            pieces.recover(trainer.energy_before)
            facts |= {"head_was_saved": reranker.head_was_saved}
            facts |= {"tracking": metrics.finish(), **shares, **pieces.facts()}
            model_files.save(reranker, work, run.config.model)
            _must_reload_equal(run, reranker, work)
            atomic.write_json(work / "training.json", facts)
            atomic.write_bytes(work / "metrics.jsonl", metrics.path.read_bytes())
        speed = f"{facts['pairs_per_second']:,.1f} pairs/s" if facts["steps"] else "no step"
        log.info("%-9s %s, model in %s", "train", speed, shown(folder))
    return folder


def training_rows(run: RunPlan, reranker: Reranker) -> TrainingRows:
    """Return the mined rows with their token table: built once per tokenizer, data and length, then memory-mapped."""
    key = {
        "stage": "tokens",
        "version": VERSIONS["tokens"],
        "tokenizer": identity(reranker.tokenizer),
        "max_length": run.config.training_length,
        "mine": fingerprint(run.mine_key),
    }
    folder = run.outputs / "tokens" / f"{slug(run.config.data.name)}-{fingerprint(key)}"
    with atomic.locked(folder):
        if not artifacts.is_complete(folder):
            with artifacts.publish(folder, {"artifact": "tokens", "fingerprint": fingerprint(key), "key": key}) as work:
                texts, total = storage.texts(run.mined_folder), storage.count_texts(run.mined_folder)
                TokenTable.write(texts, reranker.tokenizer, run.config.training_length, work, total)
    return rows_of(run.mined_folder, folder, reranker, run.config.training_length)


def rows_of(mined: Path, tokens: Path, reranker: Reranker, max_length: int) -> TrainingRows:
    """Return mined rows with their token table; their pairs are cut to `max_length` tokens."""
    pairs = storage.read_indices(mined)
    return TrainingRows(
        table=TokenTable.open(tokens),
        template=collation.checked_template(reranker.tokenizer, max_length),
        first=pairs.question,
        second=pairs.passage.astype(np.int64) + storage.count_questions(mined),
        label=pairs.label,
    )


def _fixed_evaluation(run: RunPlan, reranker: Reranker) -> Any:
    """Return the function that evaluates at fixed steps, giving set → measure → mean.

    All its calls share one scorer, which keeps tokens and micro-batches.
    """
    nano = nano_names(run.config)
    sets = {name: evaluation_set(run, name) for name in fixed_sets(run.config)}
    scorer = scorer_of(run, reranker)

    def measured_now() -> Measures:
        found: Measures = {}
        for name, reranking_set in sets.items():
            found[name] = reranking.mean_measures(reranking_set, scorer, fixed_step_protocol(name))
        if nano and all(name in found for name in nano):
            found[NANO_MEAN] = figures.mean_of_means([found[name] for name in nano])
        return found

    return measured_now


@upkeep.spent("verify")
def _must_reload_equal(run: RunPlan, reranker: Reranker, saved: Path) -> None:
    """Refuse to publish a folder whose scores are not those of the model in memory.

    Raises:
        ArtifactError: naming the largest difference.
    """
    dev = storage.read_set(run.mined_folder / "dev")
    _, pairs = reranking.pool_pairs(dev, AS_RETRIEVED)
    probe = pairs[:PROBE_PAIRS]
    scorer, again = scorer_of(run, reranker), scorer_of(run, load_saved(run, saved))
    before = scorer.score(probe)
    again.token_budget = scorer.token_budget  # the first scorer may have halved it when memory ran out
    after = again.score(probe)
    if not np.array_equal(before, after):
        got = f"logits {np.abs(before - after).max():.3g} apart"
        remedy = "Nothing was published; report this with the run's config.yaml."
        raise ArtifactError(must("the saved model", "score like the one in memory", got, remedy))


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Yield an event that a stop signal sets, so that the current step is finished and saved.

    A second signal stops at once, unless it is SIGHUP. Outside the main thread no signal is handled.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: Any) -> None:
        if number == signal.SIGHUP:
            hung_up()
        elif asked.is_set():
            raise KeyboardInterrupt
        if not asked.is_set():
            log.info("stopping after this step (signal %d); a second signal stops immediately", number)
        asked.set()

    before = {number: signal.signal(number, handle) for number in (*stop_signals(), signal.SIGINT)}
    try:
        yield asked
    finally:
        restore(before, handle)
