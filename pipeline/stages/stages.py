"""MINE, TRAIN, EVALUATE and CARD: run whatever is missing of a configuration, in order.

The layers below do the work; `plan` names the folders.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.commands.banner import announce
from pipeline.config.schema import DEV, NANO, VALIDATION, Config, ModelConfig, Stage, nano_beir_name
from pipeline.core import artifacts
from pipeline.core.errors import ArtifactError
from pipeline.core.fingerprint import fingerprint, plain, slug
from pipeline.core.records import AS_RETRIEVED, TRAINED, UNTRAINED, RerankingSet
from pipeline.data import source, storage
from pipeline.data.nano_beir import read as read_nano_beir
from pipeline.data.trec import read_beir
from pipeline.engine import modeling
from pipeline.engine.modeling import Reranker
from pipeline.engine.scoring import BiEncoderScorer, PairScorer
from pipeline.engine.tokens import PairTemplate, TokenTable, identity
from pipeline.engine.training import Hooks, Measures, Trainer, TrainingRows
from pipeline.evaluation import evaluator, reranking
from pipeline.mining.miner import mine as mine_pairs
from pipeline.mining.retrieval import bm25_candidates
from pipeline.reporting import comparison, model_card, report
from pipeline.reporting.facts import RunFiles, collect, fixed_step_protocol
from pipeline.stages.plan import VERSIONS, Run, is_done, shown, stage
from pipeline.telemetry.emissions import MEASURE_SECONDS
from pipeline.telemetry.tracking import Tracker, start

log = logging.getLogger(__name__)

ORDER = (Stage.mine, Stage.train, Stage.evaluate, Stage.card)

NANO_MEAN = "NanoBEIR_R100_mean"
"""Name of the mean over the NanoBEIR sets, as published cards write it."""

BI_ENCODER, FUSION = "bi_encoder", "fusion"
"""Rivals that need no training: the starting weights as a bi-encoder, and its fusion with the first stage."""

PROBE_PAIRS = 64
"""Pairs scored before saving and after reloading; every score must be equal."""


def run(config: Config, stop_after: Stage | None = None) -> Path | None:
    """Run whatever is missing of a configuration, up to `stop_after` (by default the configuration's own).

    Returns:
        The run's folder, or None when it stopped after mining.

    Raises:
        PipelineError: whatever the user can act on.
    """
    last = ORDER.index(stop_after or config.stop_after)
    this = Run(config)
    announce(this)
    mine(this)
    if last < ORDER.index(Stage.train):
        return None
    train(this)
    if last >= ORDER.index(Stage.evaluate):
        evaluate(this)
    if last >= ORDER.index(Stage.card):
        card(this)
    artifacts.point(this.outputs / "latest", this.folder)
    return this.folder


def mine(run: Run) -> Path:
    """Training rows, dev and validation sets of the configuration's data."""
    folder, config = run.mined_folder, run.config
    with artifacts.locked(folder):
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
        log.info("%-9s %s rows in %s", "mine", f"{len(mined.train):,}", shown(folder))
    return folder


def scorer_of(run: Run, reranker: Reranker) -> PairScorer:
    """A scorer in the one evaluation precision; moves the model to the device."""
    reranker.model.to(run.device)
    budget = run.token_budget(reranker.hidden_size, reranker.layers)
    precision = run.config.evaluation.precision
    return PairScorer(reranker, device=run.device, precision=precision, token_budget=budget)


def load(run: Run, folder: Path, config: ModelConfig) -> Reranker:
    """The model of a folder; a head it lacks is drawn from the run's seed."""
    return modeling.load(folder, config, seed=run.config.seed, attention=run.attention())


def load_saved(run: Run, folder: Path) -> Reranker:
    """A model this run saved: its folder already holds the layers, width and weights it was trained with."""
    return load(run, folder, dataclasses.replace(run.config.model, layers=None, hidden_size=None, random_init=False))


def evaluation_set(run: Run, name: str) -> RerankingSet:
    """A set by name: the dev set, `validation`, a NanoBEIR split, or a folder of `evaluator.collections`."""
    if name == run.config.data.dev_name:
        return storage.read_set(run.mined_folder / "dev")
    if name == VALIDATION:
        return storage.read_set(run.mined_folder / VALIDATION)
    if name in nano_names(run.config):
        collection, found = read_nano_beir(run.nano_beir.folder, name)
        scores = {query: [1.0 / (rank + 1) for rank in range(len(ids))] for query, ids in found.items()}
        return reranking.collection_set(collection, found, scores, name)
    collection = read_beir(run.collections[name].folder, name)
    depth = run.config.evaluation.depth
    if collection.run is not None:
        found, scores = reranking.run_candidates(collection.run, depth)
    else:
        judged = {query: text for query, text in collection.queries.items() if query in collection.qrels}
        found, scores = bm25_candidates(judged, collection.passages, depth)
    return reranking.collection_set(collection, found, scores, name)


def nano_names(config: Config) -> list[str]:
    """Split names of the configured NanoBEIR sets."""
    return [nano_beir_name(short) for short in config.evaluation.nano_beir]


# --- TRAIN ------------------------------------------------------------------------------------------------------------


def train(run: Run) -> Path:
    """The run's model/: weights, tokenizer, training.json, metrics.jsonl, emissions.json."""
    folder, config = run.folder / "model", run.config
    with artifacts.locked(folder):
        if is_done(folder, "train"):
            return folder
        artifacts.write_text(run.folder / "config.yaml", yaml.safe_dump(plain(run.config), sort_keys=False))
        earlier: list[dict[str, Any]] = []
        with stage(run, folder, run.train_key, lambda: earlier) as (work, meter), _signals() as asked:
            reranker = load(run, run.base.folder, run.config.model)
            rows = training_rows(run, reranker)
            metrics, energy = MetricsLog(run), EnergyLog(run.folder / "energy.json", meter.snapshot)
            budget = run.token_budget(reranker.hidden_size, reranker.layers)

            def noted(logged: list[dict[str, Any]]) -> None:
                metrics.update(logged)
                energy.note()

            trainer = Trainer(
                reranker, rows, run.config.training, seed=run.config.seed, device=run.device,
                precision=run.config.training.precision, token_budget=budget, folder=run.folder / "checkpoints",
                identity={"key": fingerprint(run.train_key), "scope": run.scope(run.config.training.precision, budget)},
                hooks=Hooks(
                    evaluate=_fixed_evaluation(run, reranker), on_row=noted,
                    energy=energy.now, interrupted=asked.is_set,
                    selection_set=config.data.dev_name if config.training.selection_set == DEV else None,
                ),
            )  # fmt: skip
            facts = trainer.run()
            earlier += energy.before or trainer.energy_before
            facts["tracking"] = metrics.finish()
            modeling.save(reranker, work, run.config.model)
            _must_reload_equal(run, reranker, work)
            artifacts.write_json(work / "training.json", facts)
            artifacts.write_bytes(work / "metrics.jsonl", metrics.path.read_bytes())
        energy.close()
        log.info("%-9s %s pairs/s, model in %s", "train", f"{facts['pairs_per_second']:,.1f}", shown(folder))
    return folder


def training_rows(run: Run, reranker: Reranker) -> TrainingRows:
    """The mined rows over a token table that is built once for a tokenizer, data and length, then mapped."""
    key = {
        "stage": "tokens",
        "version": VERSIONS["tokens"],
        "tokenizer": identity(reranker.tokenizer),
        "max_length": reranker.max_length,
        "mine": fingerprint(run.mine_key),
    }
    folder = run.outputs / "tokens" / f"{slug(run.config.data.name)}-{fingerprint(key)}"
    with artifacts.locked(folder):
        if not artifacts.is_complete(folder):
            with artifacts.publish(folder, {"artifact": "tokens", "fingerprint": fingerprint(key), "key": key}) as work:
                TokenTable.write(storage.texts(run.mined_folder), reranker.tokenizer, reranker.max_length, work)
    return rows_of(run.mined_folder, folder, reranker)


def rows_of(mined: Path, tokens: Path, reranker: Reranker) -> TrainingRows:
    """Mined rows beside their token table."""
    pairs = storage.read_indices(mined)
    return TrainingRows(
        table=TokenTable.open(tokens),
        template=PairTemplate.of(reranker.tokenizer, reranker.max_length),
        first=pairs.question,
        second=pairs.passage.astype(np.int64) + storage.count_questions(mined),
        label=pairs.label,
    )


def fixed_sets(config: Config) -> list[str]:
    """Names of the sets `training.eval_sets` asks for, in its order."""
    meant = {DEV: [config.data.dev_name], VALIDATION: [VALIDATION], NANO: nano_names(config)}
    return [name for asked in config.training.eval_sets for name in meant[asked]]


def _fixed_evaluation(run: Run, reranker: Reranker) -> Any:
    """What the trainer calls at its fixed steps: set → measure → mean, tokens kept between calls."""
    nano = nano_names(run.config)
    sets = {name: evaluation_set(run, name) for name in fixed_sets(run.config)}
    scorer = scorer_of(run, reranker)

    def measured_now() -> Measures:
        found: Measures = {}
        for name, reranking_set in sets.items():
            found[name] = reranking.quick(reranking_set, scorer, fixed_step_protocol(name))
        if nano and all(name in found for name in nano):
            found[NANO_MEAN] = evaluator.mean_of_means([found[name] for name in nano])
        return found

    return measured_now


def _must_reload_equal(run: Run, reranker: Reranker, saved: Path) -> None:
    """Refuse to publish a folder whose scores are not those of the model in memory.

    Raises:
        ArtifactError: naming the largest difference.
    """
    dev = storage.read_set(run.mined_folder / "dev")
    _, pairs = reranking.pool_pairs(dev, AS_RETRIEVED)
    probe = pairs[:PROBE_PAIRS]
    before = scorer_of(run, reranker).score(probe)
    after = scorer_of(run, load_saved(run, saved)).score(probe)
    if not np.array_equal(before, after):
        raise ArtifactError(
            f"the saved model must score as the one in memory, got logits {np.abs(before - after).max():.3g} apart. "
            "Nothing was published; report this with the run's config.yaml."
        )


class MetricsLog:
    """metrics.jsonl of a run, and its mirror in W&B: every row once, also across resumes."""

    def __init__(self, run: Run) -> None:
        self.path = run.folder / "metrics.jsonl"
        self._written: int | None = None
        name = run.folder / "tracking.json"
        if not name.exists():
            artifacts.write_json(name, {"id": f"{run.folder.name}-{secrets.token_hex(4)}"})
        self._tracker: Tracker = start(
            run.config.tracking, artifacts.read_json(name)["id"], run.folder, plain(run.config)
        )

    def update(self, rows: Sequence[dict[str, Any]]) -> None:
        """Bring the file to these rows: rewritten whole the first time (a resume may have fewer), then appended."""
        lines = [json.dumps(row, allow_nan=False) + "\n" for row in rows[self._written or 0 :]]
        if self._written is None:
            artifacts.write_text(self.path, "".join(lines))
        else:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.writelines(lines)
        for row in rows[self._written or 0 :]:
            self._tracker.log(row["step"], dict(_flat(row)))
        self._written = len(rows)

    def finish(self) -> str | None:
        """Close the tracker; what went wrong with it, if anything."""
        return self._tracker.finish()


class EnergyLog:
    """energy.json of a run in training: the newest record of each of its processes, so that a kill loses seconds."""

    def __init__(self, path: Path, snapshot: Callable[[], dict[str, Any]]) -> None:
        self._path, self._snapshot = path, snapshot
        self.before: list[dict[str, Any]] = artifacts.read_json(path) if path.exists() else []
        """The records of earlier processes, those that were killed too."""
        self._noted = -math.inf

    def note(self) -> None:
        """Write the record so far, at most every `MEASURE_SECONDS`: newer figures do not exist before."""
        if time.monotonic() - self._noted >= MEASURE_SECONDS:
            self.now()

    def now(self) -> list[dict[str, Any]]:
        """This process's record so far, written too: at every checkpoint."""
        record = self._snapshot()
        artifacts.write_json(self._path, [*self.before, record])
        self._noted = time.monotonic()
        return [record]

    def close(self) -> None:
        """The model's emissions.json holds the sum now."""
        self._path.unlink(missing_ok=True)


def _flat(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """A row's numbers under the names W&B users know: `train/loss`, `eval/gooaq-dev_ndcg@10`."""
    if row["kind"] == "evaluation":
        for name, measures in row["evaluation"].items():
            for measure, value in measures.items():
                yield f"eval/{name}_{measure}", value
    else:
        for name, value in row.items():
            if name not in ("kind", "step"):
                yield f"train/{name}", value


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets, so that the step under way ends and is saved; a second one ends at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        log.info("stopping after this step (signal %d); once more stops at once", number)
        asked.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- EVALUATE ---------------------------------------------------------------------------------------------------------


def final_sets(run: Run) -> list[str]:
    """Names of the reported sets, in the order shown; the NanoBEIR mean is made of its members."""
    return [run.config.data.dev_name, *run.collections, *nano_names(run.config)]


def evaluation_key(run: Run, name: str) -> dict[str, Any]:
    """Everything that decides what EVALUATE writes for one set; other sets are not among it."""
    config = run.config.evaluation
    if name in run.collections:
        source: Any = {**run.collections[name].identity, "depth": config.depth}
    elif name in nano_names(run.config) or name == NANO_MEAN:
        source = {**run.nano_beir.identity, "sets": nano_names(run.config) if name == NANO_MEAN else [name]}
    else:
        source = {"mine": fingerprint(run.mine_key)}
    return {
        "stage": "evaluate",
        "version": VERSIONS["evaluate"],
        "set": name,
        "train": fingerprint(run.train_key),
        "precision": config.precision.name,
        "source": source,
        "rivals": {rival: found.identity for rival, found in run.rivals.items()},
        "bi_encoder": config.bi_encoder,
        "fusion": config.fusion,
        "resamples": config.resamples,
    }


def evaluation_folder(run: Run, name: str) -> Path:
    """Where a set's evaluation is kept."""
    return run.folder / "evaluations" / f"{slug(name)}-{fingerprint(evaluation_key(run, name))}"


def evaluate(run: Run) -> dict[str, Path]:
    """Set → folder of its evaluation: every system scored once, from models loaded from disk."""
    nano = nano_names(run.config)
    folders = {name: evaluation_folder(run, name) for name in final_sets(run)}
    for name in folders:
        if name not in nano:
            with artifacts.locked(folders[name]):
                if not is_done(folders[name], "evaluate"):
                    _evaluate_one(run, name, folders[name])
    if nano:
        folders[NANO_MEAN] = evaluation_folder(run, NANO_MEAN)
        with artifacts.locked(folders[NANO_MEAN]):
            if not is_done(folders[NANO_MEAN], "evaluate") or not all(artifacts.is_complete(folders[n]) for n in nano):
                members = [_evaluate_one(run, name, folders[name]) for name in nano]
                with stage(run, folders[NANO_MEAN], evaluation_key(run, NANO_MEAN)) as (work, _):
                    artifacts.write_json(work / "measures.json", evaluator.mean_of(members, NANO_MEAN))
    return folders


def _evaluate_one(run: Run, name: str, folder: Path) -> evaluator.Evaluation:
    with stage(run, folder, evaluation_key(run, name)) as (work, _):
        reranking_set = evaluation_set(run, name)
        systems = dict(_systems(run, reranking_set))
        found = evaluator.evaluate(reranking_set, systems, resamples=run.config.evaluation.resamples)
        evaluator.write(found, work)
    log.info("%-9s %s in %s", "evaluate", name, shown(folder))
    return found


def _systems(run: Run, reranking_set: RerankingSet) -> Iterator[tuple[str, reranking.SystemRankings]]:
    """Every system but the first stage, one model in memory at a time."""
    config = run.config
    untrained = load(run, run.base.folder, config.model)
    yield UNTRAINED, reranking.rerank(reranking_set, scorer_of(run, untrained))
    del untrained
    if config.evaluation.bi_encoder:
        bi_encoder = reranking.rerank(
            reranking_set, BiEncoderScorer(run.base.folder, run.cache / "embeddings", run.device)
        )
        yield BI_ENCODER, bi_encoder
        if config.evaluation.fusion:
            yield FUSION, reranking.fuse(reranking.first_stage(reranking_set), bi_encoder)
    for rival, located in run.rivals.items():
        length = modeling.own_max_length(located.folder)
        model = load(run, located.folder, ModelConfig(name=rival, path=str(located.folder), max_length=length))
        yield rival, reranking.rerank(reranking_set, scorer_of(run, model))
    yield TRAINED, reranking.rerank(reranking_set, scorer_of(run, load_saved(run, run.folder / "model")))


# --- CARD -------------------------------------------------------------------------------------------------------------


def card(run: Run) -> Path:
    """The run's card/, its copy README.md, and summary.json; prints the closing table."""
    evaluations = {name: evaluation_folder(run, name) for name in final_sets(run)}
    if run.config.evaluation.nano_beir:
        evaluations[NANO_MEAN] = evaluation_folder(run, NANO_MEAN)
    folder = run.folder / "card"
    key = {
        "stage": "card",
        "version": VERSIONS["card"],
        "train": fingerprint(run.train_key),
        "evaluations": {name: path.name for name, path in evaluations.items()},
    }
    files = RunFiles(
        run=run.folder,
        model=run.folder / "model",
        card=run.folder / "README.md",
        training=run.folder / "model" / "training.json",
        metrics=run.folder / "model" / "metrics.jsonl",
        statistics=run.mined_folder / "statistics.json",
        manifest=run.folder / "model" / artifacts.MANIFEST,
        measures={name: path / "measures.json" for name, path in evaluations.items()},
        emissions={
            "mine": run.mined_folder / "emissions.json",
            "train": run.folder / "model" / "emissions.json",
            **{f"evaluate {name}": path / "emissions.json" for name, path in evaluations.items()},
        },
    )
    with artifacts.locked(folder):
        done = is_done(folder, "card") and (artifacts.manifest_of(folder) or {}).get("fingerprint") == fingerprint(key)
        renderings = (run.folder / "README.md", run.folder / "summary.json")
        if not done or not all(path.is_file() for path in renderings):
            facts = collect(files, plain(run.config), storage.read_rows(run.mined_folder))
            if not done:
                with stage(run, folder, key) as (work, _):
                    artifacts.write_text(work / "README.md", model_card.render(facts))
                log.info("%-9s %s", "card", shown(renderings[0]))
            artifacts.write_text(renderings[0], comparison.card_of(run.folder))
            artifacts.write_json(renderings[1], report.summary(facts))
    log.info("\n%s", report.closing_table(artifacts.read_json(renderings[1])))
    return folder
