"""The exactness contract: the reference trainer's losses, one padded batch's gradients, the same bits after a kill."""

from __future__ import annotations

import gc
import logging
import math
import re
import shutil
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from mutated_steps import MUTATIONS
from small_models import BUDGET, labelled, model_config, tiny, trainer_of, training_config, training_rows, weights

from pipeline.config.learning import Precision, TrainingConfig
from pipeline.core.errors import ArtifactError, Interrupted, NumericsError, ResourceError
from pipeline.engine import checkpoints, model_files, modeling, steps, training, update
from pipeline.engine.training import Hooks
from pipeline.inputs.batching import Plan

Row = dict[str, Any]
TIMES = {"pairs_per_second", "tokens_per_second", "train_seconds", "seconds"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny(folder)
    return folder


# --- the reference trainer --------------------------------------------------------------------------------------------


def reference(
    folder: Path, rows: list[tuple[str, str, float]], config: TrainingConfig, out: Path
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Every step's loss and the final weights of `CrossEncoderTrainer` on the same rows in our order."""
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    seen: list[float] = []

    class Recorded(BinaryCrossEntropyLoss):
        def forward(self, inputs: Any, labels: Any) -> Any:
            loss = super().forward(inputs, labels)
            seen.append(loss.item())
            return loss

    model = CrossEncoder(str(folder), num_labels=1, device="cpu")
    order = np.concatenate([Plan(len(rows), config.batch_size, config.epochs, 12).permutation(0)])
    columns = [[rows[i][column] for i in order] for column in range(3)]
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(out), num_train_epochs=1, per_device_train_batch_size=config.batch_size, use_cpu=True,
        learning_rate=config.learning_rate, warmup_steps=config.warmup_ratio, weight_decay=config.weight_decay,
        logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, bf16=False, fp16=False,
        batch_sampler=lambda dataset, batch_size, drop_last, **_: DefaultBatchSampler(
            torch.utils.data.SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last
        ),
    )  # fmt: skip
    CrossEncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(dict(zip(("query", "passage", "label"), columns, strict=True))),
        loss=Recorded(model, pos_weight=torch.tensor(config.pos_weight)),
    ).train()
    return seen, {name: tensor.detach() for name, tensor in model.model.state_dict().items()}


@pytest.fixture(scope="module")
def fifty(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float], dict[str, torch.Tensor]]:
    """The common starting folder, and what the reference makes of 50 steps, the last with 11 rows."""
    start = tmp_path_factory.mktemp("start")
    model_files.save(tiny(base), start, model_config(base))
    return start, *reference(start, labelled(795), training_config(), tmp_path_factory.mktemp("reference"))


