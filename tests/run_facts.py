"""Files of a small run in the recipe's form, measured by the real evaluation, for tests of cards and reports."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from composed_config import composed

from pipeline.core.atomic import write_json, write_text
from pipeline.core.fingerprint import plain
from pipeline.core.records import AS_RETRIEVED, POSITIVES_ADDED, PROTOCOLS, LabelledPairs, RerankingSet
from pipeline.evaluation.evaluator import Evaluation, evaluate
from pipeline.evaluation.figures import mean_of
from pipeline.evaluation.reranking import SystemRankings
from pipeline.reporting.comparison import published
from pipeline.reporting.facts import Facts, collect

HOSTILE = 'Is <script>alert("x")</script> | **bold**?\n# not a heading [link](http://example.org) `code` $x$'
"""A question that, unless escaped, would break out of every place in the card where it is shown."""

QUERIES = 40
ROOT = Path(__file__).resolve().parents[1]
TINY, LARGE = "gooaq_bert_tiny", "gooaq_modernbert_large"

CONFIG: dict[str, Any] = {
    "name": "gooaq_bert_tiny",
    "seed": 12,
    "model": {
        "name": "bert-tiny", "title": "BERT-tiny", "path": "prajjwal1/bert-tiny", "revision": "main",
        "max_length": 512, "activation": "sigmoid", "language": "en", "license": "apache-2.0", "random_init": False,
    },
    "data": {
        "name": "gooaq", "title": "GooAQ", "source": "hub", "path": "sentence-transformers/gooaq",
        "dev_name": "gooaq-dev", "rows": 100000, "corpus_path": "/home/someone/private/corpus.jsonl",
    },
    "mining": {
        "negatives": 5, "dev_depth": 30, "retriever": "embedding",
        "path": "sentence-transformers/static-retrieval-mrl-en-v1",
    },
    "training": {
        "batch_size": 2048, "max_length": None, "learning_rate": 5e-4, "epochs": 1, "max_steps": None,
        "warmup_ratio": 0.1, "pos_weight": 5.0, "precision": "auto", "weight_decay": 0.0,
        "selection_measure": "ndcg@10", "selection_set": None, "keep_best": False,
    },
    "evaluation": {"depth": 100, "nano_beir": ["msmarco", "nq"], "rivals": [], "precision": "bf16"},
}  # fmt: skip

TRAINING: dict[str, Any] = {
    "steps": 283, "epochs": 1, "rows": 578402, "batch_size": 2048, "warmup_steps": 29, "first_loss": 1.1945,
    "last_loss": 0.8996, "best_step": None, "saved_step": 283, "selection_set": None, "pairs_per_second": 2345.67,
    "tokens_per_second": 200000.0, "padding_share": 0.051, "train_seconds": 246.6, "seconds": 356.4,
    "precision": "bf16", "micro_batch_tokens": 16384, "device": "cuda", "resumed_at": [],
}  # fmt: skip

LOG: list[dict[str, Any]] = [
    {"kind": "evaluation", "step": 0, "epoch": 0.0, "evaluation": {"gooaq-dev": {"ndcg@10": 0.1}}, "seconds": 1.0},
    {"kind": "train", "step": 1, "epoch": 0.0035, "loss": 1.1945, "seconds": 2.0},
    {"kind": "train", "step": 20, "epoch": 0.0707, "loss": 1.1664, "seconds": 3.0},
    {
        "kind": "evaluation", "step": 20, "epoch": 0.0707, "seconds": 4.0,
        "evaluation": {"gooaq-dev": {"ndcg@10": 0.51}, "NanoNQ": {"ndcg@10": 0.2}},
    },
    {
        "kind": "evaluation", "step": 283, "epoch": 1.0, "seconds": 5.0,
        "evaluation": {"gooaq-dev": {"ndcg@10": 0.5}, "NanoNQ": {"ndcg@10": 0.25}},
    },
]  # fmt: skip

PROVENANCE: dict[str, Any] = {
    "started_at": "2025-03-04T05:06:07+00:00",
    "command": ["scripts/train.py", "data.corpus_path=/home/someone/private/c.jsonl"],
    "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
    "versions": {
        "python": "3.11.6", "torch": "2.13.0", "transformers": "5.23.0", "sentence-transformers": "6.2.0",
        "accelerate": "1.10.0", "datasets": "5.2.0", "tokenizers": "0.22.0",
    },
    "hardware": {
        "cpu_model": "13th Gen Intel(R) Core(TM) i7-13700K", "cpu_cores": 24, "ram_gib": 31.78,
        "gpus": ["NVIDIA GeForce RTX 3090"], "instruction_set": "AVX2", "bf16_unit": None,
    },
    "threads": {"intra_op": 8, "inter_op": 8},
}  # fmt: skip


def config_of(experiment: str) -> dict[str, Any]:
    """Return a composed experiment as plain data, with only the keys named here: a new key changes no golden file."""
    whole: dict[str, Any] = plain(composed(f"experiment={experiment}"))
    kept = {name: set(of) for name, of in CONFIG.items() if isinstance(of, dict)}
    kept["training"] |= {"logging_steps", "logging_first_step", "eval_steps", "eval_sets", "keep_checkpoints"}
    sections = {name: {key: whole[name][key] for key in whole[name] if key in keys} for name, keys in kept.items()}
    return {"name": whole["name"], "seed": whole["seed"], **sections}


def published_log(experiment: str, steps: int) -> list[dict[str, Any]]:
    """Return a published training log as our trainer would write it, with a last step (its figures are made up)."""
    facts, rows = published(experiment)["facts"], []
    for fact in facts:
        if fact["kind"] == "loss":
            rows.append({"kind": "train", "step": fact["step"], "loss": fact["value"]})
    sets: dict[int, dict[str, Any]] = {}
    for fact in facts:
        if fact["kind"] == "log":
            sets.setdefault(fact["step"], {})[fact["set"]] = {fact["measure"]: fact["value"]}
    sets[steps] = sets[max(sets)]
    rows.append({**rows[-1], "step": steps})
    rows += [{"kind": "evaluation", "step": step, "evaluation": of} for step, of in sets.items()]
    return [
        {**row, "epoch": round(row["step"] / steps, 6), "seconds": 1.0}
        for row in sorted(rows, key=lambda row: (row["step"], row["kind"] == "evaluation"))
    ]


def recipe_pairs(positives: int = 99_000, negatives: int = 479_402) -> LabelledPairs:
    """Return as many rows as the recipe's, from six texts of each kind; each positive comes before its negatives."""
    spread = np.linspace(0, positives, negatives, endpoint=False).astype(np.int64)
    question = np.concatenate([np.arange(positives), spread])
    label = np.concatenate([np.ones(positives), np.zeros(negatives)]).astype(np.float32)
    order = np.argsort(question, kind="stable")
    return LabelledPairs(
        questions=[f"how long is river number {number} of the land" for number in range(6)] * (positives // 6),
        passages=[
            f"River number {number} is {100 + number} km long, from its source to the sea." for number in range(6)
        ],
        question=question[order].astype(np.int32),
        passage=((question + np.arange(len(question))) % 6)[order].astype(np.int32),
        label=label[order],
    )


def energy(kwh: float, country: str | None = "DEU") -> dict[str, Any]:
    """Return an emissions record at 400 g/kWh, or 475 without a country."""
    g_per_kwh = 475.0 if country is None else 400.0
    return {
        "energy_kwh": kwh, "emissions_kg": kwh * g_per_kwh / 1000, "duration_s": 356.4, "g_per_kwh": g_per_kwh,
        "cpu_energy_kwh": kwh / 4, "gpu_energy_kwh": kwh / 2, "ram_energy_kwh": kwh / 4, "method": "partly measured",
        "method_by_component": {"cpu": "estimated (TDP constant)", "gpu": "measured (driver's energy counter)"},
        "country_iso_code": country, "grid": country or "world average",
        "cpu_model": "13th Gen Intel(R) Core(TM) i7-13700K", "gpu_model": "1 x NVIDIA GeForce RTX 3090",
        "ram_gib": 31.777088165283203, "codecarbon_version": "3.3.2",
    }  # fmt: skip


def pairs() -> LabelledPairs:
    """Return rows of two questions: the hostile one with a positive and five negatives, another with one of each."""
    return LabelledPairs(
        questions=[HOSTILE, "second question"],
        passages=[f"passage {number} of <b>text</b>" for number in range(8)],
        question=np.array([0] * 6 + [1] * 2, dtype=np.int32),
        passage=np.arange(8, dtype=np.int32),
        label=np.array([1, 0, 0, 0, 0, 0, 1, 0], dtype=np.float32),
    )


def evaluation(name: str, trained_rank: float, systems: tuple[str, ...] = ("untrained", "trained")) -> Evaluation:
    """Evaluate a set of 40 queries with one positive each, which the first stage ranks third on average.

    `trained_rank` is the mean rank that the trained model gives the positive; for every other system it is five. Every
    fifth query's positive was not retrieved, and is added as p10 under the protocol `POSITIVES_ADDED`.
    """
    draw = random.Random(name)
    queries = [f"q{number}" for number in range(QUERIES)]
    found = {query: number % 5 != 0 for number, query in enumerate(queries)}

    def ranking(mean_rank: float, *, added: bool) -> dict[str, list[str]]:
        result = {}
        for query in queries:
            others = [f"p{number}" for number in range(1, 10)]
            rank = min(9, max(1, round(draw.gauss(mean_rank, 1.2))))
            positive = ["p0"] if found[query] else (["p10"] if added else [])
            result[query] = others[: rank - 1] + positive + others[rank - 1 :]
        return result

    candidates = ranking(3, added=False)
    rankings: dict[str, SystemRankings] = {
        system: {p: ranking(trained_rank if system == "trained" else 5, added=p == POSITIVES_ADDED) for p in PROTOCOLS}
        for system in systems
    }
    reranking_set = RerankingSet(
        name=name,
        queries={query: f"text of {query}" for query in queries},
        passages={f"p{number}": f"text {number}" for number in range(11)},
        candidates=candidates,
        qrels={query: {"p0" if found[query] else "p10": 1} for query in queries},
        first_stage="BM25, from the lists that come with NanoBEIR" if name.startswith("Nano") else "",
    )
    assert rankings["trained"][AS_RETRIEVED]
    return evaluate(reranking_set, rankings, resamples=2000)


@functools.cache
def _measures(systems: tuple[str, ...], nfcorpus: bool) -> dict[str, Any]:
    """Return every set's measures.json: a dev set, two or all three of the recipe's NanoBEIR sets, and their mean."""
    ranks = {"NanoMSMARCO": 2.0, **({"NanoNFCorpus": 2.5} if nfcorpus else {}), "NanoNQ": 4.5}
    nano = [evaluation(name, rank) for name, rank in ranks.items()]
    measures = {"gooaq-dev": evaluation("gooaq-dev", 1.5, systems).measures_json()}
    measures |= {of.set.name: of.measures_json() for of in nano}
    return {**measures, "NanoBEIR_R100_mean": mean_of([of.scored() for of in nano], "NanoBEIR_R100_mean")}


def write(
    folder: Path,
    *,
    config: dict[str, Any] = CONFIG,
    training: dict[str, Any] = TRAINING,
    emissions: dict[str, dict[str, Any]] | None = None,
    rows: LabelledPairs | None = None,
    systems: tuple[str, ...] = ("untrained", "trained"),
    log: list[dict[str, Any]] = LOG,
    base_id: str | None = CONFIG["model"]["path"],
    data_id: str | None = CONFIG["data"]["path"],
) -> Facts:
    """Write a run's files below a folder and return the facts collected from them.

    The energy of all evaluations counts as one evaluation's.
    """
    run, mined = folder / "run", folder / "mined"
    measures = _measures(systems, "nfcorpus" in config["evaluation"]["nano_beir"])
    if emissions is None:
        emissions = {"mine": energy(0.001), "train": energy(0.019), "evaluate": energy(0.002)}
    write_json(run / "model" / "training.json", training)
    write_text(run / "model" / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in log))
    write_json(mined / "statistics.json", {"rows": 578402})
    command = [PROVENANCE["command"][0], f"experiment={config['name']}", *PROVENANCE["command"][1:]]
    write_json(run / "model" / "manifest.json", {"provenance": {**PROVENANCE, "command": command}, "files": {}})
    evaluations = {name: run / "evaluations" / name for name in measures}
    for name, content in measures.items():
        write_json(evaluations[name] / "measures.json", content)
    for place in (mined, run / "model", *evaluations.values()):
        write_json(place / "emissions.json", {"enabled": False})
    rows = pairs() if rows is None else rows
    facts = collect(run, mined, evaluations, config, rows, len(rows), base_id=base_id, data_id=data_id)
    facts.emissions = emissions
    return facts


RECIPES: dict[str, dict[str, Any]] = {
    TINY: TRAINING,
    LARGE: {
        **TRAINING, "steps": 9038, "batch_size": 64, "warmup_steps": 904, "first_loss": 1.2592, "last_loss": 0.3784,
        "best_step": 8000, "saved_step": 8000, "selection_set": "gooaq-dev",
    },
}  # fmt: skip
"""Published experiment → its training.json."""


def write_recipe(folder: Path, experiment: str) -> Facts:
    """Write a published experiment as composed, with its published log, best step and number of rows."""
    config, training = config_of(experiment), RECIPES[experiment]
    return write(
        folder, config=config, training=training, rows=recipe_pairs(), log=published_log(experiment, training["steps"]),
        base_id=config["model"]["path"],
    )  # fmt: skip
