"""The log and the totals of a training, without one: whole trainings are in test_training.py and test_resume.py."""

from __future__ import annotations

import math

import pytest

from pipeline.engine.training_state import State
from pipeline.inputs.batching import Plan

PLAN = Plan(rows=10, batch_size=4, epochs=2, seed=1)
"""Batches of 4, 4 and 2, twice."""


def stepped(state: State, steps: int, loss: float) -> State:
    state.step += steps
    state.since_log += steps
    state.loss_sum += steps * loss
    state.tokens, state.padded, state.train_seconds = state.tokens + 30, state.padded + 40, state.train_seconds + 2.0
    return state


def test_a_row_is_the_mean_since_the_last_row_of_steps() -> None:
    state = stepped(State(), 2, 1.0)
    state.log_steps(PLAN, norm=3.0, rate=0.1)
    stepped(state, 1, 4.0).log_evaluation(PLAN, {"dev": {"map": 0.5}})
    stepped(state, 1, 2.0).log_steps(PLAN, norm=5.0, rate=0.2)
    first, evaluation, second = state.rows
    assert (first["loss"], first["pairs"], first["pairs_per_second"]) == (1.0, 8, 4.0)
    assert (evaluation["kind"], evaluation["step"], evaluation["epoch"]) == ("evaluation", 3, 1.0)
    assert (second["loss"], second["pairs"], second["step"], second["grad_norm"]) == (3.0, 2 + 4, 4, 5.0)
    assert (second["tokens"], second["padding_share"], second["tokens_per_second"]) == (60, 0.25, 15.0)
    assert state.since_log == state.tokens == state.padded == 0 and state.loss_sum == state.train_seconds == 0.0
    totals = state.totals()
    assert (totals["first_loss"], totals["last_loss"], totals["train_seconds"]) == (1.0, 3.0, 6.0)
    assert totals["pairs_per_second"] == pytest.approx(14 / 6) and totals["padding_share"] == pytest.approx(0.25)


def test_totals_of_nothing() -> None:
    assert State().totals()["first_loss"] is None and State().totals()["padding_share"] == 0.0


def test_a_checkpoints_facts_make_the_state_again() -> None:
    state = stepped(State(budget=64, asked_budget=128), 1, 2.0)
    state.best, state.seconds = math.nan, 7.0
    facts = state.facts()
    assert "step" not in facts and facts["best"] is None
    again = State.of(1, {**facts, "energy": [], "of another version": 1})
    state.best = None
    assert again == state


def test_the_first_of_equally_good_steps_is_the_best() -> None:
    state = State(step=2)
    state.keep_better(0.5)
    state.step = 4
    state.keep_better(0.5)
    assert (state.best, state.best_step) == (0.5, 2)
    state.keep_better(0.6)
    assert (state.best, state.best_step) == (0.6, 4)
