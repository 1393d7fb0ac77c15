"""Describe training rows for people: lengths, label shares, samples, an example. Pure; knows no files and no card."""

from __future__ import annotations

from typing import Any

from pipeline.core.records import LabelledPairs

Json = dict[str, Any]

HEAD_ROWS = 1000
"""First rows over which the training data's statistics are computed, as in published cards."""

EXAMPLE_ROWS = 10_000
"""First rows in which the example is searched: enough for hundreds of questions, few enough to read at once."""

EXAMPLE_NEGATIVES = 4
"""Negatives beside the one positive of the example."""


def describe_rows(pairs: LabelledPairs, size: int) -> Json:
    """Describe the first `HEAD_ROWS` rows: lengths in characters, labels and their shares, three samples.

    Args:
        pairs: the first rows, at least `HEAD_ROWS` if the data has that many.
        size: the number of all rows.

    Returns:
        `size`; `head` (rows described); `question` and `answer` with `min`, `mean`, `max`; `label` with `type` (int
        if every label is whole) and `shares` (label as text → share) or, if not, `min`, `mean` and `max`; `samples`
        of (question, answer, label).
    """
    head = min(HEAD_ROWS, len(pairs))
    questions = [pairs.questions[int(index)] for index in pairs.question[:head]]
    answers = [pairs.passages[int(index)] for index in pairs.passage[:head]]
    labels = [float(label) for label in pairs.label[:head]]
    is_whole = all(label.is_integer() for label in labels)
    described: Json = {"type": "int" if is_whole else "float"}
    if is_whole:
        counts = {str(int(label)): 0 for label in sorted(set(labels))}
        for label in labels:
            counts[str(int(label))] += 1
        described["shares"] = {label: count / head for label, count in counts.items()}
    else:
        described |= {"min": min(labels), "mean": sum(labels) / head, "max": max(labels)}
    rows = zip(questions, answers, labels, strict=True)
    return {
        "size": size,
        "head": head,
        "question": _lengths(questions),
        "answer": _lengths(answers),
        "label": described,
        "samples": [
            [q, a, int(label) if is_whole else label] for (q, a, label), _ in zip(rows, range(3), strict=False)
        ],
    }


def _lengths(texts: list[str]) -> Json:
    counts = [len(text) for text in texts]
    if not counts:
        return {"min": 0, "mean": 0.0, "max": 0}
    return {"min": min(counts), "mean": sum(counts) / len(counts), "max": max(counts)}


def example_pairs(pairs: LabelledPairs) -> Json:
    """Return a positive and the first negatives of the first question that has `EXAMPLE_NEGATIVES` negatives.

    If no question has that many, take the one with the most and fill up with passages of other questions.

    Returns:
        `question`, and `passages` with the positive first; both empty if no question has a positive.
    """
    best: tuple[int, int, list[int]] = (-1, 0, [])
    start = 0
    while start < len(pairs):
        end = start
        while end < len(pairs) and pairs.question[end] == pairs.question[start]:
            end += 1
        positives = dict.fromkeys(int(pairs.passage[row]) for row in range(start, end) if pairs.label[row] >= 0.5)
        others = [int(pairs.passage[row]) for row in range(start, end) if pairs.label[row] < 0.5]
        others = list(dict.fromkeys(passage for passage in others if passage not in positives))[:EXAMPLE_NEGATIVES]
        if positives and len(others) > best[0]:
            best = (len(others), start, [next(iter(positives)), *others])
            if len(others) == EXAMPLE_NEGATIVES:
                break
        start = end
    _, start, chosen = best
    if not chosen:
        return {"question": "", "passages": []}
    own = {int(passage) for passage in pairs.passage[pairs.question == pairs.question[start]]}
    for passage in (int(index) for index in pairs.passage):
        if len(chosen) > EXAMPLE_NEGATIVES:
            break
        if passage not in own and passage not in chosen:
            chosen.append(passage)
    return {
        "question": pairs.questions[int(pairs.question[start])],
        "passages": [pairs.passages[passage] for passage in chosen],
    }