def our_losses(start: Path, folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    reranker = tiny(start)
    rows: list[Row] = []
    trainer_of(
        reranker, training_rows(reranker, labelled(795)), training_config(), folder, Hooks(on_row=rows_into(rows))
    ).run()
    return [row["loss"] for row in rows], weights(reranker)


def rows_into(target: list[Row]) -> Callable[[list[Row]], None]:
    def keep(rows: list[Row]) -> None:
        target[:] = rows

    return keep


def assert_losses_agree(ours: list[float], expected: list[float]) -> None:
    assert len(ours) == len(expected)
    worst = max(abs(a - b) / abs(b) for a, b in zip(ours, expected, strict=True))
    assert worst <= 1e-5, f"largest relative difference {worst:.3g}"


def test_fifty_steps_have_the_reference_trainers_losses(
    fifty: tuple[Path, list[float], dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    start, expected, final = fifty
    ours, trained = our_losses(start, tmp_path)
    assert len(expected) == 50 and len(set(expected)) == 50
    assert_losses_agree(ours, expected)
    assert max(abs(a - b) for a, b in zip(expected[:10], expected[-10:], strict=True)) > 0.01, "it did learn something"
    assert trained.keys() == final.keys()
    apart = math.sqrt(sum(float((trained[name] - final[name]).double().square().sum()) for name in final))
    moved = weights(tiny(start))
    path = math.sqrt(sum(float((moved[name] - final[name]).double().square().sum()) for name in final))
    assert apart <= 1e-3 * path, f"final weights {apart:.3g} apart, {path:.3g} from the start"


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutated_step_does_not_pass_for_the_reference(
    fifty: tuple[Path, list[float], dict[str, torch.Tensor]], tmp_path: Path, mutation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    MUTATIONS[mutation](monkeypatch)
    ours, _ = our_losses(fifty[0], tmp_path)
    with pytest.raises(AssertionError):
        assert_losses_agree(ours, fifty[1])


# --- kill and resume --------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it."""


def piece_hooks(trainer: training.Trainer, rows: list[Row], kill: int, interrupt: int) -> Hooks:
    """Collect the rows; die when the row of step `kill` is written; ask to stop after step `interrupt`."""

    def on_row(seen: list[Row]) -> None:
        rows[:] = seen
        if seen and seen[-1]["kind"] == "train" and seen[-1]["step"] == kill:
            raise Killed

    def evaluate() -> training.Measures:
        # An evaluation leaves the mode changed and draws random numbers: neither may show in the training.
        trainer.model.eval()
        torch.rand(3)
        return {"validation": {"ndcg@10": float(trainer.state.step % 5)}}

    return Hooks(evaluate=evaluate, on_row=on_row, interrupted=lambda: trainer.state.step == interrupt > 0)


def run_through(
    base: Path, folder: Path, pieces: list[tuple[int, int]], before_last: Callable[[Path], None] = lambda folder: None
) -> Any:
    """Train through (kill, interrupt) pieces to the end: weights, rows and facts. 7 steps an epoch, the last of 2."""
    chosen: Row = {"batch_size": 8, "epochs": 2, "eval_steps": 4, "eval_sets": ["validation"], "logging_steps": 3}
    for kill, interrupt in [*pieces, (0, 0)]:
        reranker, rows = tiny(base, dropout=0.1), list[Row]()
        trainer = trainer_of(reranker, training_rows(reranker, labelled(50)), training_config(**chosen), folder)
        trainer.hooks = piece_hooks(trainer, rows, kill, interrupt)
        if not kill and not interrupt:
            before_last(folder)
        if kill:
            with pytest.raises(Killed):
                trainer.run()
        elif interrupt:
            with pytest.raises(Interrupted, match=rf"after step {interrupt} of 14; .*Run the same command again"):
                trainer.run()
    facts = trainer.run()
    return weights(reranker), rows, facts


def without_times(rows: list[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


@pytest.fixture(scope="module")
def uninterrupted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_through(base, tmp_path_factory.mktemp("whole"), [])


@pytest.mark.parametrize(
    ("pieces", "resumed"),
    [
        ([(6, 0)], [4]),
        ([(12, 0)], [8]),  # inside the second epoch
        ([(0, 3)], [3]),
        ([(0, 7), (0, 11)], [7, 11]),  # at the end of the first epoch, then inside the second
        ([(9, 0), (9, 0), (0, 10)], [8, 10]),  # killed twice at one place: the first resume was never saved
        ([(1, 0)], []),  # before the first checkpoint: from the start
    ],
    ids=str,
)
def test_a_resumed_run_ends_with_the_same_bits(
    base: Path, tmp_path: Path, uninterrupted: Any, pieces: list[tuple[int, int]], resumed: list[int]
) -> None:
    expected, whole, _ = uninterrupted
    found, rows, facts = run_through(base, tmp_path, pieces)
    assert facts["resumed_at"] == resumed
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert without_times(rows) == without_times(whole)
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 3, 6, 9, 12, 14]
    assert [row["step"] for row in rows if row["kind"] == "evaluation"] == [0, 4, 8, 12, 14]


def test_a_run_that_is_asked_to_stop_after_its_last_step_has_ended(base: Path, tmp_path: Path) -> None:
    reranker = tiny(base)
    config, data = training_config(max_steps=2), training_rows(reranker, labelled(45))
    trainer = trainer_of(reranker, data, config, tmp_path, Hooks(interrupted=lambda: trainer.state.step == 2))
    assert trainer.run()["steps"] == 2 and checkpoints.steps(tmp_path)[-1] == 2


def test_checkpoints_of_another_run_are_refused(base: Path, tmp_path: Path) -> None:
    run_through(base, tmp_path, [])
    reranker = tiny(base)
    trainer = trainer_of(reranker, training_rows(reranker, labelled(50)), training_config(), tmp_path)
    trainer.identity = {"key": "other"}
    before = weights(reranker)
    with pytest.raises(ArtifactError, match=rf"^{tmp_path} must hold checkpoints of this run, got another run's\. Put"):
        trainer.run()
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(reranker).items())


def test_a_resumed_run_ends_with_the_same_bits_on_lanes(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "LANE_TOKENS", 1)
    seen, prepare = list[int](), update.prepare

    def prepared(*arguments: Any, **named: Any) -> steps.Step:
        step = prepare(*arguments, **named)
        seen.append(step.lanes)
        return step

    monkeypatch.setattr(update, "prepare", prepared)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected, whole, _ = run_through(base, tmp_path / "whole", [])
        found, rows, _ = run_through(base, tmp_path / "pieces", [(6, 0), (12, 0)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert without_times(rows) == without_times(whole)
    assert set(seen) == {2}


def test_dropout_makes_the_bits_depend_on_the_generators(
    base: Path, tmp_path: Path, uninterrupted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the generators' states the comparison above must fail; else it would prove nothing about them.
    monkeypatch.setattr(training, "set_rng_state", lambda state: None)
    found, _, _ = run_through(base, tmp_path, [(6, 0)])
    assert any(not torch.equal(found[name], tensor) for name, tensor in uninterrupted[0].items())


def test_a_torn_checkpoint_falls_back_and_still_ends_with_the_same_bits(
    base: Path, tmp_path: Path, uninterrupted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def torn(folder: Path) -> None:
        newest = checkpoints.folder_of(folder, checkpoints.steps(folder)[-1]) / "optimizer.pt"
        newest.write_bytes(newest.read_bytes()[:100])

    with caplog.at_level(logging.WARNING):
        found, rows, facts = run_through(base, tmp_path, [(12, 0)], before_last=torn)
    assert "skipping the checkpoint of step 8" in caplog.text
    assert facts["resumed_at"] == [4]
    assert all(torch.equal(found[name], tensor) for name, tensor in uninterrupted[0].items())
    assert without_times(rows) == without_times(uninterrupted[1])


def test_the_end_is_reached_once(base: Path, tmp_path: Path) -> None:
    first, _, facts = run_through(base, tmp_path, [])
    again, rows, same = run_through(base, tmp_path, [])
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert (same["resumed_at"], same["steps"], len(rows)) == ([], 14, 11)
    assert facts["first_loss"] == same["first_loss"]


# --- what a run refuses and records -----------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_non_finite_numbers_stop_before_the_update(
    base: Path, tmp_path: Path, poison: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = tiny(base)
    trainer = trainer_of(
        reranker, training_rows(reranker, labelled(50)), training_config(batch_size=8, eval_steps=2), tmp_path
    )
    good, sums = weights(reranker), [0]
    healthy = update.backward

    def poisoned(model: torch.nn.Module, step: steps.Step, **rest: Any) -> torch.Tensor:
        sums[0] += 1
        good.update(weights(reranker))
        loss = healthy(model, step, **rest)
        if sums[0] < 4:
            return loss
        if poison == "loss":
            return loss * float("inf")
        parameter = next(model.parameters())
        assert parameter.grad is not None
        parameter.grad[0, 0] = float("nan")
        return loss

    monkeypatch.setattr(update, "backward", poisoned)
    batch = list(trainer.plan.batches())[3]
    said = (
        rf"loss and gradient must be finite, got loss .* by step 4 \(batch rows "
        rf"{re.escape(str(batch[:4].tolist()))}…, learning rate 0\.000667\)\. "
        r"The update was not applied; the checkpoint of step 2 is kept\. Lower training\.learning_rate\."
    )
    with pytest.raises(NumericsError, match=said):
        trainer.run()
    assert sums[0] == 4
    assert all(torch.equal(tensor, good[name]) for name, tensor in weights(reranker).items())
    assert checkpoints.steps(tmp_path) == [2] and checkpoints.newest(tmp_path) is not None


def test_weights_gone_bad_are_never_saved(base: Path, tmp_path: Path) -> None:
    reranker = tiny(base)
    trainer = trainer_of(reranker, training_rows(reranker, labelled(8)), training_config(), tmp_path)
    with torch.no_grad():
        reranker.model.classifier.bias[0] = float("inf")  # type: ignore[union-attr,index,operator]
    with pytest.raises(NumericsError):
        trainer.run()
    assert checkpoints.steps(tmp_path) == []


def test_the_best_steps_weights_are_restored(base: Path, tmp_path: Path) -> None:
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
    # Not step 0 (nothing trained) and not step 6: of equals the first.
    assert (facts["best_step"], facts["saved_step"], facts["steps"]) == (4, 4, 14)
    assert all(torch.equal(tensor, at[4][name]) for name, tensor in weights(reranker).items())
    assert any(not torch.equal(at[14][name], tensor) for name, tensor in at[4].items())
    assert checkpoints.steps(tmp_path) == [4, 14]
    (checkpoints.folder_of(tmp_path, 4) / "model.safetensors").unlink()
    remedy = f"Restore it, or delete {tmp_path} to train from the start"
    with pytest.raises(ArtifactError, match=f"must hold the best step's weights, got .*{remedy}"):
        trainer_of(tiny(base), training_rows(reranker, labelled(50)), config, tmp_path).run()


def test_a_last_step_that_is_no_fixed_one_is_evaluated_and_not_chosen(base: Path, tmp_path: Path) -> None:
    reranker = tiny(base)
    config = training_config(
        max_steps=3, eval_steps=2, eval_sets=["validation"], keep_best=True, selection_set="validation"
    )
    trainer = trainer_of(reranker, training_rows(reranker, labelled(50)), config, tmp_path)
    trainer.hooks = Hooks(evaluate=lambda: {"validation": {"ndcg@10": trainer.state.step / 9, "map": 0.0}})
    facts = trainer.run()
    assert (facts["best_step"], facts["saved_step"], facts["steps"]) == (2, 2, 3)


def test_a_checkpoint_holds_the_energy_of_every_piece(base: Path, tmp_path: Path) -> None:
    reranker, config = tiny(base), training_config(max_steps=3)
    trainer = trainer_of(reranker, training_rows(reranker, labelled(50)), config, tmp_path)
    trainer.hooks = Hooks(energy=lambda: [{"energy_kwh": 1.0}], interrupted=lambda: True)
    with pytest.raises(Interrupted):
        trainer.run()
    hooks = Hooks(energy=lambda: [{"energy_kwh": 2.0}])
    trainer_of(tiny(base), training_rows(reranker, labelled(50)), config, tmp_path, hooks).run()
    newest = checkpoints.newest(tmp_path)
    assert newest is not None and newest.facts["energy"] == [{"energy_kwh": 1.0}, {"energy_kwh": 2.0}]


def test_seconds_hold_the_evaluations_before_them(base: Path, tmp_path: Path) -> None:
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


def test_a_logged_loss_is_the_mean_since_the_row_before(base: Path, tmp_path: Path) -> None:
    each, some = ([], [])  # type: tuple[list[Row], list[Row]]
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


def test_a_trainer_that_is_done_with_is_gone_at_once(base: Path, tmp_path: Path) -> None:
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


# --- as on a GPU ------------------------------------------------------------------------------------------------------


def test_a_bad_step_that_nothing_was_read_of_leaves_no_checkpoint(base: Path, tmp_path: Path) -> None:
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


def test_after_a_bad_step_no_update_is_made_and_its_numbers_stay(base: Path, tmp_path: Path) -> None:
    reranker = tiny(base)
    trainer = trainer_of(reranker, training_rows(reranker, labelled(45)), training_config(), tmp_path, Hooks())
    updater, before = trainer.updater, weights(reranker)
    updater.failed.fill_(1.0)  # as a step of some time ago left it, whose numbers nothing has read
    updater.bad.copy_(torch.tensor([7.0, 8.0]))
    updater.update(updater.prepare(np.arange(8)), 0.1)
    assert updater.bad.tolist() == [7.0, 8.0] and float(updater.failed) == 1.0
    assert all(torch.equal(now, before[name]) for name, now in weights(reranker).items())


def test_weights_that_are_not_finite_are_in_no_checkpoint(base: Path, tmp_path: Path) -> None:
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


def test_an_operator_without_a_repeatable_kernel_is_named_and_used(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def gradient(features: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(features).put_(torch.arange(features.numel()), features)  # has none on a CPU either

    found = []
    for strict in (False, True):
        reranker = tiny(base, dropout=0.1)
        reranker.model.classifier.register_forward_pre_hook(
            lambda _, inputs: inputs[0].register_hook(gradient) and None
        )
        data, config = training_rows(reranker, labelled(45)), training_config(max_steps=3)
        trainer = trainer_of(reranker, data, config, tmp_path / str(strict), Hooks())
        trainer.updater.strict = strict
        with caplog.at_level(logging.WARNING):
            trainer.run()
        found.append(weights(reranker))
    assert caplog.messages == [
        "identical runs may differ in their last bits: put_ does not have a deterministic implementation"
    ]
    assert torch.is_deterministic_algorithms_warn_only_enabled() and not trainer.updater.strict
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0]), "the step was repeated as it was"


# --- out of memory ----------------------------------------------------------------------------------------------------

ENOUGH = 150
"""Tokens that fit into the small GPU: fewer than `BUDGET`, more than half of it."""


as_on_a_gpu = pytest.mark.usefixtures("batches_of_a_gpu")


def on_a_small_gpu(reranker: modeling.Reranker, tokens: int = ENOUGH, full: Callable[[], bool] = lambda: True) -> None:
    """Let the model's last layer fail as CUDA does, dropout drawn and earlier gradients there, above so many tokens."""
    seen = [0]

    def count(module: Any, inputs: Any, output: Any) -> None:
        seen[0] = inputs[0].numel()

    def fail(module: Any, inputs: Any, output: Any) -> None:
        if seen[0] > tokens and full():
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    reranker.model.get_input_embeddings().register_forward_hook(count)
    reranker.model.classifier.register_forward_hook(fail)


def trained_within(
    base: Path, folder: Path, budget: int, tokens: int | None,
    full: Callable[[training.Trainer], bool] = lambda trainer: True, dropout: float = 0.1,
) -> tuple[training.Trainer, dict[str, torch.Tensor], list[Row], Row]:  # fmt: skip
    """Seven steps in three epochs: the trainer, its weights, rows and facts."""
    reranker, rows = tiny(base, dropout=dropout), list[Row]()
    chosen = training_config(epochs=3, max_steps=7, eval_steps=3)
    data = training_rows(reranker, labelled(45))
    trainer = trainer_of(reranker, data, chosen, folder, Hooks(on_row=rows_into(rows)), budget)
    trainer.identity = {"key": "test", "scope": {"micro_batch_tokens": budget, "device": "small"}}
    if tokens is not None:
        on_a_small_gpu(reranker, tokens, lambda: full(trainer))
    facts = trainer.run()
    return trainer, weights(reranker), rows, facts


@as_on_a_gpu
def test_out_of_memory_from_the_first_step_is_a_run_with_half_the_budget(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, expected, rows, facts = trained_within(base, tmp_path / "half", BUDGET // 2, None)
    with caplog.at_level(logging.WARNING):
        trainer, found, ours, seen = trained_within(base, tmp_path / "small", BUDGET, ENOUGH)
    assert caplog.messages == [f"out of GPU memory: runtime.micro_batch_tokens halved to {BUDGET // 2}"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert without_times(ours) == without_times(rows), "the padding share too is that of the repeated step"
    assert (seen["micro_batch_tokens"], seen["padding_share"]) == (BUDGET // 2, facts["padding_share"])
    for step in (6, 7):
        written = checkpoints.read(checkpoints.folder_of(trainer.folder, step))
        assert written.identity["scope"] == {"micro_batch_tokens": BUDGET // 2, "device": "small"}
        assert written.facts["budget"] == BUDGET // 2


@as_on_a_gpu
def test_out_of_memory_later_changes_last_bits_only_and_a_resume_keeps_the_plan(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def late(trainer: training.Trainer) -> bool:
        return trainer.state.step >= 4

    _, whole, _, _ = trained_within(base, tmp_path / "whole", BUDGET, None, dropout=0.0)
    _, found, _, _ = trained_within(base, tmp_path / "same", BUDGET, ENOUGH, late, dropout=0.0)
    apart = max(float((found[name] - whole[name]).abs().max()) for name in whole)
    assert 0 < apart < 1e-5, "dropout's masks depend on the plan, nothing else but rounding does"
    _, found, _, _ = trained_within(base, tmp_path / "late", BUDGET, ENOUGH, late)
    # Memory that has come free since changes nothing, for the run has its plan; another one must be asked for.
    shutil.rmtree(checkpoints.folder_of(tmp_path / "late", 7))
    _, again, _, facts = trained_within(base, tmp_path / "late", BUDGET, None)
    assert (facts["micro_batch_tokens"], facts["resumed_at"]) == (BUDGET // 2, [6])
    assert facts["budgets"] == [[5, BUDGET // 2]]
    assert facts["scope"]["micro_batch_tokens"] == BUDGET // 2
    assert all(torch.equal(again[name], found[name]) for name in found)
    shutil.rmtree(checkpoints.folder_of(tmp_path / "late", 7))
    with caplog.at_level(logging.WARNING):
        _, _, _, facts = trained_within(base, tmp_path / "late", 2 * BUDGET, None)
    assert facts["micro_batch_tokens"] == 2 * BUDGET
    assert facts["budgets"] == [[5, BUDGET // 2], [7, 2 * BUDGET]]
    assert f"micro_batch_tokens {BUDGET // 2} → {2 * BUDGET}" in caplog.text


@as_on_a_gpu
def test_a_gpu_that_cannot_hold_one_pair_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"GPU memory must hold one pair of the longest length, got 39 tokens"):
        trained_within(base, tmp_path, BUDGET, 3)
    assert checkpoints.steps(tmp_path) == []


def test_clipping_inside_the_update_is_clipping_before_it(base: Path, tmp_path: Path) -> None:
    """Gradients a hundred times the allowed norm, of another size each step: Adam's moments see what was clipped."""
    config = training_config(batch_size=8, max_steps=3, max_grad_norm=1e-3, warmup_ratio=0.0, logging_steps=1)
    reranker, rows = tiny(base), list[Row]()
    data = training_rows(reranker, labelled(45))
    trainer_of(reranker, data, config, tmp_path, Hooks(on_row=rows_into(rows))).run()
    assert all(row["grad_norm"] > 0.01 for row in rows if row["kind"] == "train")

    plain = tiny(base)
    optimizer = torch.optim.AdamW(plain.model.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=False)
    plan = Plan(len(data.label), 8, config.epochs, 12, 3)
    for step, picked in enumerate(plan.batches()):
        optimizer.param_groups[0]["lr"] = config.learning_rate * (3 - step) / 3
        batch = steps.prepare(plain, data, picked, BUDGET)
        update.backward(plain.model, batch, pos_weight=config.pos_weight, precision=Precision.fp32,
                          accelerator=Accelerator(cpu=True))  # fmt: skip
        torch.nn.utils.clip_grad_norm_(plain.model.parameters(), 1e-3)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    found, wanted, start = weights(reranker), weights(plain), weights(tiny(base))
    moved = max(float((wanted[name] - start[name]).abs().max()) for name in wanted)
    assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) < 1e-3 * moved
