"""Weights cast together give what autocast gives, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from packed_models import bert, gradients, modernbert, random_pairs, template
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.config.learning import Precision
from pipeline.engine import modeling
from pipeline.inputs import collation

MODELS: dict[str, Callable[[], Any]] = {"bert": bert, "modernbert": modernbert}


def batches() -> list[dict[str, torch.Tensor]]:
    return [collation.pack(table, template(), *pairs) for table, *pairs in (random_pairs(16), random_pairs(9))]


class Casts(TorchDispatchMode):
    """Counts casts that autocast makes."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", [Precision.bf16, Precision.fp32])
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients_are_autocasts_to_the_bit(name: str, precision: Precision) -> None:
    model = MODELS[name]()
    modeling.keep_head_in_fp32(model)
    logits = modeling.while_unchanged(model, precision)
    for batch in batches():
        expected = modeling.logits(model, batch, precision)
        wanted = gradients(model, expected)
        found = logits(batch)
        assert torch.equal(found, expected)
        ours = gradients(model, found)
        assert ours.keys() == wanted.keys() == {key for key, _ in model.named_parameters()}
        assert all(torch.equal(ours[key], wanted[key]) and ours[key].dtype is torch.float32 for key in wanted)


def test_gradients_of_micro_batches_add_up_in_fp32() -> None:
    model = modernbert()
    logits, one_by_one = modeling.while_unchanged(model, Precision.bf16), dict[str, torch.Tensor]()
    for batch in batches():
        for key, grad in gradients(model, modeling.logits(model, batch, Precision.bf16)).items():
            one_by_one[key] = one_by_one[key] + grad if key in one_by_one else grad
    model.zero_grad()
    for batch in batches():
        found = logits(batch)
        (found * torch.linspace(-1, 1, len(found))).sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.equal(parameter.grad, one_by_one[key])


def test_no_batch_casts_a_weight_and_the_model_keeps_its_own() -> None:
    model = modernbert().eval()
    weight = model.model.layers[1].mlp.Wi.weight
    with torch.no_grad():
        logits = modeling.while_unchanged(model, Precision.bf16)
        with Casts() as ours:
            found = [logits(batch) for batch in batches()]
        with Casts() as theirs:
            expected = [modeling.logits(model, batch, Precision.bf16) for batch in batches()]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert theirs.count - ours.count == 2 * sum(len(list(linear.parameters())) for linear in linears)
    assert model.model.layers[1].mlp.Wi.weight is weight and weight.dtype is torch.float32
