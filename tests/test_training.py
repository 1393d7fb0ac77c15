"""A whole training: non-finite numbers, the best step's weights, and what logs and checkpoints record."""

from __future__ import annotations

import gc
import re
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import Row, labelled, rows_into, tiny, trainer_of, training_config, training_rows, weights

from pipeline.core.errors import ArtifactError, Interrupted, NumericsError
from pipeline.engine import checkpoints, steps, training, update
from pipeline.engine.training import Hooks

# --- numbers that are not finite --------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_nonfinite_loss_or_gradient_stops_before_the_update(
    base: Path, tmp_path: Path, poison: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = tiny(base)
    trainer = trainer_of(
        reranker, training_rows(reranker, labelled(50)), training_config(batch_size=8, eval_steps=2), tmp_path
    )
    good, calls = weights(reranker), [0]
    healthy = update.backward

    def poisoned(model: torch.nn.Module, step: steps.Step, **rest: Any) -> torch.Tensor:
        calls[0] += 1
        good.update(weights(reranker))
        loss = healthy(model, step, **rest)
        if calls[0] < 4:
            return loss
        if poison == "loss":
            return loss * float("inf")
        parameter = next(model.parameters())
        assert parameter.grad is not None
        parameter.grad[0, 0] = float("nan")
        return loss

    monkeypatch.setattr(update, "backward", poisoned)
    batch = list(trainer.plan.batches())[3]
    expected = (
        rf"loss and gradient must be finite, got loss .* by step 4 \(batch rows "
        rf"{re.escape(str(batch[:4].tolist()))}…, learning rate 0\.000667\)\. "
        r"The update was not applied; the checkpoint of step 2 is kept\. Lower training\.learning_rate\."
    )
    with pytest.raises(NumericsError, match=expected):
        trainer.run()
    assert calls[0] == 4
    assert all(torch.equal(tensor, good[name]) for name, tensor in weights(reranker).items())
    assert checkpoints.steps(tmp_path) == [2] and checkpoints.newest(tmp_path) is not None


def test_nonfinite_initial_weights_are_never_saved(base: Path, tmp_path: Path) -> None:
    reranker = tiny(base)
    trainer = trainer_of(reranker, training_rows(reranker, labelled(8)), training_config(), tmp_path)
    with torch.no_grad():
        reranker.model.classifier.bias[0] = float("inf")  # type: ignore[union-attr,index,operator]
    with pytest.raises(NumericsError):
        trainer.run()
    assert checkpoints.steps(tmp_path) == []


def test_weights_made_nonfinite_before_the_checkpoint_are_not_saved(base: Path, tmp_path: Path) -> None:
    reranker = tiny(base)

    def interrupted() -> bool:
        with torch.no_grad():
            reranker.model.classifier.weight[0, 0] = float("inf")
        return True

    trainer = trainer_of(
        reranker, training_rows(reranker, labelled(45)), training_config(), tmp_path, Hooks(interrupted=interrupted)
    )
    with pytest.raises(NumericsError, match=r"^weights must be finite, got classifier\.weight with NaN or infinity"):
        trainer.run()
    assert not checkpoints.steps(tmp_path)


def test_unfetched_nonfinite_step_writes_no_checkpoint(base: Path, tmp_path: Path) -> None:
    reranker = tiny(base)

    def interrupted() -> bool:
        if trainer.state.step == 2:
            trainer.updater.failed.fill_(1.0)  # as an update between two logged steps leaves it on a GPU
        return trainer.state.step == 2

    config, data = training_config(eval_steps=0, max_steps=5), training_rows(reranker, labelled(45))
    trainer = trainer_of(reranker, data, config, tmp_path, Hooks(interrupted=interrupted))
    with pytest.raises(NumericsError, match=r"by step 2 .*no checkpoint had been written"):
        trainer.run()
    assert not checkpoints.steps(tmp_path)


# --- weights, logs and checkpoints ------------------------------------------------------------------------------------


def test_best_step_weights_are_restored_at_the_end(base: Path, tmp_path: Path) -> None:
    reranker = tiny(base)
    config = training_config(
        batch_size=8, epochs=2, eval_steps=2, eval_sets=["validation"], keep_best=True, selection_set="validation",
        keep_checkpoints=1,
    )  # fmt: skip
    trainer = trainer_of(reranker, training_rows(reranker, labelled(50)), config, tmp_path)
    values = {0: 0.99, 2: 0.1, 4: 0.5, 6: 0.5, 8: 0.2, 10: 0.3, 12: 0.4, 14: 0.45}
    at: dict[int, dict[str, torch.Tensor]] = {}

    def evaluate() -> training.Measures:
        at[trainer.state.step] = weights(reranker)
        return {"validation": {"ndcg@10": values[trainer.state.step], "map": 0.0}}

    trainer.hooks = Hooks(evaluate=evaluate)
    facts = trainer.run()
    # Not step 0 (nothing trained) and not step 6: of equal values the first.
    assert (facts["best_step"], facts["saved_step"], facts["steps"]) == (4, 4, 14)
    assert all(torch.equal(tensor, at[4][name]) for name, tensor in weights(reranker).items())
    assert any(not torch.equal(at[14][name], tensor) for name, tensor in at[4].items())
    assert checkpoints.steps(tmp_path) == [4, 14]
    (checkpoints.folder_of(tmp_path, 4) / "model.safetensors").unlink()
    remedy = f"Restore it, or delete {tmp_path} to train from the start"
    with pytest.raises(ArtifactError, match=f"must hold the best step's weights, got .*{remedy}"):
        trainer_of(tiny(base), training_rows(reranker, labelled(50)), config, tmp_path).run()


