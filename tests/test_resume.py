"""Training that is killed or interrupted and started again ends with the uninterrupted run's weights and log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from injected_faults import Killed
from small_models import Row, labelled, tiny, trainer_of, training_config, training_rows, weights, without_times

from pipeline.core.errors import ArtifactError, Interrupted
from pipeline.engine import checkpoints, steps, training, update
from pipeline.engine.training import Hooks


class Outcome(NamedTuple):
    """How a run ended."""

    weights: dict[str, torch.Tensor]
    rows: list[Row]
    facts: Row
    lanes: set[int]
    """Numbers of lanes that its steps were composed for."""


def hooks_of(trainer: training.Trainer, rows: list[Row], kill: int, interrupt: int) -> Hooks:
    """Collect the rows; die when the row of step `kill` is written; ask to stop after step `interrupt`."""

    def on_row(written: list[Row]) -> None:
        rows[:] = written
        if written and written[-1]["kind"] == "train" and written[-1]["step"] == kill:
            raise Killed

    def evaluate() -> training.Measures:
        # An evaluation leaves the mode changed and draws random numbers: neither may show in the training.
        trainer.model.eval()
        torch.rand(3)
        return {"validation": {"ndcg@10": float(trainer.state.step % 5)}}

    return Hooks(evaluate=evaluate, on_row=on_row, interrupted=lambda: trainer.state.step == interrupt > 0)


@contextmanager
def on_lanes(count: int) -> Iterator[set[int]]:
    """Compose steps for so many lanes, however small they are; yield the numbers of lanes they were composed for."""
    used, prepare, threads = set[int](), update.prepare, torch.get_num_threads()

    def prepared(*arguments: Any, **named: Any) -> steps.Step:
        step = prepare(*arguments, **named)
        used.add(step.lanes)
        return step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "LANE_TOKENS", 1)
        patch.setattr(update, "prepare", prepared)
        torch.set_num_threads(count)
        try:
            yield used
        finally:
            torch.set_num_threads(threads)


def train(
    base: Path, folder: Path, pieces: list[tuple[int, int]], lanes: int = 1,
    before_last: Callable[[Path], None] = lambda folder: None,
) -> Outcome:  # fmt: skip
    """Train through (kill, interrupt) pieces to the end: 7 steps an epoch, the last of 2 rows."""
    chosen: Row = {"batch_size": 8, "epochs": 2, "eval_steps": 4, "eval_sets": ["validation"], "logging_steps": 3}
    with on_lanes(lanes) as used:
        for kill, interrupt in [*pieces, (0, 0)]:
            reranker, rows = tiny(base, dropout=0.1), list[Row]()
            trainer = trainer_of(reranker, training_rows(reranker, labelled(50)), training_config(**chosen), folder)
            trainer.hooks = hooks_of(trainer, rows, kill, interrupt)
            if not kill and not interrupt:
                before_last(folder)
            if kill:
                with pytest.raises(Killed):
                    trainer.run()
            elif interrupt:
                stopped = rf"after step {interrupt} of 14; .*Run the same command again"
                with pytest.raises(Interrupted, match=stopped):
                    trainer.run()
        facts = trainer.run()
    return Outcome(weights(reranker), rows, facts, used)


@pytest.fixture(scope="module")
def uninterrupted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Outcome]:
    """Number of lanes → outcome of the run that nothing interrupts."""
    return {lanes: train(base, tmp_path_factory.mktemp("whole"), [], lanes) for lanes in (1, 2)}


@pytest.mark.parametrize(
    ("pieces", "resumed", "lanes"),
    [
        ([(6, 0)], [4], 1),
        ([(12, 0)], [8], 1),  # inside the second epoch
        ([(0, 3)], [3], 1),
        ([(0, 7), (0, 11)], [7, 11], 1),  # at the end of the first epoch, then inside the second
        ([(9, 0), (9, 0), (0, 10)], [8, 10], 1),  # killed twice at one place: the first resume was never saved
        ([(1, 0)], [], 1),  # before the first checkpoint: from the start
        ([(6, 0), (12, 0)], [4, 8], 2),
    ],
    ids=[
        "killed",
        "killed in the second epoch",
        "interrupted",
        "interrupted twice",
        "killed twice at one step, interrupted",
        "killed before the first checkpoint",
        "killed twice, two lanes",
    ],
)
def test_resumed_run_ends_with_the_same_weights_and_log(
    base: Path,
    tmp_path: Path,
    uninterrupted: dict[int, Outcome],
    pieces: list[tuple[int, int]],
    resumed: list[int],
    lanes: int,
) -> None:
    expected, found = uninterrupted[lanes], train(base, tmp_path, pieces, lanes)
    assert found.facts["resumed_at"] == resumed
    assert all(torch.equal(found.weights[name], expected.weights[name]) for name in expected.weights)
    assert without_times(found.rows) == without_times(expected.rows)
    assert [row["step"] for row in found.rows if row["kind"] == "train"] == [1, 3, 6, 9, 12, 14]
    assert [row["step"] for row in found.rows if row["kind"] == "evaluation"] == [0, 4, 8, 12, 14]
    assert found.lanes == expected.lanes == {lanes}


def test_resume_without_generator_states_changes_the_weights(
    base: Path, tmp_path: Path, uninterrupted: dict[int, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the generators' states the comparison above must fail; else it would prove nothing about them.
    monkeypatch.setattr(training, "set_rng_state", lambda state: None)
    found = train(base, tmp_path, [(6, 0)]).weights
    assert any(not torch.equal(found[name], tensor) for name, tensor in uninterrupted[1].weights.items())


def test_resume_skips_a_torn_checkpoint_and_ends_with_the_same_weights(
    base: Path, tmp_path: Path, uninterrupted: dict[int, Outcome], caplog: pytest.LogCaptureFixture
) -> None:
    def tear_the_newest(folder: Path) -> None:
        newest = checkpoints.folder_of(folder, checkpoints.steps(folder)[-1]) / "optimizer.pt"
        newest.write_bytes(newest.read_bytes()[:100])

    with caplog.at_level(logging.WARNING):
        found = train(base, tmp_path, [(12, 0)], before_last=tear_the_newest)
    assert "skipping the checkpoint of step 8" in caplog.text
    assert found.facts["resumed_at"] == [4]
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in uninterrupted[1].weights.items())
    assert without_times(found.rows) == without_times(uninterrupted[1].rows)


def test_finished_training_is_not_repeated(base: Path, tmp_path: Path) -> None:
    first, again = train(base, tmp_path, []), train(base, tmp_path, [])
    assert all(torch.equal(first.weights[name], again.weights[name]) for name in first.weights)
    assert (again.facts["resumed_at"], again.facts["steps"], len(again.rows)) == ([], 14, 11)
    assert first.facts["first_loss"] == again.facts["first_loss"]


def test_checkpoints_of_another_run_are_refused(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path, [])
    reranker = tiny(base)
    trainer = trainer_of(reranker, training_rows(reranker, labelled(50)), training_config(), tmp_path)
    trainer.identity = {"key": "other"}
    before = weights(reranker)
    with pytest.raises(ArtifactError, match=rf"^{tmp_path} must hold checkpoints of this run, got another run's\. Put"):
        trainer.run()
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(reranker).items())


def test_interrupt_after_the_last_step_does_not_raise(base: Path, tmp_path: Path) -> None:
    reranker = tiny(base)
    config, data = training_config(max_steps=2), training_rows(reranker, labelled(45))
    trainer = trainer_of(reranker, data, config, tmp_path, Hooks(interrupted=lambda: trainer.state.step == 2))
    assert trainer.run()["steps"] == 2 and checkpoints.steps(tmp_path)[-1] == 2
