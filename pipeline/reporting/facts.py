"""What a run's files say, read once, and the few sentences that follow from the figures.

`report` and `model_card` render this and nothing else, so that summary, table and card cannot disagree. Nothing here
measures anything; nothing here knows how a figure will look.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.artifacts import read_json
from pipeline.core.errors import ArtifactError
from pipeline.core.provenance import masked
from pipeline.core.records import AS_RETRIEVED, FIRST_STAGE, POSITIVES_ADDED, TRAINED, LabelledPairs
from pipeline.engine.batching import Plan
from pipeline.reporting.samples import describe_rows, example_pairs
from pipeline.telemetry.energy_records import add

TRAIN = "train"
"""Name of the stage whose energy is the model's own; the others are mining and measuring."""

MEASURE_NAMES = {"ndcg@10": "nDCG@10", "mrr@10": "MRR@10", "map": "MAP"}
"""Measures in the order they are shown, and how they are written."""

NOT_SYSTEMS = ("difference", "differences", "trained_minus")

Json = dict[str, Any]


@dataclass(kw_only=True, slots=True)
class RunFiles:
    """Where a run's facts lie; the stage that knows the folders fills this."""

    run: Path
    """The run's folder, named in the summary."""
    model: Path
    """The saved model's folder, named in the summary."""
    card: Path
    """The card's file, named in the summary."""
    training: Path
    """training.json: what `Trainer.run` returned."""
    metrics: Path
    """metrics.jsonl: every logged row, kinds `train` and `evaluation`."""
    statistics: Path
    """The mined data's statistics.json."""
    manifest: Path
    """The manifest of the training stage; its key `provenance` is `provenance.record`'s."""
    measures: dict[str, Path]
    """Set → measures.json, in the order shown: `evaluator.write`'s, and `figures.mean_of`'s for means."""
    emissions: dict[str, Path]
    """Stage → emissions.json, in the order run; the training stage is named `train`."""


@dataclass(kw_only=True, slots=True)
class Facts:
    """One run as plain data; everything in it is JSON."""

    config: Json
    """The parsed configuration, enums by name, credentials masked."""
    paths: dict[str, str]
    """run, model, card. Shown on the console, never in the card: they are this machine's."""
    training: Json
    log: list[Json]
    statistics: Json
    provenance: Json
    measures: dict[str, Json]
    emissions: dict[str, Json]
    rows: Json
    """The first training rows described: see `samples.describe_rows`."""
    example: Json
    """Five real pairs of one question: see `samples.example_pairs`."""
    base_id: str | None
    """The base model's name on the hub, None for a folder or packaged weights."""
    data_id: str | None
    """The training data's name on the hub, None for other sources."""

    @property
    def base(self) -> str:
        """The base model's name as a person writes it."""
        return str(self.config["model"]["title"] or self.config["model"]["name"])

    @property
    def data(self) -> str:
        """The data's name as a person writes it."""
        return str(self.config["data"]["title"] or self.config["data"]["name"])

    @property
    def is_trained(self) -> bool:
        """Whether a step was taken; without one (training.max_steps=0) the model is the base model as it is."""
        return int(self.training["steps"]) > 0

    @property
    def title(self) -> str:
        """`<base> trained on <data>`, or `<base>, not trained further`."""
        return f"{self.base} trained on {self.data}" if self.is_trained else f"{self.base}, not trained further"

    @property
    def training_emissions(self) -> Json:
        """Energy of the training stage alone: the figure that cards and summaries head."""
        return self.emissions.get(TRAIN, {"enabled": False})

    @property
    def all_emissions(self) -> Json:
        """Energy of every stage of the run, mining and evaluation included."""
        return add(list(self.emissions.values()))


def systems(protocol: Mapping[str, Any]) -> list[str]:
    """The systems of one protocol of a measures.json, in its order: first stage, untrained, rivals, trained."""
    return [name for name in protocol if name not in NOT_SYSTEMS]


def _interval(difference: Mapping[str, float], queries: int) -> str:
    return f"95 % {difference['low']:.3f} to {difference['high']:.3f}, {queries} queries"


def verdict(name: str, measures: Mapping[str, Any], measure: str = "ndcg@10") -> list[str]:
    """What a set's figures say, as retrieved, in plain sentences.

    Only that protocol can speak of the first stage: where positives are added, the first stage did not have them.
    The first sentence compares the trained model to the first stage, another counts queries that were trained on, the
    last names the best ranking if it is another one than the trained model's. Empty where no model was trained.
    """
    protocol, queries = measures[AS_RETRIEVED], int(measures["queries"])
    if TRAINED not in protocol:
        return []
    seen = int(measures.get("queries_trained_on", 0))
    known = (
        [f"{name}: {seen} of its {queries} queries are training questions too, which flatters trained."] if seen else []
    )
    found, label = protocol["difference"][measure], MEASURE_NAMES[measure]
    by, interval = abs(found["mean"]), _interval(found, queries)
    if found["low"] > 0:
        said = f"trained beats the first stage by +{by:.3f} {label} ({interval})"
    elif found["high"] < 0:
        said = f"trained is below the first stage by {by:.3f} {label} ({interval})"
    elif found["mean"] < 0:
        said = f"trained does not beat the first stage: it is {by:.3f} {label} below, within chance ({interval})"
    else:
        said = f"trained does not beat the first stage: it is {by:.3f} {label} above, within chance ({interval})"
    sentences = [f"{name}: {said}.", *known]
    best = max(systems(protocol), key=lambda system: (protocol[system][measure], system == TRAINED))
    if best != TRAINED:
        behind = protocol[best][measure] - protocol[TRAINED][measure]
        against = protocol["difference"] if best == FIRST_STAGE else protocol.get("trained_minus", {}).get(best, {})
        interval = f"; trained minus it: {_interval(against[measure], queries)}" if measure in against else ""
        sentences.append(
            f"{name}: the best ranking is {best.replace('_', ' ')}, {protocol[best][measure]:.3f} {label}, "
            f"{behind:.3f} above trained{interval}."
        )
    return sentences