def test_last_step_between_evaluations_is_measured_but_not_selected(base: Path, tmp_path: Path) -> None:
    reranker = tiny(base)
    config = training_config(
        max_steps=3, eval_steps=2, eval_sets=["validation"], keep_best=True, selection_set="validation"
    )
    trainer = trainer_of(reranker, training_rows(reranker, labelled(50)), config, tmp_path)
    trainer.hooks = Hooks(evaluate=lambda: {"validation": {"ndcg@10": trainer.state.step / 9, "map": 0.0}})
    facts = trainer.run()
    assert [row["step"] for row in trainer.state.rows if row["kind"] == "evaluation"] == [0, 2, 3]
    assert (facts["best_step"], facts["saved_step"], facts["steps"]) == (2, 2, 3)


def test_checkpoint_lists_the_energy_of_every_process(base: Path, tmp_path: Path) -> None:
    reranker, config = tiny(base), training_config(max_steps=3)
    trainer = trainer_of(reranker, training_rows(reranker, labelled(50)), config, tmp_path)
    trainer.hooks = Hooks(energy=lambda: [{"energy_kwh": 1.0}], interrupted=lambda: True)
    with pytest.raises(Interrupted):
        trainer.run()
    hooks = Hooks(energy=lambda: [{"energy_kwh": 2.0}])
    trainer_of(tiny(base), training_rows(reranker, labelled(50)), config, tmp_path, hooks).run()
    newest = checkpoints.newest(tmp_path)
    assert newest is not None and newest.facts["energy"] == [{"energy_kwh": 1.0}, {"energy_kwh": 2.0}]


def test_logged_seconds_include_earlier_evaluations(base: Path, tmp_path: Path) -> None:
    reranker, rows = tiny(base), list[Row]()
    config = training_config(batch_size=16, max_steps=1, eval_steps=1, eval_sets=["validation"])

    def evaluate() -> training.Measures:
        time.sleep(0.2)
        return {"validation": {"ndcg@10": 0.5}}

    hooks = Hooks(evaluate=evaluate, on_row=rows_into(rows))
    trainer_of(reranker, training_rows(reranker, labelled(50)), config, tmp_path, hooks).run()
    before, trained, after = rows
    assert (before["kind"], trained["kind"], after["kind"]) == ("evaluation", "train", "evaluation")
    assert 0.2 <= before["seconds"] <= trained["seconds"] <= after["seconds"] - 0.2
    facts = checkpoints.read(checkpoints.folder_of(tmp_path, 1)).facts
    assert facts["seconds"] >= after["seconds"], "a resumed run counts on from there"


def test_logged_loss_is_the_mean_since_the_previous_row(base: Path, tmp_path: Path) -> None:
    each, some = list[Row](), list[Row]()
    for rows, every in ((each, 1), (some, 4)):
        reranker = tiny(base)
        hooks = Hooks(on_row=rows_into(rows))
        config = training_config(batch_size=8, logging_steps=every, epochs=2)
        trainer_of(reranker, training_rows(reranker, labelled(50)), config, tmp_path / str(every), hooks).run()
    losses = [row["loss"] for row in each]
    assert [row["step"] for row in some] == [1, 4, 8, 12, 14]
    for row, (start, end) in zip(some, [(0, 1), (1, 4), (4, 8), (8, 12), (12, 14)], strict=True):
        assert row["loss"] == pytest.approx(sum(losses[start:end]) / (end - start), rel=1e-12)
        assert row["pairs"] == sum(step["pairs"] for step in each[start:end])
        assert row["tokens"] == sum(step["tokens"] for step in each[start:end])
        assert row["learning_rate"] == each[end - 1]["learning_rate"]
    assert [row["pairs"] for row in each] == [8, 8, 8, 8, 8, 8, 2] * 2
    assert each[0]["learning_rate"] == 0.0 and each[-1]["epoch"] == 2.0


def test_trainer_is_freed_without_garbage_collection(base: Path, tmp_path: Path) -> None:
    reranker = tiny(base)
    trainer = trainer_of(reranker, training_rows(reranker, labelled(50)), training_config(max_steps=1), tmp_path)
    trainer.run()
    table = weakref.ref(trainer.updater.data.table)
    gc.disable()  # a cycle would be found by it
    try:
        del trainer
        assert table() is None, "its optimizer and tokens would lie beside the next model's"
    finally:
        gc.enable()
