"""Updates of a model: the gradient of a whole step, within the device's memory, and the optimizer that applies it.

Knows one step at a time, and nothing of schedules, logs, checkpoints or evaluations.
"""

from __future__ import annotations

import logging

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from transformers.trainer_pt_utils import get_parameter_names

from pipeline.config.learning import Precision, TrainingConfig
from pipeline.core.errors import out_of_gpu_memory
from pipeline.core.reproducibility import repeatable, rng_state, set_rng_state
from pipeline.engine.modeling import Reranker
from pipeline.engine.steps import Step, TrainingRows, backward, prepare
from pipeline.inputs.batching import Indices, halved

log = logging.getLogger(__name__)

NOT_DECAYED = ["bias", "layernorm", "rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
"""The patterns of `Trainer.get_decay_parameter_names`, searched in lower-case names; MPNet's relative_attention_bias
matches too."""


class Updater:
    """A reranker, its optimizer, and the token budget under which steps are computed."""

    def __init__(
        self, reranker: Reranker, data: TrainingRows, config: TrainingConfig, *,
        device: torch.device, precision: Precision, budget: int,
    ) -> None:  # fmt: skip
        """Move the model to the device and create its optimizer.

        Args:
            reranker: its model's weights are what `update` changes, in place.
            data: the rows from which steps are composed.
            config: of the optimizer and the loss; the learning rate is an argument of `update`.
            device: the CPU or GPU on which steps run.
            precision: of the forward and backward passes; weights and optimizer stay in fp32.
            budget: initial tokens of a micro-batch, as `batching.split_into_micro_batches` takes it.
        """
        # accelerate keeps the first device for the whole process; the next run of a sweep may ask for another.
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        self.accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
        self.model = self.accelerator.prepare_model(reranker.model)
        self.optimizer = optimizer_of(self.model, config)
        self.reranker, self.data, self.config, self.precision = reranker, data, config, precision
        self.budget = budget
        """Tokens of a micro-batch, halved each time memory runs out."""
        self.lanes, self.is_padded = reranker.lanes(), reranker.is_padded(precision)
        reranker.keep_tokens(data.table, data.template)
        self.failed = torch.zeros((), dtype=torch.float32, device=device)
        """0; 1 from the first step whose loss or gradient is not finite. From that step on no update is applied."""
        self.bad = torch.zeros(2, dtype=torch.float32, device=device)
        """Loss and gradient norm of the first step at which either was not finite, else of the latest step."""
        self.strict = device.type == "cuda"
        """Whether operators without a deterministic kernel are refused."""

    def prepare(self, rows: Indices) -> Step:
        """Compose a step of these rows; may be called on another thread."""
        return prepare(self.reranker, self.data, rows, self.budget, self.lanes, is_padded=self.is_padded)

    def update(self, step: Step, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Do one update at a learning rate, unless the loss or gradient of this or an earlier step is not finite.

        Returns:
            Loss and gradient norm before clipping, 0-d, on the device: reading either waits for the device.

        Raises:
            ResourceError: when a GPU cannot hold the step's longest pair alone.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._backward_within_memory(step)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        # The fused update divides the gradients by grad_scale, which clips them without a separate pass over them.
        self.optimizer.grad_scale = ((norm + 1e-6) / self.config.max_grad_norm).clamp(min=1.0)  # type: ignore[attr-defined]
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        self.bad = torch.where(self.failed > 0, self.bad, torch.stack([loss.float(), norm.float()]))
        # Fused AdamW skips its update on the device while found_inf is set: no bad update, and no host sync to test it.
        self.failed = torch.maximum(self.failed, (~finite).float())
        self.optimizer.found_inf = self.failed  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss, norm

    def _backward_within_memory(self, step: Step) -> torch.Tensor:
        """Compute the gradient of one step and return its loss.

        If the GPU runs out of memory, the budget is halved; if an operator has no deterministic kernel, `strict` is set
        to False. Then the step is repeated from the same state of the random number generators.
        """
        generators = rng_state()
        while True:
            if step.budget != self.budget:  # halved just now, or after this step was composed one step ahead
                again = self.prepare(step.rows)
                step.batches, step.padded, step.budget = again.batches, again.padded, again.budget
            try:
                with repeatable(self.strict):
                    return backward(
                        self.model, step, pos_weight=self.config.pos_weight, precision=self.precision,
                        accelerator=self.accelerator,
                    )  # fmt: skip
            except RuntimeError as error:
                full = out_of_gpu_memory(error)
                if not full:
                    if "does not have a deterministic implementation" not in str(error):
                        raise
                    self.strict = False
                    log.warning("identical runs may differ in their last bits: %s", str(error).split(", but")[0])
            # Only here, outside `except`: the exception keeps the step's activations alive.
            self.optimizer.zero_grad(set_to_none=True)
            if full:
                self._halve(step)
            set_rng_state(generators)

    def _halve(self, step: Step) -> None:
        torch.cuda.empty_cache()
        first, second = self.data.first[step.rows], self.data.second[step.rows]
        longest = int(self.data.table.pair_lengths(self.data.template, first, second).max())
        self.budget = halved(self.budget, longest)
        log.warning("out of GPU memory: runtime.micro_batch_tokens halved to %d", self.budget)


def optimizer_of(model: torch.nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return a fused AdamW that, like the reference trainer, does not decay biases and norms (chosen by name)."""
    names = set(get_parameter_names(model, [torch.nn.LayerNorm], NOT_DECAYED))
    decayed: list[torch.nn.Parameter] = []
    exempt: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (decayed if name in names else exempt).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]
    betas = (config.adam_beta1, config.adam_beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.adam_epsilon, fused=True)
