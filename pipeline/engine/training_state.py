"""The state of a training run: its progress, its log and its totals. Plain data; knows nothing of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pipeline.inputs.batching import Plan

Measures = dict[str, dict[str, float]]
"""Set → measure → value, of one fixed-step evaluation."""


@dataclass(slots=True)
class State:
    """What a resumed run needs to know; stored in every checkpoint."""

    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The log so far, as in metrics.jsonl: each row is of some steps ("train") or of an evaluation."""
    loss_sum: float = 0.0
    """Sum of losses since the last train row; `since_log`, `tokens`, `padded`, `train_seconds` cover these steps."""
    since_log: int = 0
    seconds: float = 0.0
    """Wall time of the run, evaluations included."""
    tokens: int = 0
    padded: int = 0
    train_seconds: float = 0.0
    best: float | None = None
    best_step: int | None = None
    budget: int = 0
    """Tokens of a micro-batch, halved each time memory ran out."""
    asked_budget: int = 0
    """The budget before any halving."""
    budgets: list[list[int]] = field(default_factory=list)
    """[step, budget] for each change: the budget that holds from that step on."""
    resumed_at: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, step: int, facts: Mapping[str, Any]) -> State:
        """Return the state that a checkpoint of `step` holds; facts that are no fields are ignored."""
        names = {known.name for known in fields(cls)}
        return cls(step=step, **{name: value for name, value in facts.items() if name in names})

    def facts(self) -> dict[str, Any]:
        """Return plain data for a checkpoint, which stores the step itself; numbers that are not finite become None."""
        values = {known.name: getattr(self, known.name) for known in fields(self) if known.name != "step"}
        return {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in values.items()}

    def log_steps(self, plan: Plan, norm: float, rate: float) -> None:
        """Add a row for the steps since the last such row: mean loss, rates, and the last step's gradient norm."""
        pairs = plan.pairs(self.step - self.since_log, self.step)
        seconds = max(self.train_seconds, 1e-9)
        self.rows.append(
            {
                "kind": "train",
                "step": self.step,
                "epoch": self._epoch(plan),
                "loss": self.loss_sum / self.since_log,
                "learning_rate": rate,
                "grad_norm": norm,
                "pairs_per_second": pairs / seconds,
                "tokens_per_second": self.tokens / seconds,
                "padding_share": 1 - self.tokens / self.padded,
                "pairs": pairs,
                "tokens": self.tokens,
                "train_seconds": self.train_seconds,
                "seconds": self.seconds,
            }
        )
        self.loss_sum, self.since_log, self.tokens, self.padded, self.train_seconds = 0.0, 0, 0, 0, 0.0

    def log_evaluation(self, plan: Plan, measures: Measures) -> None:
        """Add a row for one evaluation."""
        self.rows.append(
            {
                "kind": "evaluation",
                "step": self.step,
                "epoch": self._epoch(plan),
                "evaluation": measures,
                "seconds": self.seconds,
            }
        )

    def _epoch(self, plan: Plan) -> float:
        return round(self.step / plan.steps_per_epoch, 6)

    def keep_better(self, value: float) -> None:
        """Record this step as the best if its value is higher than every earlier one."""
        if self.best is None or value > self.best:
            self.best, self.best_step = value, self.step

    def last_loss(self) -> float | None:
        """Return the mean loss of the latest train row; None before the first."""
        return next((row["loss"] for row in reversed(self.rows) if row["kind"] == "train"), None)

    def totals(self) -> dict[str, Any]:
        """Return first and last loss, rates and padding over all logged steps, for training.json."""
        logged = [row for row in self.rows if row["kind"] == "train"]
        seconds = sum(row["train_seconds"] for row in logged)
        pairs, tokens = sum(row["pairs"] for row in logged), sum(row["tokens"] for row in logged)
        padded = sum(row["tokens"] / (1 - row["padding_share"]) for row in logged)
        return {
            "first_loss": logged[0]["loss"] if logged else None,
            "last_loss": self.last_loss(),
            "pairs_per_second": pairs / max(seconds, 1e-9),
            "tokens_per_second": tokens / max(seconds, 1e-9),
            "padding_share": 1 - tokens / padded if padded else 0.0,
            "train_seconds": seconds,
            "seconds": self.seconds,
        }
