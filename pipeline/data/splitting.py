"""Choose the rows to hold out: by question, by group, or as `datasets` does. Seeded; knows nothing of files.

Rows of one question (compared folded) are never on both sides, except in a published split by rows. Rows of a held-out
group are never trained on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np

from pipeline.core.records import PairRows, fold
from pipeline.data.cleaning import is_positive


@dataclass(slots=True)
class Held:
    """Row numbers: those `held` out, the `rest`, and `surplus` rows of held-out groups, which go to neither side."""

    held: list[int]
    rest: list[int]
    surplus: list[int] = field(default_factory=list)


def subset(rows: PairRows, wanted: int, seed: int) -> list[int]:
    """Draw at most `wanted` rows, question by question, and return their numbers in source order.

    A question's rows are taken together or not at all: a positive left behind would be mined as a negative of its own
    question.
    """
    members: dict[str, list[int]] = {}
    for row, question in enumerate(rows.questions):
        members.setdefault(fold(question), []).append(row)
    questions = list(members)
    drawn: list[int] = []
    for position in np.random.Generator(np.random.PCG64([seed, 2])).permutation(len(questions)):
        own = members[questions[position]]
        drawn += own if len(drawn) + len(own) <= wanted else []
        if len(drawn) == wanted:
            break
    return sorted(drawn)


def hold_out(
    rows: PairRows,
    count: int,
    *,
    usable: Collection[str],
    seed: int | list[int],
    per_group: int | None = None,
    threshold: float = 1.0,
) -> Held:
    """Hold out `count` of the `usable` folded questions, by group if the rows have groups.

    Without groups, the distinct questions are permuted and the first `count` usable ones are taken. With groups, whole
    groups are taken in a permuted order until they give `count` usable questions, each group at most `per_group`, drawn
    at random. The other rows of these groups go to neither side. Rows of a chosen question in other groups are held
    out too, as the last ones, because they also judge it.

    A group gives a question only by a positive of it, not by a row that is blank or has a label below `threshold`, and
    a group without any positive is not taken: otherwise the group of a question's positives could be trained on.
    """
    questions = [fold(question) for question in rows.questions]
    generator = np.random.Generator(np.random.PCG64(seed))
    if rows.groups is None:
        distinct = list(dict.fromkeys(questions))
        order = (distinct[position] for position in generator.permutation(len(distinct)))
        chosen = _first(order, count, usable)
        held = [row for row, question in enumerate(questions) if question in chosen]
        rest = [row for row, question in enumerate(questions) if question not in chosen]
        return Held(held, rest)
    members: dict[str, list[int]] = {}
    for row, group in enumerate(rows.groups):
        members.setdefault(group, []).append(row)
    names = list(members)
    taken: set[str] = set()
    chosen = {}
    for position in generator.permutation(len(names)):
        if len(chosen) >= count:
            break
        group_rows = [row for row in members[names[position]] if is_positive(rows, row, threshold)]
        if not group_rows:
            continue
        taken.add(names[position])
        room = count - len(chosen)
        if per_group is not None and per_group < len(group_rows):
            # Drawn at random: the first questions of groups (a module's docstring, a page's title) are all of one kind.
            group_rows = [group_rows[place] for place in generator.permutation(len(group_rows))]
            room = min(room, per_group)
        chosen.update(_first((questions[row] for row in group_rows), room, usable, chosen))
    sides: tuple[list[int], list[int], list[int], list[int]] = ([], [], [], [])
    for row, question in enumerate(questions):
        in_group, is_chosen = rows.groups[row] in taken, question in chosen
        sides[(0 if is_chosen else 2) if in_group else (3 if is_chosen else 1)].append(row)
    held, rest, surplus, elsewhere = sides
    return Held([*held, *elsewhere], rest, surplus)


def _first(order: Iterable[str], count: int, usable: Collection[str], known: Collection[str] = ()) -> dict[str, None]:
    """Return the first `count` distinct usable questions of `order` that are not `known`."""
    chosen: dict[str, None] = {}
    for question in order:
        if len(chosen) == count:
            break
        if question in usable and question not in known:
            chosen[question] = None
    return chosen


def hold_out_rows(rows: int, count: int, *, seed: int) -> Held:
    """Hold out `count` rows exactly as `datasets` does in `train_test_split(test_size=count, seed=seed)`.

    Both sides keep the order that `train_test_split` gives them.
    """
    import datasets

    parts = datasets.Dataset.from_dict({"row": list(range(rows))}).train_test_split(test_size=count, seed=seed)
    return Held(list(parts["test"]["row"]), list(parts["train"]["row"]))


def whole_questions(drawn: Held, rows: PairRows, usable: Collection[str]) -> Held:
    """Turn a draw of rows into one of whole usable questions, since all rows of a held-out question judge it."""
    questions = [fold(question) for question in rows.questions]
    chosen = {questions[row] for row in drawn.held if questions[row] in usable}
    held = [row for row in (*drawn.held, *drawn.rest) if questions[row] in chosen]
    return Held(held, [row for row in (*drawn.rest, *drawn.held) if questions[row] not in chosen])
