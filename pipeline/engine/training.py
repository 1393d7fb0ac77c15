"""The training loop, from rows to weights. Knows nothing of file names, mining or measures.

A step is the next `batch_size` rows of the epoch's permutation. Its loss is the sum over these rows of binary
cross-entropy with logits (positives weighted by `pos_weight`), divided by the number of rows. Micro-batches, device and
log do not change this.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config.learning import Precision, TrainingConfig
from pipeline.core.allocation import reuse_memory
from pipeline.core.errors import ArtifactError, Interrupted, NumericsError, must
from pipeline.core.progress import bar
from pipeline.core.reproducibility import differences, rng_state, seed_everything, set_rng_state
from pipeline.engine import checkpoints
from pipeline.engine.checkpoints import Checkpoint
from pipeline.engine.modeling import Reranker
from pipeline.engine.steps import Step, TrainingRows
from pipeline.engine.training_state import Measures, State
from pipeline.engine.update import Updater
from pipeline.inputs.batching import Plan, linear_schedule, warmup_steps

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Hooks:
    """What a run does besides arithmetic; every hook is optional. All are called on the training thread."""

    evaluate: Callable[[], Measures] = dict
    """Returns the current model's measures, set → measure → value. If `TrainingConfig.eval_sets` is not empty, called
    before the first step, every `eval_steps` steps and after the last; may leave the model in evaluation mode."""
    on_row: Callable[[list[dict[str, Any]]], None] = lambda rows: None
    """Called with the whole log (`State.rows`) each time a row is added, and once after a checkpoint is read."""
    energy: Callable[[], list[dict[str, Any]]] = list
    """Returns this process's energy records so far; a checkpoint keeps them after those of earlier processes."""
    interrupted: Callable[[], bool] = lambda: False
    """Called after each step. If it returns True before the last step is done, a checkpoint is written and
    `Interrupted` is raised."""
    selection_set: str | None = None
    """The name that `evaluate` gives the selection set, if it differs from the configuration's."""


