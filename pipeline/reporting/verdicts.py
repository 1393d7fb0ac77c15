"""What follows from a run's figures, in plain sentences: who beats whom, what was selected, what it took.

Summary, table and card all say it in these words. Pure: opens no file, and knows nothing of Markdown or columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.core.records import AS_RETRIEVED, COMPARISONS, FIRST_STAGE, HEADLINE, MEASURES, TRAINED
from pipeline.engine.batching import Plan
from pipeline.reporting.facts import Facts

Json = dict[str, Any]


def systems(protocol: Mapping[str, Any]) -> list[str]:
    """The systems of one protocol of a measures.json, in its order: first stage, untrained, rivals, trained."""
    return [name for name in protocol if name not in COMPARISONS]


def _interval(difference: Mapping[str, float], queries: int) -> str:
    return f"95 % {difference['low']:.3f} to {difference['high']:.3f}, {queries} queries"


def verdict(name: str, measures: Mapping[str, Any]) -> list[str]:
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
    found, label = protocol["differences"][TRAINED][HEADLINE], MEASURES[HEADLINE]
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
    best = max(systems(protocol), key=lambda system: (protocol[system][HEADLINE], system == TRAINED))
    if best != TRAINED:
        behind = protocol[best][HEADLINE] - protocol[TRAINED][HEADLINE]
        against = protocol.get("trained_minus", {}).get(best, {})
        if best == FIRST_STAGE:
            against = protocol["differences"][TRAINED]
        interval = f"; trained minus it: {_interval(against[HEADLINE], queries)}" if HEADLINE in against else ""
        sentences.append(
            f"{name}: the best ranking is {best.replace('_', ' ')}, {protocol[best][HEADLINE]:.3f} {label}, "
            f"{behind:.3f} above trained{interval}."
        )
    return sentences


def not_trained(training: Mapping[str, Any]) -> str:
    """The sentence that stands wherever figures of a model are shown that took no step, of training.json.

    A training.json of before `head_was_saved` was in it says nothing of the head.
    """
    if training.get("head_was_saved", True):
        model = "the model is the base model as it is"
    else:
        model = "its scoring head was drawn at random (name a trained cross-encoder as model.path to measure one)"
    return (
        f"No training step was taken (training.max_steps=0): {model}, and the rows untrained and trained are the same "
        "weights."
    )


def below_first_stage(measures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The sets on which the trained model, as retrieved, is below its first stage by more than chance, in order."""
    return [
        name
        for name, of in measures.items()
        if TRAINED in of[AS_RETRIEVED] and of[AS_RETRIEVED]["differences"][TRAINED][HEADLINE]["high"] < 0
    ]


def pairs_seen(training: Mapping[str, Any]) -> int:
    """Training pairs of all steps, of training.json."""
    plan = Plan(training["rows"], training["batch_size"], training["epochs"], seed=0)
    return plan.pairs(0, training["steps"])


def time_over_processes(training: Mapping[str, Any]) -> str | None:
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
    label = MEASURES[chosen["measure"]]
    best, last = (
        "not evaluated" if figure is None else f"{figure:.4f}"
        for figure in (chosen["best_figure"], chosen["last_figure"])
    )
    if chosen["is_reported"]:
        return (
            f"{chosen['set']}: selected on this set (the checkpoint of step {chosen['best_step']} had the best {label} "
            f"of the fixed-step evaluations, {best}), so its figure is favoured; the last step's "
            f"({chosen['last_step']}) is {last}."
        )
    return (
        f"The checkpoint of step {chosen['best_step']} was kept for the best {label} of the fixed-step evaluations on "
        f"{chosen['set']} ({best}), which is not a reported set; the last step's ({chosen['last_step']}) is {last}."
    )
