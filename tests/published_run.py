"""Run folders for tests of comparisons: they verify, and their figures are the published ones or changed ones."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from pipeline.core import artifacts, atomic
from pipeline.data.trec import write_qrels, write_run
from pipeline.reporting.comparison import published

QUERIES = 50
HALF_WIDTH = 0.04

Change = Callable[[dict[str, Any]], float]
"""Function from a published fact to the figure that the run has instead."""


def as_published(fact: dict[str, Any]) -> float:
    value: float = fact["value"]
    return value


def ranks_with_mean(target: float) -> list[int | None]:
    """Return the rank of each of 50 queries' one positive (None: not retrieved); the mean of 1/rank is `target`."""
    left, ranks = target * QUERIES, []
    while len(ranks) < QUERIES:
        rank = max(1, math.ceil(1 / left)) if left > 1e-9 else 10**9
        ranks.append(rank if rank <= 2000 else None)
        left -= 1 / rank if rank <= 2000 else 0
    return ranks


def _evaluation(folder: Path, facts: list[dict[str, Any]], name: str, change: Change, members: list[str]) -> None:
    protocols: dict[str, Any] = {}
    for protocol in ("as_retrieved", "positives_added"):
        first = {f["measure"]: change(f) for f in facts if f["kind"] == "first_stage" and f["set"] == name}
        trained = {
            fact["measure"]: change(fact)
            for fact in facts
            if fact["kind"] == "final" and fact["set"] == name and fact["protocol"] == protocol
        } or dict(first)
        by = {m: {"mean": trained[m] - first[m], "low": trained[m] - first[m] - HALF_WIDTH,
                  "high": trained[m] - first[m] + HALF_WIDTH, "p": 0.5} for m in first}  # fmt: skip
        systems = {"first_stage": first, "untrained": first, "trained": trained}
        protocols[protocol] = {**systems, "differences": {"trained": by}}
    with artifacts.publish(folder, {"artifact": "evaluate"}) as work:
        atomic.write_json(
            work / "measures.json", {"queries": QUERIES, **protocols, **({"sets": members} if members else {})}
        )
        if not members:
            ranks = ranks_with_mean(protocols["as_retrieved"]["first_stage"]["map"])
            run = {
                f"q{query}": [f"d{n}" if n + 1 != rank else "yes" for n in range(rank or 3)]
                for query, rank in enumerate(ranks)
            }
            write_run(work / "runs" / "first_stage.as_retrieved.trec", run, "first_stage")
            write_qrels(work / "qrels.trec", {query: {"yes": 1} for query in run})


def build(root: Path, experiment: str, change: Change = as_published) -> Path:
    """Write a finished run that verifies to outputs/runs/<name> in `root`; return its folder."""
    facts = published(experiment)["facts"]
    run = root / "outputs" / "runs" / f"{experiment}-0123456789ab"
    counts = {fact["name"]: int(change(fact)) for fact in facts if fact["kind"] == "rows"}
    best = next((int(change(fact)) for fact in facts if fact["kind"] == "best_step"), None)
    energy = next((change(fact) for fact in facts if fact["kind"] == "energy"), None)
    rows: dict[int, list[dict[str, Any]]] = {}
    log: dict[int, dict[str, Any]] = {}
    for fact in facts:
        if fact["kind"] == "loss":
            rows.setdefault(fact["step"], []).append({"kind": "train", "step": fact["step"], "loss": change(fact)})
        elif fact["kind"] == "log":
            log.setdefault(fact["step"], {})[fact["set"]] = {"ndcg@10": change(fact)}
    for step, sets in log.items():
        rows.setdefault(step, []).append({"kind": "evaluation", "step": step, "evaluation": sets})
    # A run's name is the one in its card: a run that is renamed is not trained again and keeps this older name here.
    recorded = {"artifact": "train", "provenance": {"config": {"name": "of its training"}}}
    with artifacts.publish(run / "model", recorded) as work:
        atomic.write_json(work / "training.json", {"best_step": best})
        lines = [json.dumps(row) + "\n" for step in sorted(rows) for row in rows[step]]
        atomic.write_text(work / "metrics.jsonl", "".join(lines))
        atomic.write_json(work / "emissions.json", {} if energy is None else {"energy_kwh": energy})
    names = list(dict.fromkeys(fact["set"] for fact in facts if fact["kind"] == "first_stage"))
    members = [name for name in names if name.startswith("Nano") and not name.endswith("mean")]
    folders = {name: f"{name}-{number:012d}" for number, name in enumerate(names)}
    for name, folder in folders.items():
        of = members if name.endswith("mean") else []
        _evaluation(run / "evaluations" / folder, facts, name, change, of)
    with artifacts.publish(run / "card", {"artifact": "card", "key": {"evaluations": folders}}) as work:
        atomic.write_text(work / "README.md", "# A model\n\n## Usage\n\n## Limitations\n\n- some\n")
        atomic.write_json(work / "summary.json", {"name": experiment, "statistics": counts})
    atomic.write_text(run / "README.md", (run / "card" / "README.md").read_text())
    atomic.point(root / "outputs" / "latest", run)
    return run


def settled_by_a_card(text: str, experiment: str) -> dict[str, Any]:
    """Read the published facts of status `loopback test` from a card's text: name → value."""
    data, body = ModelCard(text).data.to_dict(), text.replace("\n", " ")
    base = data["base_model"]
    common = next(fact["value"] for fact in published(experiment)["facts"] if fact.get("name") == "tags")
    return {
        "output_labels": int(re.findall(r"Number of Output Labels:\*\* (\d+)", body)[0]),
        "loss": re.findall(r"loss:(\w+)", " ".join(data["tags"]))[0],
        "loss_activation": re.findall(r'"activation_fn": "([\w.]+)"', body)[0],
        "pipeline_tag": data["pipeline_tag"],
        "library_name": data["library_name"],
        "tags": [tag for tag in data["tags"] if tag in common],
        "metrics": data["metrics"],
        "at_k": int(re.findall(r'"at_k": (\d+)', body)[0]),
        "rerank_k": int(re.findall(r'"rerank_k": (\d+)', body)[-1]),
        "base_model": base[0] if isinstance(base, list) else base,
        "title": data["model-index"][0]["name"],
    }