class Trainer:
    """One run, from its first step or a checkpoint to its last step."""

    def __init__(
        self, reranker: Reranker, data: TrainingRows, config: TrainingConfig, *,
        seed: int, device: torch.device, precision: Precision, token_budget: int,
        folder: Path, identity: dict[str, Any], hooks: Hooks,
    ) -> None:  # fmt: skip
        """Seed every generator, move the model to the device and create its optimizer; read and write no files yet.

        Args:
            reranker: the model to train, in place.
            data: all training rows.
            config: steps, optimizer, evaluations and checkpoints.
            seed: of the rows' permutations and of dropout.
            device: the CPU or GPU to train on.
            precision: of the forward and backward passes; weights and optimizer stay in fp32.
            token_budget: initial tokens of a micro-batch; halved when a GPU runs out of memory.
            folder: holds the run's checkpoints; `run` resumes from the newest.
            identity: written to every checkpoint's manifest: `key`, the run's, and `scope`, what decides the last bits
                of results. The scope's `micro_batch_tokens` follows the budget.
            hooks: what the run does besides arithmetic.
        """
        seed_everything(seed)
        if device.type == "cpu":
            reuse_memory()
        self.config, self.hooks, self.precision, self.device = config, hooks, precision, device
        self.folder, self.identity = folder, identity
        self.plan = Plan(len(data.label), config.batch_size, config.epochs, seed, config.max_steps)
        self.warmup = warmup_steps(self.plan.steps, config.warmup_ratio)
        self.updater = Updater(reranker, data, config, device=device, precision=precision, budget=token_budget)
        self.model = self.updater.model
        self.state = State(budget=token_budget, asked_budget=token_budget)
        self.energy_before: list[dict[str, Any]] = []
        """Energy records of a resumed run's earlier processes, from its checkpoint."""
        self.pending = torch.zeros((), dtype=torch.float32, device=device)
        """Sum of the losses not yet fetched from the device: each fetch waits for the device."""
        self.batch_rows = np.zeros(0, np.int64)
        """Row numbers of the latest step's batch."""
        self.began = 0.0
        """The `time.perf_counter` at which the run would have begun without interruptions."""

    def run(self) -> dict[str, Any]:
        """Train to the end and leave the chosen weights in the model.

        Returns:
            The facts of training, for training.json.

        Raises:
            NumericsError: when a loss, gradient or weight is not finite. A step with a non-finite loss or gradient
                changes no weight; the last checkpoint is kept.
            Interrupted: when `Hooks.interrupted` asked to stop, after writing a checkpoint of the last finished step.
            ArtifactError: when none of the existing checkpoints verifies, when they are another run's, or when the best
                step's checkpoint does not verify.
        """
        self._resume()
        self.began = time.perf_counter() - self.state.seconds
        if self.state.step == 0 and self.config.eval_sets and not self.state.rows:
            self._evaluate()
        self.model.train()
        with bar("training, steps", self.plan.steps, self.state.step) as progress, ThreadPoolExecutor(1) as ahead:
            began = time.perf_counter()
            for step in self._prepared(ahead):
                self._step(step, began)
                self._after_step()
                loss = self.state.last_loss()
                progress.advance(1, "" if loss is None else f"loss {loss:.4f}")
                began = time.perf_counter()
        self._clock()
        return self._finish()

    def _clock(self) -> None:
        self.state.seconds = time.perf_counter() - self.began

    def _prepared(self, ahead: ThreadPoolExecutor) -> Iterator[Step]:
        """Yield the steps; each is composed while the one before it runs."""
        coming = None
        for rows in self.plan.batches(self.state.step):
            following = ahead.submit(self.updater.prepare, rows)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()

    def _step(self, step: Step, began: float) -> None:
        """Do one update, timed from `began` so that waiting for the step to be composed counts."""
        rate = self.config.learning_rate * linear_schedule(self.state.step, self.plan.steps, self.warmup)
        loss, norm = self.updater.update(step, rate)
        self.state.step += 1
        if self.updater.budget != self.state.budget:
            self._set_budget(self.updater.budget, self.state.step)
        self.state.since_log += 1
        self.state.tokens += step.tokens
        self.state.padded += step.padded
        self.batch_rows = step.rows
        logs = self._logs_now()
        if logs or self._fixed_now() or self.device.type == "cpu":
            self._refuse_bad_numbers()
            self.state.loss_sum += float(loss)
        else:
            self.pending += loss
        self.state.train_seconds += time.perf_counter() - began
        if logs:
            self._log(float(norm), rate)

    def _set_budget(self, budget: int, step: int) -> None:
        """Compose steps under this budget from `step` on, and record it in the scope: it decides sums' last bits."""
        if budget != self.state.budget:
            self.state.budgets.append([step, budget])
        self.state.budget = self.updater.budget = budget
        if "scope" in self.identity:
            self.identity = {**self.identity, "scope": {**self.identity["scope"], "micro_batch_tokens": budget}}

    def _refuse_bad_numbers(self) -> None:
        """Raise NumericsError if a loss or gradient was not finite; waits for the device."""
        if float(self.updater.failed):
            last = checkpoints.steps(self.folder)
            kept = f"the checkpoint of step {last[-1]} is kept" if last else "no checkpoint had been written"
            loss, norm = self.updater.bad.tolist()
            raise NumericsError(
                f"loss and gradient must be finite, got loss {loss} and gradient norm {norm} by step "
                f"{self.state.step} (batch rows {self.batch_rows[:4].tolist()}…, learning rate "
                f"{self.updater.optimizer.param_groups[0]['lr']:.3g}). The update was not applied; {kept}. "
                "Lower training.learning_rate."
            )

    def _logs_now(self) -> bool:
        first = self.config.logging_first_step and self.state.step == 1
        return first or self.state.step % self.config.logging_steps == 0 or self.state.step == self.plan.steps

    def _fixed_now(self) -> bool:
        return self.config.eval_steps > 0 and self.state.step % self.config.eval_steps == 0

    def _log(self, norm: float, rate: float) -> None:
        self._fetch_losses()
        self._clock()
        self.state.log_steps(self.plan, norm, rate)
        self.hooks.on_row(self.state.rows)

    def _fetch_losses(self) -> None:
        self.state.loss_sum += float(self.pending)
        self.pending.zero_()

    def _after_step(self) -> None:
        fixed = self._fixed_now()
        last = self.state.step == self.plan.steps
        if (fixed or last) and self.config.eval_sets:
            self._evaluate()
        stop = self.hooks.interrupted() and not last
        if fixed or last or stop:
            self._checkpoint()
        if stop:
            raise Interrupted(
                f"training was asked to stop after step {self.state.step} of {self.plan.steps}; "
                "a checkpoint of that step is written. Run the same command again to continue."
            )

    def _evaluate(self) -> None:
        measures = self.hooks.evaluate()
        self.model.train()
        self._clock()
        config = self.config
        if config.keep_best and config.selection_set is not None and self.state.step > 0 and self._fixed_now():
            chosen = self.hooks.selection_set or config.selection_set
            value = measures[chosen][config.selection_measure]
            self.state.keep_better(value)
        self.state.log_evaluation(self.plan, measures)
        self.hooks.on_row(self.state.rows)

    def _checkpoint(self) -> None:
        self._refuse_bad_numbers()  # an interrupt may come after a step whose numbers were not yet fetched
        weights = {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        for name, tensor in weights.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                got = f"{name} with NaN or infinity after step {self.state.step}"
                raise NumericsError(must("weights", "be finite", got, "Lower training.learning_rate."))
        self._fetch_losses()
        self._clock()
        facts = {**self.state.facts(), "energy": [*self.energy_before, *self.hooks.energy()]}
        checkpoint = Checkpoint(self.state.step, weights, self.updater.optimizer.state_dict(), rng_state(), facts)
        checkpoints.write(self.folder, checkpoint, self.identity)
        checkpoints.prune(self.folder, self.config.keep_checkpoints, self.state.best_step)

    def _resume(self) -> None:
        checkpoint = checkpoints.newest(self.folder)
        if checkpoint is None:
            return
        key = self.identity.get("key")
        if key is not None and checkpoint.identity.get("key") != key:
            remedy = f"Put this run's own checkpoints back, or delete {self.folder} to train from the start."
            raise ArtifactError(must(str(self.folder), "hold checkpoints of this run", "another run's", remedy))
        self.model.load_state_dict(checkpoint.weights)
        self.updater.optimizer.load_state_dict(checkpoint.optimizer)
        set_rng_state(checkpoint.generators)
        asked_budget = self.state.asked_budget
        self.state = State.of(checkpoint.step, checkpoint.facts)
        # A halved budget fits the memory of one machine: a run that asks for another budget starts with that one.
        self._set_budget(
            self.state.budget if self.state.asked_budget == asked_budget else asked_budget, checkpoint.step + 1
        )
        self.state.asked_budget = asked_budget
        self.energy_before = checkpoint.facts.get("energy", [])
        if checkpoint.step < self.plan.steps:
            self.state.resumed_at.append(checkpoint.step)
            log.info("resuming after step %d of %d", checkpoint.step, self.plan.steps)
            if changed := differences(checkpoint.identity.get("scope"), self.identity.get("scope")):
                log.warning(
                    "not the checkpoint's scope (%s): the run continues, and its weights will agree with those of an "
                    "uninterrupted run to about 1e-5, not bit for bit", changed,
                )  # fmt: skip
        self.hooks.on_row(self.state.rows)

    def _finish(self) -> dict[str, Any]:
        state, config = self.state, self.config
        chosen = state.best_step if config.keep_best and state.best_step is not None else state.step
        if chosen != state.step:
            self.model.load_state_dict(checkpoints.read_best(self.folder, chosen).weights)
        self.model.eval()
        return {
            "steps": state.step,
            "epochs": config.epochs,
            "rows": self.plan.rows,
            "batch_size": config.batch_size,
            "warmup_steps": self.warmup,
            "best_step": state.best_step if config.keep_best else None,
            "saved_step": chosen,
            "selection_set": (self.hooks.selection_set or config.selection_set) if config.keep_best else None,
            **state.totals(),
            "precision": self.precision.name,
            "micro_batch_tokens": state.budget,
            "budgets": state.budgets,
            "scope": self.identity.get("scope"),
            "device": str(self.device),
            "resumed_at": state.resumed_at,
        }
