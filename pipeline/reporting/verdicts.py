"""Plain sentences derived from a run's figures: which system wins, which checkpoint was selected, what training took.

Summary, table and card all use these sentences. Pure: opens no file, and knows nothing of Markdown or columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.core.records import AS_RETRIEVED, COMPARISONS, FIRST_STAGE, HEADLINE, MEASURES, TRAINED
from pipeline.inputs.batching import Plan
from pipeline.reporting.facts import Facts

Json = dict[str, Any]


def systems(protocol: Mapping[str, Any]) -> list[str]:
    """Return the systems of one protocol of a measures.json, in its order: the first stage first, trained last."""
    return [name for name in protocol if name not in COMPARISONS]


def _interval(difference: Mapping[str, float], queries: int) -> str:
    return f"95 % {difference['low']:.3f} to {difference['high']:.3f}, {queries} queries"


def verdict(name: str, measures: Mapping[str, Any]) -> list[str]:
    """Return plain sentences about a set's figures as retrieved; none if there is no trained model.

    Only that protocol allows a comparison with the first stage, which did not retrieve the positives that the other
    protocol adds. The first sentence makes the comparison, or says that there is nothing to compare: without a positive
    among the candidates all figures as retrieved are 0, and queries of a single group give no interval. The second
    counts the queries that were trained on, if any. The last names the best ranking, unless it is the trained model's.
    """
    protocol, queries = measures[AS_RETRIEVED], int(measures["queries"])
    if TRAINED not in protocol:
        return []
    seen = int(measures.get("queries_trained_on", 0))
    are = "is a training question" if seen == 1 else "are training questions"
    known = [f"{name}: {seen} of its {queries} queries {are} too, which favours trained."] if seen else []
    if measures.get("positives_found") == 0:
        said = f"the first stage found no positive for any of {queries} queries"
        return [f"{name}: {said}, so there is nothing to compare as retrieved.", *known]
    if measures.get("groups") == 1:
        return [f"{name}: all queries ({queries}) are of one group, which says nothing about others.", *known]
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
    """Return the sentence that accompanies the figures of a model that took no step.

    A training.json from before `head_was_saved` was recorded does not mention the head: it is taken as saved.
    """
    if training.get("head_was_saved", True):
        model = "the model is the base model as it is"
    else:
        model = "its scoring head was drawn at random (name a trained cross-encoder as model.path to measure one)"
    return (
        f"No training step was taken (training.max_steps=0): {model}, so the rows untrained and trained show the same "
        "weights."
    )


def below_first_stage(measures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the sets, in order, where the trained model as retrieved is below its first stage by more than chance."""
    return [
        name
        for name, of in measures.items()
        if TRAINED in of[AS_RETRIEVED] and of[AS_RETRIEVED]["differences"][TRAINED][HEADLINE]["high"] < 0
    ]


def pairs_seen(training: Mapping[str, Any]) -> int:
    """Return the number of training pairs in all steps, from training.json."""
    plan = Plan(training["rows"], training["batch_size"], training["epochs"], seed=0)
    return plan.pairs(0, training["steps"])


def time_over_processes(training: Mapping[str, Any]) -> str | None:
    """Return the total time of an interrupted training, lost and repeated work included; None if uninterrupted."""
    processes = training.get("processes", 1)
    if processes == 1:
        return None
    wall = f"{training['wall_seconds']:,.1f} s over {processes} processes"
    return f"{wall}, including loading and work repeated after an interruption"


def logged_figure(log: list[Json], step: int, name: str, measure: str) -> float | None:
    """Return a set's figure at a fixed step, or None if the set was not evaluated at that step."""
    for row in log:
        if row["kind"] == "evaluation" and row["step"] == step and name in row["evaluation"]:
            return float(row["evaluation"][name][measure])
    return None


def selection(facts: Facts) -> Json | None:
    """Return how the kept checkpoint was chosen, or None if the last step's weights were kept by rule.

    Returns:
        `set`, `measure`, `best_step`, `best_figure`, `last_step`, `last_figure`, and `is_reported`: whether the set
        is also a reported one, whose figure then favours the kept checkpoint.
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
    """Return the sentence that accompanies the figures of the set that selected the checkpoint."""
    label = MEASURES[chosen["measure"]]
    best, last = (
        "not evaluated" if figure is None else f"{figure:.4f}"
        for figure in (chosen["best_figure"], chosen["last_figure"])
    )
    is_last = chosen["best_step"] == chosen["last_step"]
    step = f"step {chosen['best_step']}{', the last one,' if is_last else ''}"
    beside = "" if is_last else f"; the last step's ({chosen['last_step']}) is {last}"
    if chosen["is_reported"]:
        return (
            f"{chosen['set']}: selected on this set (the checkpoint of {step} had the best {label} "
            f"of the fixed-step evaluations, {best}), which favours its figure{beside}."
        )
    return (
        f"The checkpoint of {step} was kept: it had the best {label} of the fixed-step evaluations "
        f"on {chosen['set']} ({best}), which is not a reported set{beside}."
    )