NOT_TRAINED = (
    "No training step was taken (training.max_steps=0): the model is the base model as it is, and the rows untrained "
    "and trained are the same weights."
)
"""Stands wherever figures of such a model are shown."""


def fixed_step_protocol(name: str) -> str:
    """The protocol a set is evaluated under at the fixed steps, as published: added for NanoBEIR, else as retrieved."""
    return POSITIVES_ADDED if name.startswith("Nano") else AS_RETRIEVED


def below_first_stage(measures: Mapping[str, Mapping[str, Any]], measure: str = "ndcg@10") -> list[str]:
    """The sets on which the trained model's figure, as retrieved, is under its first stage's, in order."""
    return [
        name
        for name, of in measures.items()
        if TRAINED in of[AS_RETRIEVED] and of[AS_RETRIEVED][TRAINED][measure] < of[AS_RETRIEVED][FIRST_STAGE][measure]
    ]


def pairs_seen(training: Mapping[str, Any]) -> int:
    """Training pairs of all steps, of training.json."""
    plan = Plan(training["rows"], training["batch_size"], training["epochs"], seed=0)
    return plan.pairs(0, training["steps"])


def pieces(training: Mapping[str, Any]) -> str | None:
    """The time of a training that was interrupted, what was lost and repeated included; None where it was not."""
    processes = training.get("processes", 1)
    if processes == 1:
        return None
    wall = f"{training['wall_seconds']:,.1f} s over {processes} processes"
    return f"{wall}, loading and what was repeated after an interruption included"


def logged_figure(log: list[Json], step: int, name: str, measure: str) -> float | None:
    """A set's figure at a fixed evaluation, None where that step did not evaluate it."""
    for row in log:
        if row["kind"] == "evaluation" and row["step"] == step and name in row["evaluation"]:
            return float(row["evaluation"][name][measure])
    return None


def selection(facts: Facts) -> Json | None:
    """How the kept checkpoint was chosen, None where the last step's weights were kept by rule.

    Returns:
        `set`, `measure`, `best_step`, `best_figure`, `last_step`, `last_figure`, and `is_reported`: whether the set
        is also among the reported ones, whose figure then favours the kept checkpoint.
    """
    name, best = facts.training.get("selection_set"), facts.training.get("best_step")
    if name is None or best is None:
        return None
    measure, last = facts.config["training"]["selection_measure"], facts.training["steps"]
    members = [member for of in facts.measures.values() for member in of.get("sets", ())]
    return {
        "set": name,
        "measure": measure,
        "best_step": best,
        "best_figure": logged_figure(facts.log, best, name, measure),
        "last_step": last,
        "last_figure": logged_figure(facts.log, last, name, measure),
        "is_reported": name in facts.measures or name in members,
    }


def selection_sentence(chosen: Json) -> str:
    """The sentence that stands wherever a figure of a set that chose the checkpoint is shown."""
    label = MEASURE_NAMES[chosen["measure"]]
    last = "not evaluated" if chosen["last_figure"] is None else f"{chosen['last_figure']:.4f}"
    if chosen["is_reported"]:
        return (
            f"{chosen['set']}: selected on this set (the checkpoint of step {chosen['best_step']} had the best "
            f"{label}), so its figure is favoured; the last step's ({chosen['last_step']}) is {last}."
        )
    return (
        f"The checkpoint of step {chosen['best_step']} was kept for its {label} on {chosen['set']}, which is not a "
        f"reported set; the last step's ({chosen['last_step']}) is {last}."
    )


def _read_log(path: Path) -> list[Json]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} must be readable JSON lines, got {error}. Run the training stage again.") from None


def _hub_id(path: str) -> str | None:
    """The path when it is a name on the hub: of that form, and no folder here by that name."""
    return (
        path
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)?", path) and not Path(path).exists()
        else None
    )


def collect(files: RunFiles, config: Json, pairs: LabelledPairs) -> Facts:
    """Read a run's files.

    Args:
        files: where they lie; every one of them must be there.
        config: the parsed configuration as plain data (`fingerprint.plain`).
        pairs: the mined training rows.

    Raises:
        ArtifactError: when a file is missing or broken.
    """
    return Facts(
        config=masked(config),
        paths={"run": str(files.run), "model": str(files.model), "card": str(files.card)},
        training=read_json(files.training),
        log=_read_log(files.metrics),
        statistics=read_json(files.statistics),
        provenance=read_json(files.manifest).get("provenance", {}),
        measures={name: read_json(path) for name, path in files.measures.items()},
        emissions={stage: read_json(path) for stage, path in files.emissions.items()},
        rows=describe_rows(pairs),
        example=example_pairs(pairs),
        base_id=_hub_id(config["model"]["path"]),
        data_id=_hub_id(config["data"]["path"]) if config["data"]["source"] == "hub" else None,
    )
