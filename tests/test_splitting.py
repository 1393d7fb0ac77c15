"""The split: no question and no group on both sides, seeded draws, and all rows of a held-out question together."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_files import Row, load_split, pair_rows, pairs, write_jsonl

from pipeline.config.data import Format, MiningConfig, Retriever
from pipeline.core.records import PairRows, fold
from pipeline.data.splitting import Held, hold_out, subset, whole_questions
from pipeline.mining.miner import mine

QUESTIONS = st.lists(st.sampled_from(["a", "A ", " a  b", "a b", "c", "C", "d", "e f", "E  F", "g"]), max_size=40)


@settings(max_examples=200, deadline=None)
@given(QUESTIONS, st.integers(1, 6), st.integers(0, 2**32 - 1), st.booleans())
def test_no_folded_question_is_on_both_sides(questions: list[str], count: int, seed: int, grouped: bool) -> None:
    groups = [str(len(question) + row // 5) for row, question in enumerate(questions)] if grouped else None
    rows = PairRows(questions, questions, list(range(len(questions))), groups=groups)
    usable = dict.fromkeys(fold(question) for question in questions if "d" not in question)
    split = hold_out(rows, count, usable=usable, seed=seed)
    held = {fold(questions[row]) for row in split.held}
    assert held.isdisjoint({fold(questions[row]) for row in split.rest})
    assert len(held) == min(count, len(usable))
    assert held <= set(usable)
    assert sorted([*split.held, *split.rest, *split.surplus]) == list(range(len(questions)))
    if groups is not None:
        trained = {groups[row] for row in split.rest}
        assert trained.isdisjoint({groups[row] for row in split.surplus})
        # A question is held out for a row in a group that is, and the rows it has elsewhere judge it too.
        assert held == {fold(questions[row]) for row in split.held if groups[row] not in trained}
        first = {fold(questions[row]): groups[row] for row in reversed(split.held)}
        assert trained.isdisjoint(first.values()), "its group is the one held out"
    else:
        assert not split.surplus
    assert split == hold_out(rows, count, usable=usable, seed=seed)


def test_question_in_two_unicode_forms_is_on_one_side(tmp_path: Path) -> None:
    spelt = [(f"où est le café {i}", f"Là {i}.") for i in range(120)]
    rows = [{"question": unicodedata.normalize(form, q), "answer": a} for q, a in spelt for form in ("NFC", "NFD")]
    split = load_split(write_jsonl(tmp_path / "a.jsonl", rows))
    train, dev = ({unicodedata.normalize("NFC", q) for q in part.questions} for part in (split.train, split.dev))
    assert len(train) + len(dev) == 120 and not train & dev


def test_split_of_the_default_seed_is_pinned(pairs_file: Path) -> None:
    assert load_split(pairs_file).dev.lines[:8] == [5, 7, 12, 24, 35, 39, 41, 42]


def test_limit_draws_a_seeded_subset(pairs_file: Path) -> None:
    limited = load_split(pairs_file, limit=110)
    chosen = sorted(limited.train.lines + limited.dev.lines)
    assert len(chosen) == 110
    assert chosen != list(range(1, 111))
    assert limited == load_split(pairs_file, limit=110)
    other = load_split(pairs_file, limit=110, split_seed=13)
    assert sorted(other.train.lines + other.dev.lines) != chosen


def test_limit_takes_all_rows_of_a_question_or_none() -> None:
    rows = [row for row in pair_rows(100) for _ in range(7)]
    questions = [row["question"] for row in rows]
    source = PairRows(questions, questions, list(range(700)))
    counts = Counter(questions[row] for row in subset(source, 100, 5))
    assert sorted(counts.values()) == [7] * 14
    large = PairRows(["many"] * 200 + questions[::7], questions[:300], list(range(300)))
    assert len(subset(large, 100, 5)) == 100 and "many" not in large.take(subset(large, 100, 5)).questions


def test_group_is_on_one_side_only(tmp_path: Path) -> None:
    rows = [{**row, "title": f"t{i // 13}"} for i, row in enumerate(pair_rows(400))]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    split = load_split(path, group_column="title", dev_queries=50, validation_queries=30)
    assert split.validation is not None
    assert (len(split.dev), len(split.validation)) == (50, 30)
    sides = [set(part.groups or []) for part in (split.train, split.validation, split.dev)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    surplus = len(rows) - len(split.train) - 80
    parts: Any = split.statistics["parts"]
    assert parts["train"]["dropped"] == {"surplus_of_a_held_out_group": surplus}
    assert 0 < surplus < 26
    assert [parts[name]["groups"] for name in ("train", "validation", "dev")] == list(map(len, sides))


def test_queries_per_group_caps_the_questions_of_a_group(tmp_path: Path) -> None:
    rows = [{**row, "title": f"t{min(i // 5, 40)}"} for i, row in enumerate(pair_rows(400))]  # 40 of 5, one of 200
    keys = {"dev_queries": 60, "validation_queries": 20, "queries_per_group": 3, "group_column": "title"}
    split = load_split(write_jsonl(tmp_path / "a.jsonl", rows), **keys)
    assert split.validation is not None and (len(split.dev), len(split.validation)) == (60, 20)
    for part, groups in ((split.dev, 20), (split.validation, 7)):
        assert part.groups is not None and max(Counter(part.groups).values()) == 3
        assert len(set(part.groups)) == groups
    # What a held-out group does not give is searched like any passage, and belongs to no part.
    answers = {answer for part in (split.train, split.validation, split.dev) for answer in part.answers}
    assert split.unused is not None
    assert len(split.unused) == len(rows) - len(split.train) - 80 > 0
    assert not answers & set(split.unused.answers) and set(split.corpus) == answers | set(split.unused.answers)


def test_queries_per_group_samples_within_a_group() -> None:
    groups = [f"g{row // 5}" for row in range(200)]
    rows = PairRows([f"q{row}" for row in range(200)], ["a"] * 200, list(range(200)), groups=groups)
    held = hold_out(rows, 40, usable=dict.fromkeys(rows.questions), seed=12, per_group=2).held
    assert {row % 5 for row in held} == set(range(5)), "not the first rows of each group"


def test_question_of_two_groups_is_held_out_once() -> None:
    rows = PairRows(["a", "b", "a", "b", "c"], ["x"] * 5, list(range(5)), groups=["one"] * 2 + ["two"] * 3)
    for seed in range(8):
        assert len({rows.questions[row] for row in hold_out(rows, 3, usable={"a", "b", "c"}, seed=seed).held}) == 3


def test_held_out_question_takes_its_rows_of_other_groups_along(tmp_path: Path) -> None:
    """Half the topics have answers in two documents: all answers judge a dev question, none is trained on for it."""
    rows = [{"question": f"about topic {i}", "answer": f"one answer {i}", "doc": f"d{i // 4}"} for i in range(400)]
    rows += [{"question": f"about topic {i}", "answer": f"other answer {i}", "doc": f"e{i}"} for i in range(0, 400, 2)]
    rows += [{"question": f"more of {i}", "answer": f"other answer {i}", "doc": f"e{i}"} for i in range(0, 400, 2)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    split = load_split(path, group_column="doc", dev_queries=60, validation_queries=20)
    assert split.validation is not None and split.unused is not None
    answers = {}
    for row in rows:
        answers.setdefault(row["question"], set()).add(row["answer"])
    for part in (split.dev, split.validation):
        judged = {}
        for question, answer in pairs(part):
            judged.setdefault(question, set()).add(answer)
        assert judged == {question: answers[question] for question in judged}
    both = set(split.train.questions) & set(split.unused.questions)
    assert both, "training questions with rows in a held-out group"
    config = MiningConfig(retriever=Retriever.bm25, negatives=3, random_negatives=20, range_max=50)
    train = mine(split, config, tmp_path).train
    for question, passage, label in zip(train.question, train.passage, train.label, strict=True):
        assert label == 1 or train.passages[passage] not in answers[train.questions[question]]


@pytest.mark.parametrize("per_group", [None, 3], ids=["whole groups", "three questions a group"])
@pytest.mark.parametrize("keys", [{}, {"format": Format.labelled}], ids=["pairs", "labelled"])
def test_question_is_drawn_only_from_a_group_that_holds_its_positive(
    tmp_path: Path, keys: dict[str, Any], per_group: int | None
) -> None:
    """Each question has an unusable row in a group of its own, and its positive in the group of a document."""
    rows: list[Row] = []
    for i in range(150):
        unusable = {"answer": f"wrong {i}", "label": 0} if keys else {"answer": ""}
        rows.append({"question": f"q {i}", "group": f"own {i}", **unusable})
        positive = {"question": f"q {i}", "group": f"document {i // 5}", "answer": f"right {i}"}
        rows.append({**positive, "label": 1} if keys else positive)
    keys = {**keys, "group_column": "group", "dev_queries": 25, "queries_per_group": per_group}
    split = load_split(write_jsonl(tmp_path / "a.jsonl", rows), validation_queries=20, **keys)
    assert split.validation is not None
    for part, questions in ((split.dev, 25), (split.validation, 20)):
        assert part.groups is not None and len(set(part.questions)) == questions
        documents = {group for group in part.groups if group.startswith("document")}
        assert len(documents) == -(-questions // (per_group or 5))
        assert documents.isdisjoint(split.train.groups or [])


def test_whole_questions_moves_all_rows_of_a_usable_question() -> None:
    rows = PairRows(["a", "b", "A ", "c", "d"], ["1", "2", "3", "4", " "], [1, 2, 3, 4, 5])
    whole = whole_questions(Held(held=[4, 2], rest=[3, 1, 0]), rows, {"a": None, "b": None, "c": None})
    assert (whole.held, whole.rest) == ([2, 0], [3, 1, 4])
