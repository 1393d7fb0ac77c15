"""The card's tables of figures: a set's evaluation under each protocol, and the training log.

Cells are formatted text. Knows nothing of the card's prose, front matter or template.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config.set_names import NANO_BEIR, NANO_CANDIDATES
from pipeline.core.markdown import as_json, without_places
from pipeline.core.records import FIRST_STAGE, HEADLINE, MEASURES, POSITIVES_ADDED, PROTOCOLS, TRAINED
from pipeline.evaluation.protocols import fixed_step_protocol
from pipeline.reporting.facts import Facts
from pipeline.reporting.verdicts import systems

Json = dict[str, Any]


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _parameters(facts: Facts, name: str, measures: Mapping[str, Any], protocol: str) -> Json:
    """Return the evaluator's parameters under the reference evaluator's names."""
    short = {split: key for key, split in NANO_BEIR.items()}
    depth = facts.config["evaluation"]["depth"]
    if name == facts.config["data"]["dev_name"]:
        depth = facts.config["mining"]["dev_depth"]
    elif "sets" in measures or name in short:
        depth = NANO_CANDIDATES
    return {
        "at_k": 10,
        "always_rerank_positives": protocol == POSITIVES_ADDED,
        "dataset_names": [short.get(member, member) for member in measures.get("sets", [name])],
        "rerank_k": depth,
    }


def _first_stage(facts: Facts, name: str, measures: Mapping[str, Any]) -> str:
    """Return what retrieved a set's candidates."""
    if name != facts.config["data"]["dev_name"]:
        return str(measures.get("first_stage", "")) or "each set's own"
    mining = facts.config["mining"]
    found = without_places(str(mining["path"]))
    return {"bm25": "BM25", "run": f"the run {found}", "embedding": f"embeddings by {found}"}[mining["retriever"]]


def evaluations(facts: Facts) -> list[Json]:
    """Return an entry per set and protocol: names, parameters, a row per measure, a note on the protocol's meaning."""
    found = []
    for name, measures in facts.measures.items():
        for protocol in (protocol for protocol in PROTOCOLS if TRAINED in measures.get(protocol, {})):
            of = measures[protocol]
            shown = systems(of)
            rows = []
            for measure in MEASURES:
                gain = of["differences"][TRAINED][measure]
                figures = [f"{of[system][measure]:.4f}" for system in shown[:-1]]
                trained = f"**{of[TRAINED][measure]:.4f} ({_signed(gain['mean'])})**"
                rows.append([measure, *figures, trained, f"{_signed(gain['low'])} to {_signed(gain['high'])}"])
            heads = ["Metric", *(system.replace("_", " ") for system in shown), "95 % of the difference"]
            found.append(
                {
                    "kind": "Cross Encoder Nano BEIR" if "sets" in measures else "Cross Encoder Reranking",
                    "name": name,
                    "protocol": protocol,
                    "queries": measures["queries"],
                    "first_stage": _first_stage(facts, name, measures),
                    "found": measures.get("positives_found"),
                    "interval": measures.get("interval", ""),
                    "remarks": measures.get("remarks", []),
                    "note": measures.get("notes", {}).get(protocol, ""),
                    "parameters": as_json(_parameters(facts, name, measures, protocol)),
                    "heads": heads,
                    "rows": rows,
                }
            )
    return found


def log_table(facts: Facts) -> Json:
    """Return the training log: columns `<set>_ndcg@10`, a row per logged step, the saved weights' figures last."""
    names = list(dict.fromkeys(name for row in facts.log if row["kind"] == "evaluation" for name in row["evaluation"]))
    steps: dict[int, Json] = {}
    for row in facts.log:
        entry = steps.setdefault(row["step"], {"epoch": row["epoch"], "loss": None, "sets": {}})
        if row["kind"] == "train":
            entry["loss"] = row["loss"]
        else:
            entry["sets"] = {name: of[HEADLINE] for name, of in row["evaluation"].items()}

    def cell(name: str, value: float | None) -> str:
        if value is None:
            return "-"
        first = facts.measures.get(name, {}).get(fixed_step_protocol(name), {}).get(FIRST_STAGE)
        return f"{value:.4f}" if first is None else f"{value:.4f} ({_signed(value - first[HEADLINE])})"

    rows = []
    for step, entry in sorted(steps.items()):
        loss = "-" if entry["loss"] is None else f"{entry['loss']:.4f}"
        cells = [f"{entry['epoch']:.4f}", str(step), loss, *(cell(name, entry["sets"].get(name)) for name in names)]
        is_kept = step == facts.training.get("best_step")
        rows.append([f"**{text}**" if is_kept else text for text in cells])
    final = [
        cell(name, facts.measures.get(name, {}).get(fixed_step_protocol(name), {}).get(TRAINED, {}).get(HEADLINE))
        for name in names
    ]
    if set(final) != {"-"}:
        rows.append(["-", "saved model", "-", *final])
    return {
        "heads": ["Epoch", "Step", "Training Loss", *(f"{name}_{HEADLINE}" for name in names)],
        "rows": rows,
        "has_kept": facts.training.get("best_step") is not None,
        "protocols": {name: fixed_step_protocol(name) for name in names},
    }
